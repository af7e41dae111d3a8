"""What `show` prints of a study with several objectives, and of one whose trials pause."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from attnsearch.cli.list import list_all
from attnsearch.cli.show import print_front, print_importances, show
from attnsearch.search.trials import StudyRows, TrialRow
from tests.search.studies import build_halving


def row(number: int, *values: float, **metrics: float) -> TrialRow:
    return TrialRow(
        number=number, state="complete", values=values, params={"train.optimizer.lr": 0.01 * number},
        metrics={f"val/{name}": value for name, value in metrics.items()}, best_epoch=1, epochs_run=1, seconds=1.0,
        images_per_s=1.0, is_feasible=True, error=None, started=None, ended=None,
    )  # fmt: skip


OBJECTIVES = {"val/accuracy": "maximize", "val/relevance_gain": "maximize"}


def test_front_shows_raw_areas_beside_those_of_a_random_order(capsys: pytest.CaptureFixture[str]) -> None:
    trials = (
        row(1, 0.5, 0.25, deletion=0.31, insertion=0.62, random_deletion=0.44, masked_score=0.125),
        row(2, 0.75, 0.125, deletion=0.32, insertion=0.63, random_deletion=0.45, masked_score=0.135),
        row(3, 0.1, 0.1),
    )
    print_front(
        StudyRows("hunt", "uuid", OBJECTIVES, trials, (1, 2)),
        (trials[1], trials[0]),
        {2: {"val/relevance_gain": 0.0125}},
    )
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert " ".join(lines[0]) == "Pareto front of hunt: 2 trials"
    assert lines[1] == [
        *("trial", "val/accuracy", "val/relevance_gain"),
        *("deletion", "insertion", "random_deletion", "masked_score", "lr"),
    ]
    assert lines[3] == ["2", "0.75", "0.125", "±", "0.013", "0.32", "0.63", "0.45", "0.135", "0.02"]
    assert lines[4][0] == "1"


def test_a_front_of_one_trial_is_called_so(capsys: pytest.CaptureFixture[str]) -> None:
    print_front(StudyRows("hunt", "uuid", OBJECTIVES, (row(1, 0.5, 0.25),), (1,)), (row(1, 0.5, 0.25),), {})
    assert "Pareto front of hunt: 1 trial\n" in re.sub(" +\n", "\n", capsys.readouterr().out)


def test_importances_are_a_row_per_objective(capsys: pytest.CaptureFixture[str]) -> None:
    print_importances(
        {"val/accuracy": {"train.optimizer.lr": 0.875}, "val/relevance_gain": {"train.optimizer.lr": 0.0625}}
    )
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[-2:] == [["val/accuracy", "0.875"], ["val/relevance_gain", "0.0625"]]
    print_importances({})
    assert capsys.readouterr().out == ""


def test_paused_trials_are_shown_with_their_place_and_the_rungs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_halving(tmp_path, (0.5, 0.75, 0.25))
    show("hunt", tmp_path)
    text = capsys.readouterr().out
    assert ["0", "paused", "0.5"] in [line.split()[:3] for line in text.splitlines()]
    assert "trial 2: paused at epoch 1, rung 1, place 3 of 3\n" in text
    assert "bracket 1: 3 of 4 started; rung 1 at epoch 1: 3 of 4 in, 1 of 2 continue; 0 of 2 complete\n" in text
    assert "leading: trial 1 with val/accuracy 0.75 after 1 of 2 epochs" in text
    show("hunt", tmp_path, as_json=True)
    first = json.loads(capsys.readouterr().out.splitlines()[0])
    assert (first["state"], first["values"]) == ("paused", [0.5])
    assert first["standing"] == {"bracket": 1, "rung": 1, "epoch": 1, "place": 2, "n_reached": 3}
    list_all(tmp_path, as_json=True)
    (study,) = [row for row in map(json.loads, capsys.readouterr().out.splitlines()) if "study" in row]
    assert (study["trials"], study["paused"], study["failed"]) == ("0/8", "3", "0")
