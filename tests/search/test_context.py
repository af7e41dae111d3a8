"""What a running trial tells its study, when it learns that it lost it, and what an outage or a broken commit costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from optuna.trial import TrialState

from attnsearch.errors import (
    LeaseLost,
    ServerUnavailable,
)
from attnsearch.search import worker as module
from attnsearch.search.context import SearchContext, Worker
from attnsearch.search.handle import StudyHandle
from attnsearch.search.queue import claim_next
from attnsearch.search.recovery import reclaim_lost_trials
from attnsearch.search.worker import run_claim
from attnsearch.store.leases import HELD, RELEASED
from attnsearch.types import EpochRecord, TrialResult
from tests.postgres import PostgresServer
from tests.search.studies import ON_EACH_DATABASE, PLAYED_DATA

Open = Callable[..., StudyHandle]
ON_A_SERVER = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)


def record(epoch: int) -> EpochRecord:
    return EpochRecord(
        epoch=epoch, split="val", n_images=4, loss=0.5, terms={}, metrics={"accuracy": epoch / 10},
        lr=0.1, seconds=1.0, images_per_s=4.0, peak_memory_mb=1.0,
    )  # fmt: skip


def context_of(handle: StudyHandle, clock: Callable[[], float] | None = None) -> SearchContext:
    worker = Worker("here:1:a", None)
    claim = claim_next(handle, worker)
    assert not isinstance(claim, str)
    own = {} if clock is None else {"clock": clock}
    return SearchContext(handle, worker, claim, seed=1, **own)


def test_context_asks_for_its_lease_again_after_a_pause(open_tiny: Open) -> None:
    handle, now = open_tiny(), [0.0]
    context = context_of(handle, lambda: now[0])
    handle.store.leases.take_back(0)
    context.check()  # the last answer is fresh
    now[0] = 400.0  # the process was paused
    with pytest.raises(LeaseLost, match="trial 0"):
        context.check()


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="no clock that counts a machine's sleep")
def test_sleep_of_the_whole_machine_is_a_pause_too(open_tiny: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = open_tiny()
    context = context_of(handle)
    handle.store.leases.take_back(0)
    awake = time.clock_gettime(time.CLOCK_BOOTTIME)
    monkeypatch.setattr(time, "clock_gettime", lambda clock: awake + 400.0)  # `time.monotonic` stood still
    with pytest.raises(LeaseLost, match="trial 0"):
        context.check()


@ON_EACH_DATABASE
def test_epochs_of_a_lost_attempt_are_not_written(open_tiny: Open) -> None:
    handle = open_tiny()
    context = context_of(handle, lambda: 0.0)
    handle.store.leases.take_back(0)
    with pytest.raises(LeaseLost):
        context.record([record(1)])


@ON_EACH_DATABASE
def test_record_renews_the_lease_for_three_slow_epochs(open_tiny: Open) -> None:
    handle = open_tiny(lease_s=1.0)
    context = context_of(handle, lambda: 0.0)
    context.record([record(1)])  # one second long
    assert handle.store.leases.seconds_left(0) == pytest.approx(3.0, abs=0.5)
    lease = handle.store.leases.of_trial(0)
    assert lease is not None
    assert (lease.state, lease.epoch) == (HELD, 1)


def test_resumed_trial_reports_no_epoch_twice(open_tiny: Open) -> None:
    handle = open_tiny(pruner={"name": "median"})
    context = context_of(handle, lambda: 0.0)
    for epoch in (1, 2, 1, 2, 3):
        context.report(epoch / 10, epoch)
    assert handle.trials()[0].intermediate_values == {0: 0.1, 1: 0.2, 2: 0.3}


@contextmanager
def stopped(server: PostgresServer) -> Iterator[None]:
    server.stop()
    try:
        yield
    finally:
        server.start()


def train(context: SearchContext, epochs: range) -> None:
    for epoch in epochs:
        context.check()
        context.record([record(number) for number in range(1, epoch + 1)])
        context.report(epoch / 10, epoch)


@pytest.mark.slow
@ON_A_SERVER
def test_training_continues_and_its_epochs_are_written_later(open_tiny: Open, postgres_server: PostgresServer) -> None:
    handle = open_tiny(n_trials=1, pruner={"name": "median", "n_startup_trials": 0})
    context = context_of(handle)
    train(context, range(1, 2))
    with stopped(postgres_server):
        train(context, range(2, 5))
        assert handle.store.is_away
        assert not context.should_prune()  # nobody can be asked
    context.flush()
    assert not handle.store.is_away
    assert handle.store.read_epochs()["epoch"].tolist() == [1, 2, 3, 4]
    assert handle.trials()[0].intermediate_values == {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4}
    assert handle.store.leases.of_trial(0).epoch == 4  # type: ignore[union-attr]
    context.close()


@pytest.mark.slow
@ON_A_SERVER
def test_outage_beyond_the_patience_ends_the_trial(open_tiny: Open, postgres_server: PostgresServer) -> None:
    handle = open_tiny(n_trials=1, storage_patience_s=0)
    context = context_of(handle)
    with stopped(postgres_server), pytest.raises(ServerUnavailable, match="does not answer"):
        train(context, range(1, 100))
    context.close()


def train_two_epochs(_config: Any, context: SearchContext, data: Any, ranks: Any) -> TrialResult:
    """Two epochs that measure nothing."""
    records = []
    for epoch in (1, 2):
        common: dict[str, Any] = {"terms": {}, "lr": 0.1, "seconds": 1.0, "images_per_s": 4.0, "peak_memory_mb": 1.0}
        metrics = {"accuracy": epoch / 4}
        records.append(EpochRecord(epoch=epoch, split="val", n_images=4, loss=0.5, metrics=metrics, **common))
        context.record(records)
        context.report(epoch / 4, epoch)
    final = {"val/accuracy": 0.5}
    return TrialResult(state="complete", best_epoch=2, epochs_run=2, metrics=final, seconds=2.0, images_per_s=4.0)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "fit_together", train_two_epochs)
    monkeypatch.setattr(module, "evaluate_best", lambda config, ended, context, source, spread: ended)
    monkeypatch.setattr(module, "list_files", lambda *arguments: None)
    monkeypatch.setattr(module, "attach_images", lambda *arguments, check: None)


@contextmanager
def breaking(at: int | None, *, is_committed: bool) -> Iterator[list[int]]:
    """Breaks the connection of the commit with this number, from 0; the list gets the numbers of all commits."""
    import psycopg  # an extra that the other tests do not need

    commits: list[int] = []
    commit = psycopg.Connection.commit

    def commit_or_break(connection: Any) -> None:
        commits.append(len(commits))
        if commits[-1] == at:
            if is_committed:
                commit(connection)
            connection.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        commit(connection)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psycopg.Connection, "commit", commit_or_break)
        yield commits


def run_all(handle: StudyHandle) -> None:
    """What a worker does until the study is done, and the supervisor beside it."""
    worker = Worker("here:1:a", None)
    while (claim := claim_next(handle, worker)) != "done":
        if claim == "wait":
            reclaim_lost_trials(handle, is_dead=lambda name: False)
        else:
            assert not isinstance(claim, str)
            run_claim(handle, worker, claim, PLAYED_DATA)


def check(handle: StudyHandle) -> None:
    (trial,) = handle.trials()
    assert (trial.state, trial.values) == (TrialState.COMPLETE, [0.5])
    assert trial.intermediate_values == {0: 0.25, 1: 0.5}
    assert handle.store.read_epochs()["epoch"].tolist() == [1, 2]
    lease = handle.store.leases.of_trial(0)
    assert lease is not None
    assert (lease.attempt, lease.stalled, lease.state) == (1, 0, RELEASED)
    handle.database.close()


@pytest.mark.usefixtures("played")
@pytest.mark.slow
@ON_A_SERVER
def test_no_broken_commit_loses_or_doubles_anything(open_tiny: Callable[..., StudyHandle]) -> None:
    handle = open_tiny(n_trials=1)
    with breaking(None, is_committed=False) as commits:
        run_all(handle)
    check(handle)
    assert len(commits) > 20
    for index in commits:
        handle = open_tiny(n_trials=1, name=f"hunt{index}")
        with breaking(index, is_committed=index % 2 == 0):  # either way at neighbouring commits: both take too long
            run_all(handle)
        check(handle)
