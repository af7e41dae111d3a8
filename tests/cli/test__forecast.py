"""What a dry run prints."""

from __future__ import annotations

import json

from attnsearch.cli._forecast import forecast_lines, forecast_values
from attnsearch.results.forecast import StudyOutlook
from attnsearch.results.progress import StudyProgress
from attnsearch.search.costs import Cost, StudyForecast, Trials, forecast_of
from tests.search.studies import HALVING, loaded_study
from tests.search.test_costs import trial_cost

REST = StudyOutlook(StudyProgress("hunt", "val/accuracy", (), 4), 3, 1, 10.0, 0.0, 40.0, correction=1.25)


def found(**study: object) -> StudyForecast:
    trial = trial_cost()
    return forecast_of(loaded_study(**study), Trials((trial,), trial, trial), Cost(6, 6), n_workers=2)


def test_totals_are_lines_for_people() -> None:
    lines = "\n".join(forecast_lines(found(n_trials=4), None))
    assert "trial      25 s, 12 s of processor time on average" in lines
    assert "study      62 s, 61 s of processor time; early stopping" in lines  # 6 + 2 x 1 + 2 x 25 + 4
    assert "up to 1 KB for each worker\n" in lines
    assert "so far" not in lines


def test_saving_of_halving_is_said() -> None:
    assert "of processor time without halving" in forecast_lines(found(n_trials=4, **HALVING), None)[1]


def test_trials_of_the_study_correct_what_is_said() -> None:
    assert "an epoch has taken 1.25 times what this dry run measured" in forecast_lines(found(), REST)[-1]


def test_values_for_machines_are_plain_numbers() -> None:
    values = json.loads(json.dumps(forecast_values(found(n_trials=4), REST)))
    assert values["total"] == {"seconds": 62.0, "processor_seconds": 61.0}
    assert values["draws"][0]["bytes"]["weights"] == 100
    assert values["so_far"]["correction"] == 1.25
    assert "so_far" not in forecast_values(found(), None)
