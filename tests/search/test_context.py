"""A trial whose server is away or whose connection breaks: training continues, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from optuna.trial import TrialState

from attnsearch.errors import ServerUnavailable
from attnsearch.search import worker as module
from attnsearch.search.context import SearchContext, Worker
from attnsearch.search.handle import StudyHandle
from attnsearch.search.worker import claim_next, reclaim_lost_trials, run_claim
from attnsearch.store.leases import RELEASED
from attnsearch.types import EpochRecord, TrialResult
from tests.postgres import PostgresServer
from tests.search.studies import PLAYED_DATA

Open = Callable[..., StudyHandle]
pytestmark = [pytest.mark.slow, pytest.mark.parametrize("backend", ["postgresql"], indirect=True)]


def record(epoch: int) -> EpochRecord:
    return EpochRecord(
        epoch=epoch, split="val", n_images=4, loss=0.5, terms={}, metrics={"accuracy": epoch / 10},
        lr=0.1, seconds=1.0, images_per_s=4.0, peak_memory_mb=1.0,
    )  # fmt: skip


@contextmanager
def stopped(server: PostgresServer) -> Iterator[None]:
    server.stop()
    try:
        yield
    finally:
        server.start()


def context_of(handle: StudyHandle, folder: Path) -> SearchContext:
    worker = Worker("here:1:a", None)
    claim = claim_next(handle, worker, started_at=0.0)
    assert not isinstance(claim, str)
    return SearchContext(handle, worker, claim.trial, attempt=claim.attempt, seed=1, directory=folder)


def train(context: SearchContext, epochs: range) -> None:
    for epoch in epochs:
        context.check()
        context.record([record(number) for number in range(1, epoch + 1)])
        context.report(epoch / 10, epoch)


def test_training_continues_and_its_epochs_are_written_later(
    open_tiny: Open, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    handle = open_tiny(n_trials=1, pruner={"name": "median", "n_startup_trials": 0})
    context = context_of(handle, tmp_path)
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


def test_outage_beyond_the_patience_ends_the_trial(
    open_tiny: Open, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    handle = open_tiny(n_trials=1, storage_patience_s=0)
    context = context_of(handle, tmp_path)
    with stopped(postgres_server), pytest.raises(ServerUnavailable, match="does not answer"):
        train(context, range(1, 100))
    context.close()


def train_two_epochs(_config: Any, context: SearchContext, data: Any) -> TrialResult:
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


@pytest.fixture(autouse=True)
def _play(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "fit", train_two_epochs)
    monkeypatch.setattr(module, "evaluate_best", lambda config, ended, layout, source, check: ended)
    monkeypatch.setattr(module, "list_files", lambda *arguments: None)
    monkeypatch.setattr(module, "attach_pictures", lambda *arguments, check: None)


@contextmanager
def breaking(at: int | None, *, is_committed: bool) -> Iterator[list[int]]:
    """Breaks the connection of the commit with this number, from 0; the list gets the numbers of all commits."""
    commits: list[int] = []
    commit = psycopg.Connection.commit

    def commit_or_break(connection: psycopg.Connection[Any]) -> None:
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
    while (claim := claim_next(handle, worker, started_at=0.0)) != "done":
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
