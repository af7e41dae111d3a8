"""What optuna-dashboard is shown: notes, attributes, steps."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from attnsearch.results.dashboard import MAX_NOTES, DashboardStorage, noted, readable
from attnsearch.store.layout import ExperimentLayout


@pytest.mark.parametrize(("is_minimized", "best"), [(True, 0), (False, 299)])
def test_of_many_trials_the_best_and_the_newest_have_notes(is_minimized: bool, best: int) -> None:
    """Values climb up to trial 299 and are in the middle afterwards, so that nothing but rank or age counts."""
    values = [float(number) if number < 300 else 150.0 for number in range(500)]
    trials = [optuna.trial.create_trial(value=value) for value in values]
    for number, trial in enumerate(trials):
        trial.number = number
    numbers = {trial.number for trial in noted(trials, is_minimized=is_minimized)}
    assert len(numbers) == 2 * MAX_NOTES
    assert {best, 400, 499} <= numbers
    assert 150 not in numbers
    assert noted(trials[:200], is_minimized=is_minimized) == trials[:200]


def test_attributes_of_the_package_are_hidden_and_times_can_be_read() -> None:
    shown = readable({"attnsearch_uuid": "x", "scores": {}, "ended_at": 1795428606.3, "val/accuracy": 0.9})
    assert shown == {"val/accuracy": 0.9, "ended": "2026-11-23 10:10:06 UTC"}


def test_steps_are_epochs_and_the_storage_stays_as_it_is(tmp_path: Path) -> None:
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    trial.report(0.5, step=0)
    trial.set_user_attr("scores", {"long": 1})
    (shown,) = DashboardStorage(storage, ExperimentLayout(tmp_path, "demo")).get_all_trials(study._study_id)
    assert shown.intermediate_values == {1: 0.5}
    assert shown.user_attrs == {}
    assert study.trials[0].intermediate_values == {0: 0.5}
    assert study.trials[0].user_attrs == {"scores": {"long": 1}}
