"""The command line in this process: what a mistake costs, and what looking shows."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from attnsearch import __version__
from attnsearch.cli import app, main
from attnsearch.config.yaml_reader import list_names
from attnsearch.errors import StoreError
from attnsearch.search.handle import only_runner
from attnsearch.store.layout import StudyLayout
from tests.conftest import TINY

STUDY = """\
name: reversed
base: cnn
space:
  model.dropout:
    kind: float
    low: 0.6
    high: 0.1
"""
MISSPELLED = """\
name: wrong
base: cnn
n_trails: 3
space:
  train.optimzer.lr: {kind: float, low: 1e-3, high: 1e-2}
"""


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reversed.yaml").write_text(STUDY)
    (tmp_path / "wrong.yaml").write_text(MISSPELLED)
    (tmp_path / "broken.yaml").write_text("name: x\nname: y\n")
    return tmp_path


MISTAKES = {
    "unknown study": ("search xyzzy", ["'xyzzy'", f"known: {', '.join(list_names('studies'))}"]),
    "near name": ("search br_npa_lowres", ["did you mean 'br_npa_low_res'?"]),
    "unknown config": ("train xyzzy", ["'xyzzy'", f"known: {', '.join(list_names('configs'))}"]),
    "unknown profile": ("search cnn --profile demmo", ["'demmo'", "did you mean 'demo'?"]),
    "unknown verb": ("serch cnn", ["'serch'", "'search'"]),
    "unknown option": ("search cnn --demo", ["--demo"]),
    "no name": ("search", ["Missing argument"]),
    "no file": ("search studies/nope.yaml", ["studies/nope.yaml", "no such file"]),
    "no workers": ("search cnn --workers 0", ["--workers", "at least 1", "got '0'"]),
    "words for workers": ("search cnn --workers two", ["--workers", "'two'"]),
    "no equals sign": ("search cnn n_trials", ["key=value", "'n_trials'"]),
    "misspelled key": ("search cnn train.epocs=3", ["train.epocs", "did you mean 'epochs'?", "got 3"]),
    "wrong type": ("train cnn train.epochs=many", ["train.epochs", "whole number", "'many'"]),
    "out of range": ("train cnn train.optimizer.lr=-1", ["train.optimizer.lr", "greater than 0", "got -1"]),
    "name with ..": ("search cnn name=../x", ["name", "'../x'"]),
    "unknown model": ("train cnn model.name=resnet", ["'resnet'", "known: cnn, b_cnn"]),
    "range reversed": ("search reversed.yaml", ["reversed.yaml:4", "model.dropout", "0.6 > 0.1"]),
    "duplicate key": ("search broken.yaml", ["broken.yaml:2", "duplicate key"]),
    "misspelled key of a study": ("search wrong.yaml", ["wrong.yaml:3", "n_trails", "did you mean 'n_trials'?"]),
    "missing data": ("search cnn data.root=/no/such/folder", ["data.root", "/no/such/folder", "does not exist"]),
    "photos without data": ("search cnn --profile photos", ["missing; write data.root="]),
    "unknown split": ("evaluate cnn --split tst", ["'--split': 'tst' is not one of"]),
    "unknown result": ("show nope", ["'nope'", "known: none", "no folder", "--results DIR"]),
    "unknown experiment": ("export nope", ["'nope'", "known: none", "no folder"]),
    "other database": ("search cnn --profile demo storage=mysql://me:secret@host/x", ["storage", "***:***@host"]),
    "missing folder to check": ("data check /no/such/folder", ["data.root", "/no/such/folder"]),
    "key without its block": ("data make birds n_classes=4", ["n_classes: is not a key here; write data.n_classes"]),
    "key of a model": (
        "search br_npa_low_res n_vectors=2",
        ["n_vectors: is not a key", "; write model.n_vectors, got 2"],
    ),
    "too few species": ("data make birds data.n_classes=1", ["data.n_classes", "got 1"]),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistake_costs_one_line_and_code_2(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, fragments = MISTAKES[case]
    assert main(words.split()) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert [line for line in shown.err.splitlines() if not line.startswith(("error: ", "checking "))] == []
    for fragment in fragments:
        assert fragment in shown.err
    assert "secret" not in shown.err


def test_several_faults_are_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "cnn", "train.epochs=0", "train.batch_size=1", "model.dropout=2"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_mistakes_leave_nothing_behind(empty_folder: Path) -> None:
    before = sorted(empty_folder.rglob("*"))
    for words, _ in MISTAKES.values():
        main(words.split())
    assert sorted(empty_folder.rglob("*")) == before


def test_disk_and_database_faults_have_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("attnsearch.config.load.load_study", _raise(StoreError("/data: no space left; free some")))
    assert main(["search", "cnn"]) == 1
    assert capsys.readouterr().err == "error: /data: no space left; free some\n"


def test_unexpected_error_is_one_line_and_its_traceback_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("attnsearch.config.load.load_study", _raise(ZeroDivisionError("17 / 0")))
    assert main(["search", "cnn"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: unexpected ZeroDivisionError: 17 / 0;")
    log = Path(re.findall(r"\S+\.log", line)[0])
    assert "Traceback" in log.read_text()
    log.unlink()


def test_interrupt_has_code_130(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnsearch.config.load.load_study", _raise(KeyboardInterrupt()))
    assert main(["search", "cnn"]) == 130


def _raise(error: BaseException):  # type: ignore[no-untyped-def]
    def fail(*_args: object, **_kwargs: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize("words", [[], ["--help"], ["search", "--help"], ["data", "--help"]])
def test_help_is_no_mistake(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert "Usage: attnsearch" in capsys.readouterr().out


def test_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"attnsearch {__version__}\n"


def test_every_verb_says_what_it_does() -> None:
    assert app.app.registered_commands
    for command in app.app.registered_commands:
        assert command.callback is not None
        assert (command.callback.__doc__ or "").strip()


def test_list_names_what_can_be_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert ("br_npa_low_res", "study") in [(row["name"], row["kind"]) for row in rows]
    assert ("demo", "profile") in [(row["name"], row["kind"]) for row in rows]


def test_validate_checks_everything_and_writes_nothing(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(empty_folder.rglob("*"))
    assert main(["validate", "br_npa_low_res", "--profile", "demo", *TINY]) == 0
    assert "2 classes, 16 train, 8 val, 8 test images" in capsys.readouterr().out
    assert sorted(empty_folder.rglob("*")) == before


def test_validate_tells_a_config_from_a_study(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (empty_folder / "run.yaml").write_text(
        "name: run\ndata: {name: synthetic}\nmodel: {name: cnn, backbone: resnet10t}\n"
    )
    assert main(["validate", "run.yaml", *(pair for pair in TINY if pair.startswith("data."))]) == 0
    assert "run.yaml is valid: 2 classes" in capsys.readouterr().out


def test_data_is_made_and_checked(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "make", "birds", *(pair for pair in TINY if pair.startswith("data."))]) == 0
    assert main(["data", "check", "birds", "data.image_size_px=32"]) == 0
    assert "every image can be used" in capsys.readouterr().out
    assert main(["data", "check", "birds", "data.image_size_px=320"]) == 0
    card = capsys.readouterr().out.splitlines()
    assert card[1].split() == ["train", "16", "2", *("species_2", "8"), *("species_1", "8"), *("48", "px")]
    assert any(line.split()[:4] == ["enlarged", "all", "at", "320"] for line in card)
    broken = next((empty_folder / "birds/train").rglob("*.jpg"))
    broken.write_bytes(b"no picture")
    assert main(["data", "check", "birds", "data.image_size_px=32"]) == 2
    assert broken.name in capsys.readouterr().err


def test_train_again_changes_nothing(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = finished_run / "demo/br_npa_low_res/trials/00000/best.safetensors"
    before = kept.read_bytes()
    words = ["train", "br_npa_low_res", "--profile", "demo", *TINY, "--results", str(finished_run), "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["epochs_run"] == 2
    assert kept.read_bytes() == before


def test_train_lists_metrics_as_they_are_measured_and_the_terms_of_the_loss_last(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "br_npa_low_res", "--profile", "demo", *TINY, "--results", str(finished_run)]) == 0
    line, *_ = capsys.readouterr().out.splitlines()
    names = [item.split()[0].removeprefix("val/") for item in line.split(": ")[2].split(", ")]
    assert names[:4] == ["loss", "cross_entropy", "accuracy", "sparsity"]
    assert names.index("relevance_gain") < names.index("gini") < names.index("loss_cross_entropy") == len(names) - 1


def test_training_is_shown_as_a_study_of_one_trial(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "br_npa_low_res", "--results", str(finished_run), "--json"]) == 0
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (row["number"], row["state"], row["epochs_run"], row["params"]) == (0, "complete", 2, {})


def test_a_run_is_evaluated_by_its_name(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "br_npa_low_res", "--results", str(finished_run), "--json"]) == 0
    assert "accuracy" in capsys.readouterr().out


def test_study_of_two_experiments_is_named_with_one(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(finished_run / "demo", finished_run / "other")
    assert main(["faithfulness", "br_npa_low_res", "--results", str(finished_run)]) == 2
    assert "exists in several experiments, write one of: " in capsys.readouterr().err
    shutil.rmtree(finished_run / "other")


def test_train_refuses_another_setting_under_the_same_name(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "br_npa_low_res", "--profile", "demo", *TINY, "train.epochs=3", "--results", str(finished_run)]
    assert main(words) == 2
    first, _, *lines = capsys.readouterr().err.splitlines()
    assert first == "checking br_npa_low_res, data synthetic"
    assert lines[0].startswith(f"error: {finished_run / 'demo/br_npa_low_res/trials/00000/config.yaml'}: this training")
    assert lines[1] == "  train.epochs: was 2, is 3"


def test_train_refuses_a_run_that_another_process_trains(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "br_npa_low_res", "--profile", "demo", *TINY, "--results", str(finished_run)]
    with only_runner(StudyLayout(finished_run, "demo", "br_npa_low_res")):
        assert main(words) == 1
    assert "demo/br_npa_low_res: another process runs this study" in capsys.readouterr().err
