"""Which trial is next; those of dead workers return, and fail after three attempts without an epoch, unlike others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from optuna.trial import TrialState

from attnsearch.search.context import ClaimedTrial, Worker
from attnsearch.search.handle import StudyHandle
from attnsearch.search.queue import claim_next
from attnsearch.search.recovery import KILLED, reclaim_lost_trials
from attnsearch.search.study import RETURNED
from attnsearch.search.trials import read_study
from attnsearch.store import trial_store
from attnsearch.store.database import Connections
from tests.search.studies import ON_EACH_DATABASE

Open = Callable[..., StudyHandle]


def test_last_attempt_before_a_trial_is_blamed_is_alone(open_tiny: Open) -> None:
    handle = open_tiny(n_trials=2)
    stall(handle, claim_of(handle, "here:1:a"))
    other = claim_of(handle, "here:2:b")
    stall(handle, claim_of(handle, "here:3:c"))
    assert handle.store.leases.stalled() == {0: 2}
    assert claim_next(handle, Worker("here:4:d", None)) == "wait"
    handle.study.tell(other.trial, 0.5)
    assert claim_of(handle, "here:4:d").trial.number == 0


def stall(handle: StudyHandle, claim: ClaimedTrial) -> None:
    """Returns a trial that has finished no epoch."""
    handle.store.leases.release(claim.trial.number, claim.attempt, stalled=True)
    handle.return_to_waiting(claim.trial)


def claim_of(handle: StudyHandle, name: str) -> ClaimedTrial:
    claim = claim_next(handle, Worker(name, None))
    assert not isinstance(claim, str)
    return claim


@ON_EACH_DATABASE
def test_full_budget_of_running_trials_makes_others_wait(open_tiny: Open) -> None:
    handle = open_tiny(n_trials=1)
    assert claim_next(handle, Worker("here:1:a", None)) not in ("wait", "done")
    assert claim_next(handle, Worker("here:2:b", None)) == "wait"


def claim(handle: StudyHandle, name: str = "here:1:a") -> None:
    assert not isinstance(claim_next(handle, Worker(name, None)), str)


def state(handle: StudyHandle) -> TrialState:
    return handle.trials()[0].state


@ON_EACH_DATABASE
def test_trial_of_a_living_worker_is_left_alone(open_tiny: Open) -> None:
    handle = open_tiny()
    claim(handle)
    assert reclaim_lost_trials(handle, is_dead=lambda name: False) == []
    assert state(handle) == TrialState.RUNNING


@ON_EACH_DATABASE
def test_trial_of_a_dead_worker_goes_back_under_its_number(open_tiny: Open) -> None:
    handle = open_tiny(n_trials=1)
    claim(handle)
    assert reclaim_lost_trials(handle, is_dead=lambda name: name == "here:1:a") == [0]
    assert state(handle) == TrialState.WAITING
    claim(handle, "here:2:b")
    assert len(handle.trials()) == 1
    assert handle.store.leases.of_trial(0).attempt == 2  # type: ignore[union-attr]


@ON_EACH_DATABASE
def test_expired_lease_is_taken_back(open_tiny: Open) -> None:
    handle = open_tiny(n_trials=1)
    claim(handle)
    handle.store.leases.renew(0, 1, duration_s=-1.0)
    assert reclaim_lost_trials(handle, is_dead=lambda name: False) == [0]


@ON_EACH_DATABASE
def test_lease_that_ran_out_while_the_server_was_away_is_left_to_its_worker(
    open_tiny: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = open_tiny(n_trials=1)
    claim(handle)
    handle.store.leases.renew(0, 1, duration_s=-1.0)
    with monkeypatch.context() as outage:
        outage.setattr(Connections, "was_away_within", lambda _connections, seconds: seconds == 300.0)
        assert reclaim_lost_trials(handle, is_dead=lambda name: False) == []
    assert reclaim_lost_trials(handle, is_dead=lambda name: False) == [0]


def test_lease_that_ran_out_before_the_server_was_started_again_is_left_to_its_worker(
    open_tiny: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = open_tiny(n_trials=1)
    claim(handle)
    handle.store.leases.renew(0, 1, duration_s=-1.0)
    monkeypatch.setattr(trial_store, "server_age_s", lambda _engine: 299.0)
    assert reclaim_lost_trials(handle, is_dead=lambda name: False) == []
    monkeypatch.setattr(trial_store, "server_age_s", lambda _engine: 301.0)
    assert reclaim_lost_trials(handle, is_dead=lambda name: False) == [0]


@ON_EACH_DATABASE
def test_trial_that_was_asked_for_but_never_claimed_goes_back(open_tiny: Open) -> None:
    handle = open_tiny()
    handle.study.ask()
    assert reclaim_lost_trials(handle, is_dead=lambda name: False) == [0]
    assert state(handle) == TrialState.WAITING


def kill(handle: StudyHandle, name: str) -> None:
    """One more worker takes the first trial and is killed."""
    claim(handle, name)
    reclaim_lost_trials(handle, is_dead=lambda holder: holder == name)


@ON_EACH_DATABASE
def test_third_attempt_without_an_epoch_fails_the_trial_if_others_progress(open_tiny: Open) -> None:
    handle = open_tiny(n_trials=2)
    kill(handle, "here:1:a")
    claim(handle, "here:2:b")  # another trial: the stalled one comes last
    handle.store.leases.renew(1, 1, epoch=1, duration_s=100.0)
    kill(handle, "here:3:c")
    handle.study.tell(1, 0.5)  # the last attempt is alone
    kill(handle, "here:4:d")
    assert [trial.state.name for trial in handle.trials()] == ["FAIL", "COMPLETE"]
    assert handle.trials()[0].user_attrs["error"] == f"3 attempts in a row finished no epoch: {KILLED}"


@ON_EACH_DATABASE
def test_third_attempt_without_an_epoch_fails_nothing_while_no_trial_progresses(open_tiny: Open) -> None:
    handle = open_tiny(n_trials=1)
    for name in ("here:1:a", "here:2:b", "here:3:c", "here:4:d"):
        kill(handle, name)
    assert state(handle) == TrialState.WAITING
    assert handle.trials()[0].user_attrs[RETURNED] == {"reason": KILLED, "attempts": 4, "epochs_elsewhere": 0}
    assert read_study(handle.database.url, "hunt").trials[0].error == KILLED


@ON_EACH_DATABASE
def test_progress_before_the_first_return_blames_no_trial(open_tiny: Open) -> None:
    handle = open_tiny(n_trials=2)
    claim(handle, "here:1:a")
    handle.store.leases.renew(0, 1, epoch=9, duration_s=100.0)
    handle.study.tell(0, 0.5)
    for name in ("here:2:b", "here:3:c", "here:4:d"):
        kill(handle, name)
    assert [trial.state.name for trial in handle.trials()] == ["COMPLETE", "WAITING"]


@ON_EACH_DATABASE
def test_attempt_that_finished_an_epoch_starts_the_count_again(open_tiny: Open) -> None:
    handle = open_tiny(n_trials=1)
    for attempt in (1, 2, 3, 4):
        claim(handle, f"here:{attempt}:a")
        handle.store.leases.renew(0, attempt, epoch=attempt, duration_s=100.0)
        reclaim_lost_trials(handle, is_dead=lambda name: True)
    assert state(handle) == TrialState.WAITING


@ON_EACH_DATABASE
def test_attempt_that_another_supervisor_started_meanwhile_is_left_alone(open_tiny: Open) -> None:
    handle = open_tiny(n_trials=1)
    claim(handle)

    def is_dead(name: str) -> bool:
        handle.store.leases.claim(0, "there:1:b", duration_s=100.0)  # a machine that the lock does not reach
        return name == "here:1:a"

    assert reclaim_lost_trials(handle, is_dead=is_dead) == []
    assert state(handle) == TrialState.RUNNING
    handle.store.leases.check(0, 2)
