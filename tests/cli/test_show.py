"""What `show` prints of a study with several objectives."""

from __future__ import annotations

import re

import pytest

from attnsearch.cli.show import print_front, print_importances
from attnsearch.search.trials import StudyRows, TrialRow


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
