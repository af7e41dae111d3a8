"""Whole searches through the command line, in processes of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from attnsearch.cli import main
from tests.conftest import TINY
from tests.documents import ROOT, blocks, run_example, undocumented

pytestmark = pytest.mark.slow

STUDY = ("br_npa_low_res", "--profile", "demo", *TINY)


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "attnsearch", *words]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words), cwd=cwd, env=environment(), capture_output=True, text=True, check=False, timeout=300
    )


def trials(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    capsys.readouterr()
    assert main(["show", "demo/br_npa_low_res", "--results", str(folder / "results"), "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a search of two trials has run; its output is in out.txt and err.txt."""
    folder = tmp_path_factory.mktemp("searched")
    done = run("search", *STUDY, "n_trials=2", "--workers", "2", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "out.txt").write_text(done.stdout)
    (folder / "err.txt").write_text(done.stderr)
    return folder


def test_search_ends_with_its_best_trial_and_where_to_look(searched: Path) -> None:
    out = (searched / "out.txt").read_text()
    assert re.search(r"^study br_npa_low_res: finished; trials: 2 complete$", out, re.MULTILINE)
    assert re.search(r"best +trial \d, epoch \d$", out, re.MULTILINE)
    assert re.search(r"accuracy +[\d.]+ \([\d.]+ to [\d.]+\), test [\d.]+; chance 0\.5", out)
    assert re.search(r"energy in mask +[\d.]+ .*; flat map [\d.]+, untrained [\d.]+", out)
    (scores,) = re.findall(r"published +(results/demo/modelbr_npa_low_res_epoch\d_test.csv)$", out, re.MULTILINE)
    assert (searched / scores).is_file()
    assert re.search(r"dashboard +.*attnsearch dashboard results/demo$", out, re.MULTILINE)
    assert f"optuna-dashboard sqlite:///{searched}/results/demo/hypSearch.db --artifact-dir" in out
    assert re.search(r"time +\d+ s, \d+ s of processor time$", out, re.MULTILINE)


def test_search_without_a_terminal_logs_lines(searched: Path) -> None:
    err = (searched / "err.txt").read_text()
    assert re.search(r"INFO trial \d complete, epoch 2/2, best val/accuracy [\d.]+, .*2 of 2 trials done$", err, re.M)
    assert "Traceback" not in err


def test_finished_search_starts_nothing_and_says_the_same(searched: Path) -> None:
    done = run("search", *STUDY, "n_trials=2", "--json", cwd=searched)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    values = json.loads(line)
    assert values["outcome"] == "finished"
    assert values["trials"] == {"complete": 2}
    assert values["processor_seconds"] > 0
    (best,) = values["best"]
    assert f"trial {best['trial']}, epoch {best['best_epoch']}" in (searched / "out.txt").read_text()


def test_show_and_list_tell_what_the_search_found(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = trials(searched, capsys)
    assert [(row["number"], row["state"], row["epochs_run"]) for row in rows] == [
        (0, "complete", 2),
        (1, "complete", 2),
    ]
    assert main(["show", "br_npa_low_res", "--results", str(searched / "results")]) == 0
    assert "val/accuracy" in capsys.readouterr().out
    assert main(["list", "--results", str(searched / "results"), "--json"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["study"], last["state"], last["trials"]) == ("br_npa_low_res", "finished", "2/2")


def test_evaluate_repeats_the_value_of_the_best_epoch(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = trials(searched, capsys)[1]
    words = ["evaluate", "br_npa_low_res", "--trial", "1", "--results", str(searched / "results"), "--json"]
    assert main(words) == 0
    scores = json.loads(capsys.readouterr().out)
    assert [scores["val/accuracy"]] == row["values"]


def test_evaluate_on_test_is_noted(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    looks = searched / "results/demo/br_npa_low_res/test_evaluations.csv"
    before = len(looks.read_text().splitlines())
    words = ["evaluate", "br_npa_low_res", "--trial", "0", "--split", "test", "--results", str(searched / "results")]
    assert main(words) == 0
    assert "test/accuracy" in capsys.readouterr().out
    assert len(looks.read_text().splitlines()) == before + 1


def test_unknown_trial_has_no_checkpoint(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "br_npa_low_res", "--trial", "9", "--results", str(searched / "results")]) == 2
    assert "trial 9" in capsys.readouterr().err


def test_files_of_a_search_are_documented_and_its_database_opens(searched: Path) -> None:
    page = ROOT / "results/README.md"
    assert undocumented(searched / "results/demo", "br_npa_low_res", page) == []
    examples = [code for code in blocks(page, "python") if "hypSearch.db" in code]
    assert len(examples) == 2
    for code in examples:
        run_example(code, searched / "results", "demo")


def test_the_example_of_the_python_api_reads_a_search(searched: Path) -> None:
    (example,) = [code for code in blocks(ROOT / "docs/guide/python.md", "python") if "at.load_results" in code]
    checks = """
assert trial.number == study.best.number
assert 0 < len(e.top(5)) <= 5
assert e.saliency.shape == e.maps["vector_1"].shape
"""
    run_example(example + checks, searched / "results", "demo")


def test_other_settings_under_the_same_name_are_refused(searched: Path) -> None:
    done = run("search", *STUDY, "train.epochs=3", cwd=searched)
    assert done.returncode == 2
    assert "train.epochs: was 2, is 3" in done.stderr


def test_trial_is_repeated_from_its_config(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial = searched / "results/demo/br_npa_low_res/trials/00001"
    words = ["train", str(trial / "config.yaml"), "name=again", "--results", str(searched / "results"), "--json"]
    assert main(words) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert [metrics["val/accuracy"]] == trials(searched, capsys)[1]["values"]


def test_files_are_pruned_after_a_preview(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = searched / "results/demo/br_npa_low_res"
    best = next(row["number"] for row in trials(searched, capsys) if row["best"])
    config = study / "study.yaml"
    config.write_text(config.read_text().replace("best_k: 5", "best_k: 1"))
    words = ["prune-files", "br_npa_low_res", "--results", str(searched / "results")]
    assert main(words) == 0
    assert "best.safetensors" in capsys.readouterr().out
    assert len(list(study.rglob("best.safetensors"))) == 2
    assert main([*words, "--yes"]) == 0
    assert [path.parent.name for path in study.rglob("best.safetensors")] == [f"{best:05d}"]


def test_experiment_is_exported(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = searched / "copy.tar.gz"
    assert main(["export", "demo", "--to", str(target), "--results", str(searched / "results")]) == 0
    assert str(target) in capsys.readouterr().out
    assert target.stat().st_size > 0


def test_interrupted_search_goes_on_under_the_same_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("search", *STUDY, "n_trials=1", "train.epochs=40", "--workers", "1")
    with subprocess.Popen(
        command(*words), cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        seen = [line for line in iter(process.stderr.readline, "") if _is_past_first_epoch(line, process)]
        assert process.wait(timeout=120) == 130
    assert any("stopping: running trials return to the queue" in line for line in seen)
    (row,) = trials(tmp_path, capsys)
    assert (row["number"], row["state"]) == (0, "waiting")

    done = run(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (row,) = trials(tmp_path, capsys)
    assert (row["number"], row["state"], row["epochs_run"]) == (0, "complete", 40)
    log = (tmp_path / "results/demo/br_npa_low_res/trials/00000/log.txt").read_text()
    assert re.search(r"resumes after epoch \d+", log)


def _is_past_first_epoch(line: str, process: subprocess.Popen[str]) -> bool:
    """Sends Ctrl-C with the first line that tells of an epoch; true from then on."""
    if re.search(r"running, epoch [1-9]", line) and not getattr(process, "was_stopped", False):
        process.was_stopped = True  # type: ignore[attr-defined]
        process.send_signal(signal.SIGINT)
    return getattr(process, "was_stopped", False)
