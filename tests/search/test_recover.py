"""Trials of dead workers go back to waiting, and give up after three attempts without an epoch."""

from __future__ import annotations

from collections.abc import Callable

from optuna.trial import TrialState

from attnsearch.search.context import Worker
from attnsearch.search.recover import KILLED_REPEATEDLY, recover
from attnsearch.search.session import Session
from attnsearch.search.worker import claim_next

Open = Callable[..., Session]


def claim(session: Session, name: str = "here:1:a") -> None:
    assert not isinstance(claim_next(session, Worker(name, None), started_at=0.0), str)


def state(session: Session) -> TrialState:
    return session.trials()[0].state


def test_trial_of_a_living_worker_is_left_alone(open_tiny: Open) -> None:
    session = open_tiny()
    claim(session)
    assert recover(session, is_dead=lambda name: False) == []
    assert state(session) == TrialState.RUNNING


def test_trial_of_a_dead_worker_goes_back_under_its_number(open_tiny: Open) -> None:
    session = open_tiny(n_trials=1)
    claim(session)
    assert recover(session, is_dead=lambda name: name == "here:1:a") == [0]
    assert state(session) == TrialState.WAITING
    claim(session, "here:2:b")
    assert len(session.trials()) == 1
    assert session.leases.of_trial(0).attempt == 2  # type: ignore[union-attr]


def test_expired_lease_is_taken_back(open_tiny: Open) -> None:
    session = open_tiny(n_trials=1)
    claim(session)
    session.leases.renew(0, 1, duration_s=-1.0)
    assert recover(session, is_dead=lambda name: False) == [0]


def test_trial_that_was_asked_for_but_never_claimed_goes_back(open_tiny: Open) -> None:
    session = open_tiny()
    session.study.ask()
    assert recover(session, is_dead=lambda name: False) == [0]
    assert state(session) == TrialState.WAITING


def test_third_attempt_without_an_epoch_fails_the_trial(open_tiny: Open) -> None:
    session = open_tiny(n_trials=1)
    for _ in range(3):
        claim(session)
        recover(session, is_dead=lambda name: True)
    assert state(session) == TrialState.FAIL
    assert session.trials()[0].user_attrs["error"] == KILLED_REPEATEDLY


def test_attempt_that_finished_an_epoch_starts_the_count_again(open_tiny: Open) -> None:
    session = open_tiny(n_trials=1)
    for attempt in (1, 2, 3, 4):
        claim(session)
        session.leases.renew(0, attempt, epoch=attempt, duration_s=100.0)
        recover(session, is_dead=lambda name: True)
    assert state(session) == TrialState.WAITING


def test_attempt_that_another_supervisor_started_meanwhile_is_left_alone(open_tiny: Open) -> None:
    session = open_tiny(n_trials=1)
    claim(session)

    def is_dead(name: str) -> bool:
        session.leases.claim(0, "there:1:b", duration_s=100.0)  # a machine that the lock does not reach
        return name == "here:1:a"

    assert recover(session, is_dead=is_dead) == []
    assert state(session) == TrialState.RUNNING
    session.leases.check(0, 2)
