"""When a search ends for want of improvement, and what is said about a longer one."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from attnsearch.config.study import StudyConfig
from attnsearch.errors import StoreError
from attnsearch.search.context import Worker
from attnsearch.search.handle import StudyHandle
from attnsearch.search.launchers.local import WorkerPool
from attnsearch.search.patience import (
    MIN_TRIALS,
    expected_best,
    has_ended_early,
    is_failing,
    is_out_of_patience,
    next_gain,
    outlook_of,
    why_stopped,
)
from attnsearch.search.queue import claim_next
from attnsearch.search.run import supervise
from attnsearch.search.study import ENDED_AT, STOPPED
from attnsearch.search.trials import read_study, rows_of
from tests.search.test_history import TWO, row, rows

Open = Callable[..., StudyHandle]
ONE = {"val/accuracy": "maximize"}


def config(patience: int | None) -> StudyConfig:
    return StudyConfig(name="hunt", base="cnn", patience=patience)


def study_with(*values: float) -> optuna.Study:
    study = optuna.create_study(direction="maximize")
    study.set_metric_names(list(ONE))
    study.add_trials([optuna.create_trial(values=[value]) for value in values])
    return study


@pytest.mark.parametrize(("patience", "ends"), [(2, True), (3, True), (4, False)])
def test_equal_worse_pruned_and_infeasible_trials_improve_nothing(patience: int, ends: bool) -> None:
    """Trial 1 ends last but one of the five, so three trials in the order of ending come after the best one."""
    trials = [row(0, 0.5), row(1, 0.7), row(2, 0.7), row(3, state="pruned"), row(4, 0.9, is_feasible=False)]
    reason = why_stopped(rows(ONE, *trials, row(5, state="fail"), row(6, state="running")), patience)
    assert (reason is not None) == ends
    if reason is not None:
        assert reason == "3 trials in a row did not improve the best val/accuracy 0.7 of trial 1"


def test_order_is_that_in_which_trials_ended() -> None:
    trials = [row(0, 0.9, ended=9), row(1, 0.5, ended=1), row(2, 0.4, ended=2)]
    assert why_stopped(rows(ONE, *trials), 1) is None
    assert why_stopped(rows({"val/loss": "minimize"}, *trials), 1) == (
        "1 trial in a row did not improve the best val/loss 0.4 of trial 2"
    )


def test_volume_must_grow_by_more_than_half_a_percent() -> None:
    bounds = ((0.0, 1.0), (1.0, 0.0))
    trials = [row(0, 0.8, 0.5), row(1, 0.802, 0.5), row(2, 0.5, 0.9)]
    assert why_stopped(rows(TWO, *trials), 1) is None  # the bounds may still change
    assert why_stopped(rows(TWO, *trials, bounds=bounds), 2) == (
        "2 trials in a row did not improve the hypervolume since trial 0 by more than 0.5 %"
    )
    larger = [trials[0], row(1, 0.81, 0.5), trials[2]]
    assert why_stopped(rows(TWO, *larger, bounds=bounds), 2) is None


def test_nothing_ends_before_a_feasible_trial() -> None:
    assert why_stopped(rows(ONE, *[row(number, 0.5, is_feasible=False) for number in range(9)]), 1) is None


def test_reason_is_kept_and_holds_until_there_is_more_patience() -> None:
    study = study_with(0.5, 0.9, 0.1, 0.2)
    assert not is_out_of_patience(study, config(None), "sqlite:///x.db")
    assert not is_out_of_patience(study, config(3), "sqlite:///x.db")
    assert STOPPED not in study.user_attrs
    assert is_out_of_patience(study, config(2), "sqlite:///x.db")
    assert "best val/accuracy 0.9 of trial 1" in study.user_attrs[STOPPED]["reason"]
    study.add_trial(optuna.create_trial(values=[0.95]))  # it was running
    assert is_out_of_patience(study, config(2), "sqlite:///x.db")
    assert has_ended_early(study, config(2))
    assert not has_ended_early(study, config(3))
    assert not has_ended_early(study, config(None))
    assert not is_out_of_patience(study, config(3), "sqlite:///x.db")


def test_trials_that_have_begun_end_first() -> None:
    study = study_with(0.5, 0.1, 0.1)
    assert is_out_of_patience(study, config(2), "sqlite:///x.db")
    study.ask()
    assert not has_ended_early(study, config(2))


def test_damaged_reason_is_named() -> None:
    study = study_with(0.5)
    study.set_user_attr(STOPPED, {"patience": "soon"})
    with pytest.raises(StoreError, match="soon"):
        rows_of(study, "sqlite:///here.db")


def test_workers_start_nothing_new_and_the_search_is_finished(open_tiny: Open, play: Any) -> None:
    handle = open_tiny(n_trials=9, patience=2)
    for value in (0.5, 0.4, 0.3):
        handle.tell(handle.study.ask(), [value], TrialState.COMPLETE)
    running = handle.study.ask()
    handle.store.leases.claim(running.number, "here:2:b", duration_s=60)
    assert claim_next(handle, Worker("here:1:a", None)) == "wait"
    handle.tell(running, [0.2], TrialState.COMPLETE)
    assert claim_next(handle, Worker("here:1:a", None)) == "done"
    started = play([])
    launcher = WorkerPool(handle, n_workers=1)
    assert supervise(handle, launcher, should_stop=lambda: False, tick=lambda _handle: None) == "finished"
    assert not started
    stop = read_study(handle.database.url, handle.study.study_name).stop
    assert stop is not None
    assert stop.patience == 2
    more = open_tiny(n_trials=9, patience=5)
    assert claim_next(more, Worker("here:1:a", None)) not in ("done", "wait")


def test_halving_ends_between_brackets(open_tiny: Open) -> None:
    handle = open_tiny(n_trials=6, patience=1, pruner={"name": "halving", "bracket_trials": 3, "first_epochs": 1})
    for value in (0.5, 0.4, 0.3):
        claim = claim_next(handle, Worker("here:1:a", None))
        assert not isinstance(claim, str)
        handle.store.leases.release(claim.trial.number, claim.attempt, stalled=False)
        handle.tell(claim.trial, [value], TrialState.COMPLETE)
    assert claim_next(handle, Worker("here:1:a", None)) == "done"
    assert STOPPED in handle.study.user_attrs


def test_interrupted_trial_continues_though_patience_has_ended(open_tiny: Open) -> None:
    handle = open_tiny(n_trials=9, patience=1)
    waiting = handle.study.ask()
    for value in (0.5, 0.4):
        handle.tell(handle.study.ask(), [value], TrialState.COMPLETE)
    handle.return_to_waiting(waiting)
    claim = claim_next(handle, Worker("here:1:a", None))
    assert not isinstance(claim, str)
    assert claim.trial.number == waiting.number


def test_expected_best_is_the_mean_over_all_choices() -> None:
    values = np.random.default_rng(3).random(9).tolist()
    for k in (1, 4, 9):
        means = [max(chosen) for chosen in combinations(values, k)]
        assert expected_best(values, k) == pytest.approx(math.fsum(means) / len(means))


def test_outlook_follows_what_doubling_has_brought() -> None:
    values = [0.1 * number for number in range(MIN_TRIALS)]
    assert outlook_of(rows(ONE, *[row(number, value) for number, value in enumerate(values[:-1])])) is None
    trials = [row(number, value) for number, value in enumerate(values)]
    for objective, sign in (("maximize", 1.0), ("minimize", -1.0)):
        found = outlook_of(rows({"val/accuracy": objective}, *trials))
        assert found is not None
        signed = [sign * value for value in values]
        quarter, half = expected_best(signed, 2), expected_best(signed, 5)
        assert found.last == pytest.approx(max(signed) - half)
        assert found.next == pytest.approx((max(signed) - half) ** 2 / (half - quarter))
    pruned = [row(n, state="pruned", metrics={"val/accuracy": v}) for n, v in enumerate(values[:-1])]
    mixed = outlook_of(rows(ONE, *pruned, trials[-1]))
    assert mixed is not None
    assert mixed.last == pytest.approx(max(values) - expected_best(values, 5))


def test_outlook_of_a_front_is_the_growth_of_its_volume() -> None:
    bounds = ((0.0, 1.0), (1.0, 0.0))
    trials = [row(number, 0.1 + 0.05 * number, 0.5) for number in range(10)]
    found = outlook_of(rows(TWO, *trials, bounds=bounds))
    assert found is not None
    assert found.last == pytest.approx(0.5 * 0.05 * 5)
    assert found.next == found.last  # the doubling before brought less


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [(4.0, 2.0, 1.0), (1.0, 2.0, 2.0), (0.0, 0.0, 0.0), (0.0, 3.0, 3.0), (2.0, 0.0, 0.0)],
)
def test_gains_shrink_by_the_same_factor(first: float, second: float, expected: float) -> None:
    assert next_gain(first, second) == expected


def test_estimate_is_about_right_on_average() -> None:
    """Uniform values: the best of n is n / (n + 1) on average, so 20 more of them bring 40/41 - 20/21."""
    rng, expected = np.random.default_rng(5), 40 / 41 - 20 / 21
    found = [outlook_of(rows(ONE, *[row(n, v) for n, v in enumerate(rng.random(20))])) for _ in range(100)]
    assert np.mean([one.next for one in found if one is not None]) == pytest.approx(expected, rel=0.4)


def ended(handle: StudyHandle, states: list[TrialState]) -> None:
    for index, state in enumerate(states):
        trial = handle.study.ask()
        trial.set_user_attr(ENDED_AT, 100.0 + index)
        handle.study.tell(trial, 0.5 if state == TrialState.COMPLETE else None, state=state)


FAIL, COMPLETE = TrialState.FAIL, TrialState.COMPLETE


@pytest.mark.parametrize(
    ("states", "since", "failing"),
    [
        ([FAIL, FAIL, FAIL], 0.0, True),
        ([COMPLETE, FAIL, FAIL, FAIL], 0.0, True),
        ([FAIL, FAIL, FAIL, COMPLETE], 0.0, True),  # the last one was still running when the others failed
        ([FAIL, FAIL, COMPLETE, FAIL], 0.0, False),
        ([FAIL, FAIL], 0.0, False),
        ([FAIL, FAIL, FAIL], 101.0, False),  # the first one belongs to an earlier start
    ],
)
def test_three_failures_in_a_row_are_too_many(
    open_tiny: Open, states: list[TrialState], since: float, failing: bool
) -> None:
    handle = open_tiny()
    ended(handle, states)
    assert is_failing(handle.trials(), since=since) is failing
