"""A study that is created without trials, and workers that are started by hand."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from attnsearch.cli import main
from attnsearch.cli._options import parse_duration
from attnsearch.config.yaml_layers import to_yaml
from attnsearch.errors import ConfigError
from attnsearch.results.reader import load_study
from attnsearch.store.evaluation_log import read_test_evaluations
from tests.search.studies import EXPERIMENT, SPACE

Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("45m", 2700), ("45min", 2700), ("3h50m", 13_800), ("1d2h", 93_600)]
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "-5", "1.5h", "50m3h", "3 h", "soon", "9" * 99 + "x"])
def test_other_texts_are_no_times(text: str) -> None:
    with pytest.raises(ConfigError, match="a time is written as 3h50m"):
        parse_duration(text)


@pytest.fixture
def study(tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch, heeded_interrupts: None) -> Path:
    """The file of a study of two trials."""
    monkeypatch.chdir(tmp_path)
    base = {**EXPERIMENT, "runtime": {"device": "cpu", "n_threads": 1}}
    path = tmp_path / "hunt.yaml"
    path.write_text(to_yaml({"name": "hunt", "base": base, "space": SPACE, "n_trials": 2, "lease_s": 5}))
    return path


def create(study: Path, capsys: Captured) -> list[str]:
    """Creates the study; the words of the command that it names."""
    assert main(["search", str(study), "--create-only", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["study"] == "hunt"
    program, *words = shlex.split(said["worker"])
    assert program == "attnsearch"
    return words


def test_the_command_that_a_created_study_names_runs_it_to_its_publication(study: Path, capsys: Captured) -> None:
    words = create(study, capsys)
    reader = load_study("results/here/hunt")
    assert reader.rows.trials == ()
    assert main(words) == 0
    assert [trial.state for trial in load_study("results/here/hunt").rows.trials] == ["complete"] * 2
    assert reader.layout.published_json.is_file()
    assert main(words) == 0  # nothing is left to do, and nothing is evaluated again
    assert len(read_test_evaluations(reader.layout)) == 1


@pytest.mark.parametrize("others", [["--join"], ["--dry-run"], ["--join", "--dry-run"]])
def test_a_search_does_one_thing_at_a_time(study: Path, capsys: Captured, others: list[str]) -> None:
    assert main(["search", str(study), "--create-only", *others]) == 2
    assert "--create-only, --join and --dry-run exclude each other" in capsys.readouterr().err
    assert not Path("results").exists()


def test_a_worker_takes_no_settings_but_those_of_its_machine(study: Path, capsys: Captured) -> None:
    words = create(study, capsys)
    assert main([*words, "train.epochs=9"]) == 2
    assert "train.epochs=9: all workers of a study share its settings" in capsys.readouterr().err
    assert main([*words, "runtime.device=cuda:99"]) == 2
    assert "cuda:99" in capsys.readouterr().err


def test_a_worker_of_no_study_is_told_which_there_are(study: Path, capsys: Captured) -> None:
    create(study, capsys)
    assert main(["worker", "hund"]) == 2
    assert "did you mean 'hunt'" in capsys.readouterr().err


def test_a_machine_joins_with_the_settings_that_the_study_was_begun_with(study: Path, capsys: Captured) -> None:
    assert main(["search", str(study), "--join"]) == 2
    assert "no study was begun there; leave --join out" in capsys.readouterr().err
    create(study, capsys)
    assert main(["search", str(study), "n_trials=3", "--join"]) == 2
    assert "study.n_trials: was 2, is 3" in capsys.readouterr().err
    assert main(["search", str(study), "runtime.n_threads=2", "--workers", "1", "--join"]) == 0
    assert [trial.state for trial in load_study("results/here/hunt").rows.trials] == ["complete"] * 2
