"""A trial from claim to end on a server whose connection breaks at each commit in turn, before or after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from optuna.trial import TrialState

from attnsearch.search import worker as module
from attnsearch.search.context import SearchContext, Worker
from attnsearch.search.handle import StudyHandle
from attnsearch.search.worker import claim_next, reclaim_lost_trials, run_claim
from attnsearch.store.leases import RELEASED
from attnsearch.types import EpochRecord, TrialResult
from tests.search.studies import PLAYED_DATA

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("backend", ["postgresql"], indirect=True)]


def train(_config: Any, context: SearchContext, data: Any) -> TrialResult:
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
    monkeypatch.setattr(module, "fit", train)
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
