"""A trial on a server that is away for a while: training continues, and nothing is lost when it is back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from attnsearch.errors import ServerUnavailable
from attnsearch.search.context import SearchContext, Worker
from attnsearch.search.handle import StudyHandle
from attnsearch.search.worker import claim_next
from attnsearch.types import EpochRecord
from tests.postgres import PostgresServer

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
