"""How far a search has come after each trial."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import optuna
import pytest

from attnsearch.errors import StoreError
from attnsearch.search.history import N_BOUNDING, freeze_bounds, history_of
from attnsearch.search.study import BOUNDS
from attnsearch.search.trials import StudyRows, TrialRow, rows_of

TWO = {"val/accuracy": "maximize", "val/sparsity": "minimize"}
START = datetime(2026, 1, 1)


def row(number: int, *values: float, ended: int | None = None, **changed: Any) -> TrialRow:
    """A complete trial that ended after so many minutes."""
    cells: dict[str, Any] = {"state": "complete", "params": {}, "metrics": {}, "best_epoch": 1, "epochs_run": 1}
    cells |= {"seconds": 1.0, "images_per_s": 1.0, "is_feasible": True, "error": None, "started": START}
    cells["ended"] = START + timedelta(minutes=number if ended is None else ended)
    return TrialRow(number=number, values=values, **cells | changed)


def rows(objectives: dict[str, str], *trials: TrialRow, **more: Any) -> StudyRows:
    return StudyRows("hunt", "uuid", objectives, trials, (), **more)


def test_best_so_far_follows_the_order_in_which_trials_ended() -> None:
    trials = [row(0, 0.4, ended=9), row(1, 0.3, ended=1), row(2, 0.9, ended=5, is_feasible=False), row(3, 0.2)]
    trials.append(row(4, state="fail"))
    history = history_of(rows({"val/accuracy": "maximize"}, *trials))
    assert history is not None
    assert (history.trials, history.values) == ((1, 3, 2, 0), (0.3, 0.3, 0.3, 0.4))
    lower = history_of(rows({"val/loss": "minimize"}, *trials))
    assert lower is not None
    assert lower.values == (0.3, 0.2, 0.2, 0.2)


def test_nothing_is_said_before_a_feasible_trial() -> None:
    assert history_of(rows(TWO, row(0, 0.5, 0.5, is_feasible=False), row(1, state="running"))) is None


def test_volume_in_units_of_the_first_trials() -> None:
    """Accuracy .2 to .8 and sparsity .6 to .1: trial 1 covers a half in each, trial 2 adds its strip to the left."""
    trials = [row(0, 0.2, 0.6), row(1, 0.5, 0.35), row(2, 0.8, 0.475), row(3, 0.3, 0.1)]
    history = history_of(rows(TWO, *trials))
    assert history is not None
    assert (history.measure, history.n_bounding) == ("hypervolume", 4)
    # In units of the bounds the points are (0, 0), (.5, .5), (1, .25) and (1/6, 1).
    assert history.values == pytest.approx((0.0, 0.25, 0.25 + 0.5 * 0.25, 0.375 + 0.5 / 6))


def test_an_objective_in_which_the_first_trials_are_equal_leaves_it_to_the_others() -> None:
    trials = [row(0, 0.2, 0.5), row(1, 0.5, 0.5), row(2, 0.35, 0.5), row(3, 0.5, 0.4)]
    bounds = ((0.2, 0.5), (0.5, 0.5))
    history = history_of(rows(TWO, *trials, bounds=bounds))
    assert history is not None
    assert history.values == pytest.approx((0.0, 1.0, 1.0, 1.1))  # the last is sparser, by .1 in its own unit


def test_bounds_are_frozen_once_and_used_from_then_on() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.set_metric_names(list(TWO))
    rng = np.random.default_rng(1)
    for number in range(N_BOUNDING + 3):
        freeze_bounds(study, "sqlite:///here.db")
        assert (BOUNDS in study.user_attrs) == (number >= N_BOUNDING)
        study.add_trial(optuna.create_trial(values=rng.random(2).tolist()))
    values = np.array([trial.values for trial in study.trials[:N_BOUNDING]])
    (accuracy, sparsity) = study.user_attrs[BOUNDS]
    assert tuple(accuracy) == (values[:, 0].min(), values[:, 0].max())
    assert tuple(sparsity) == (values[:, 1].max(), values[:, 1].min())
    read = rows_of(study, "sqlite:///here.db")
    assert read.bounds == ((accuracy[0], accuracy[1]), (sparsity[0], sparsity[1]))
    history = history_of(read)
    assert history is not None
    assert history.n_bounding == N_BOUNDING
    assert (np.diff(history.values) >= 0).all()
    study.set_user_attr(BOUNDS, [[0.0, 1.0]])
    with pytest.raises(StoreError, match="two finite numbers for each objective"):
        rows_of(study, "sqlite:///here.db")
