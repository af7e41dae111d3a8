"""What is known of a running search, and how much of it is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from optuna.trial import TrialState

from attnsearch.results.progress import StudyProgress, TrialProgress, Watcher, snapshot, state_of
from attnsearch.search.context import Worker
from attnsearch.search.handle import StudyHandle
from attnsearch.search.queue import claim_next
from attnsearch.search.study import OF_TRIAL
from attnsearch.types import EpochRecord
from tests.search.conftest import backend, empty_database, make_database, open_tiny
from tests.search.studies import HALVING, play_leg

__all__ = ["backend", "empty_database", "make_database", "open_tiny"]

RUNNING = TrialProgress(number=1, state="running", epoch=2, n_epochs=8, value=0.5, seconds=31.0)
DONE = TrialProgress(number=0, state="complete", epoch=8, n_epochs=8, value=0.75, seconds=120.0)


def progress(n_trials: int, *trials: TrialProgress) -> StudyProgress:
    return StudyProgress("hunt", "val/accuracy", trials, n_trials)


def test_patience_finishes_a_study_once_nothing_runs() -> None:
    pruned, failed = replace(DONE, state="pruned"), replace(DONE, state="fail")
    assert state_of((DONE, DONE, pruned), 3, is_stopped=False) == "finished"
    assert state_of((DONE, DONE, failed), 3, is_stopped=False) == "stopped"
    assert state_of((DONE, DONE, replace(failed, params={OF_TRIAL: 3})), 3, is_stopped=False) == "finished"
    assert state_of((DONE, DONE), 3, is_stopped=True) == "finished"
    assert state_of((DONE, DONE, RUNNING), 4, is_stopped=True) == "running"


def test_trial_that_fails_behind_a_rung_counts_towards_the_budget(open_tiny: Callable[..., StudyHandle]) -> None:
    """As it does when trials are claimed; else a search that has ended would be called stopped."""
    handle = open_tiny(n_trials=2, pruner={**HALVING["pruner"], "bracket_trials": 2, "n_finish": 1})
    for accuracy in (0.5, 0.75):
        play_leg(handle, {"val/accuracy": accuracy})
    worker = Worker("here:1:a", None)
    promoted = claim_next(handle, worker)
    assert not isinstance(promoted, str)
    with handle.store.exclusive():
        handle.tell(promoted.trial, None, TrialState.FAIL)
        handle.store.leases.release(promoted.trial.number, promoted.attempt, stalled=False)
    assert claim_next(handle, worker) == "done"
    now = snapshot(handle)
    assert [view.state for view in now.trials] == ["pruned", "fail"]
    assert (now.n_done, state_of(now.trials, 2, is_stopped=False)) == (2, "finished")


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def validation(epoch: int, accuracy: float) -> EpochRecord:
    return EpochRecord(epoch, "val", 4, 0.7, {}, {"accuracy": accuracy}, 0.01, 1.0, 4.0, 10.0)


def test_epochs_left_are_those_of_begun_and_of_new_trials() -> None:
    # one done, one with 8 - 2 left, and 4 - 2 that have not begun, of 10 epochs each
    assert progress(4, DONE, RUNNING).epochs_left(10) == 6 + 2 * 10


def test_enqueued_trials_beyond_the_budget_take_no_time() -> None:
    waiting = replace(RUNNING, number=2, state="waiting", epoch=0)
    assert progress(1, waiting, RUNNING).epochs_left(10) == 6  # the running one comes first
    assert progress(1, DONE, waiting).epochs_left(10) == 0


def test_failed_trials_do_not_count_towards_the_budget() -> None:
    failed = replace(DONE, state="fail", epoch=3)
    assert progress(2, failed).epochs_left(10) == 20


def test_view_reads_running_trials_from_the_records(open_tiny: Callable[..., StudyHandle]) -> None:
    handle = open_tiny()
    for accuracies in ((0.25, 0.75, 0.5), (0.5,)):
        trial = handle.study.ask()
        records = [validation(epoch, accuracy) for epoch, accuracy in enumerate(accuracies, 1)]
        handle.store.write_epochs(trial.number, records, attempt=None)
    ended = handle.study.ask()
    for key, value in {"epochs_run": 2, "seconds": 9.5, "val/accuracy": 1.0}.items():
        ended.set_user_attr(key, value)
    handle.study.tell(ended, 1.0)
    views = snapshot(handle).trials
    assert [(v.number, v.state, v.epoch, v.n_epochs, v.value) for v in views] == [
        (0, "running", 3, 2, 0.75),
        (1, "running", 1, 2, 0.5),
        (2, "complete", 2, 2, 1.0),
    ]
    assert views[2].seconds == 9.5


def test_view_of_a_loss_shows_the_smallest(open_tiny: Callable[..., StudyHandle]) -> None:
    handle = open_tiny(monitor="val/loss", objectives={"val/loss": "minimize"})
    trial = handle.study.ask()
    records = [replace(validation(epoch, 0.5), loss=loss) for epoch, loss in ((1, 0.4), (2, 0.9))]
    handle.store.write_epochs(trial.number, records, attempt=None)
    assert snapshot(handle).trials[0].value == 0.4


def test_time_left_follows_the_epochs_of_this_run(open_tiny: Callable[..., StudyHandle]) -> None:
    handle, clock, shown = open_tiny(n_trials=2), Clock(), list[StudyProgress]()
    watcher = Watcher(shown.append, every_s=1.0, clock=clock)
    trial = handle.study.ask()
    watcher(handle)
    clock.now += 0.5
    watcher(handle)  # too early for another one
    clock.now += 9.5
    handle.store.write_epochs(trial.number, [validation(1, 0.5)], attempt=None)
    watcher(handle)
    # 10 s for one epoch; one is left of this trial and two of the other
    assert [snapshot.seconds_left for snapshot in shown] == [None, pytest.approx(30.0)]


def test_watcher_has_nothing_to_refresh_before_the_first_tick() -> None:
    shown: list[StudyProgress] = []
    Watcher(shown.append).refresh()
    assert shown == []


def test_waiting_trials_take_no_time(open_tiny: Callable[..., StudyHandle]) -> None:
    handle = open_tiny(enqueue=[{"train.optimizer.lr": 1e-3}])
    assert [(view.state, view.seconds) for view in snapshot(handle).trials] == [("waiting", 0.0)]
    assert handle.trials(TrialState.WAITING)


def test_halving_has_epochs_left_by_its_rungs(open_tiny: Callable[..., StudyHandle]) -> None:
    """Two brackets of four trials: four train one epoch, and two of them the second one."""
    handle = open_tiny(n_trials=8, **HALVING)
    left = [snapshot(handle).epochs_left(2)]  # no bracket is open yet
    for accuracy in (0.5, 0.75, 0.25, 0.625, 0.875):
        play_leg(handle, {"val/accuracy": accuracy})
        left.append(snapshot(handle).epochs_left(2))
    assert left == [12, 11, 10, 9, 8, 7]
    now = snapshot(handle)
    assert (now.n_done, now.n_paused) == (2, 2)
    assert [view.state for view in now.trials] == ["paused", "complete", "pruned", "paused"]


def test_enqueued_trial_beside_brackets_is_trained_to_its_end(open_tiny: Callable[..., StudyHandle]) -> None:
    handle = open_tiny(n_trials=5, enqueue=[{"train.optimizer.lr": 1e-3}], **HALVING)
    assert snapshot(handle).epochs_left(2) == 2 + 6


def test_promoted_trial_shows_its_last_epoch_and_the_time_of_all_legs(open_tiny: Callable[..., StudyHandle]) -> None:
    handle = open_tiny(n_trials=4, **HALVING)
    for accuracy in (0.5, 0.75, 0.25):
        play_leg(handle, {"val/accuracy": accuracy})
    claim = claim_next(handle, Worker("here:1:a", None))
    assert not isinstance(claim, str)
    number = claim.trial.number
    handle.store.write_epochs(number, [validation(1, 0.75), validation(2, 0.875)], attempt=claim.attempt)
    view = snapshot(handle).trials[number]
    assert (view.state, view.epoch, view.value) == ("running", 2, 0.875)
    assert view.seconds >= 1.0
    assert view.standing is None
