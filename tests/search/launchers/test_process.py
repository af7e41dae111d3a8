"""How a worker that belongs to no search ends: when its own time is up, that of the study, or its trials."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from attnsearch.errors import DONE, INTERRUPTED, TRANSIENT, TrialInterrupted
from attnsearch.search.context import Worker
from attnsearch.search.handle import StudyHandle
from attnsearch.search.launchers import WorkerOrders
from attnsearch.search.launchers import process as module
from attnsearch.search.launchers.process import work
from attnsearch.search.membership import STARTED_AT

ORDERS = WorkerOrders(Path("study.yaml"))
Work = Callable[..., int]


@pytest.fixture
def concluded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who ended the study, in place of races and publications."""
    holders: list[str] = []
    monkeypatch.setattr(module, "conclude", lambda _handle, _data, *, holder, should_stop: holders.append(holder))
    return holders


@pytest.fixture
def played(
    open_tiny: Callable[..., StudyHandle], monkeypatch: pytest.MonkeyPatch, concluded: list[str]
) -> Callable[..., Work]:
    """A worker on a study with these settings whose trials are a function of the worker."""

    def make(run: Callable[[Worker], Any], **study: Any) -> Work:
        handle = open_tiny(**study)
        handle.study.set_user_attr(STARTED_AT, handle.store.now())
        plan = SimpleNamespace(open_data=lambda: None)
        monkeypatch.setattr(module.SearchPlan, "reopen", lambda *_args, **_settings: plan)
        monkeypatch.setattr(module, "join_study", lambda _plan: handle)
        monkeypatch.setattr(module, "run_on_devices", lambda _handle, worker, _data, *, until_idle: run(worker))
        return lambda orders=ORDERS: work(orders, Worker("here:1:a", orders.parent))

    return make


def train_until_stopped(worker: Worker) -> None:
    assert worker.stop.wait(60)


def test_more_to_do_after_the_time_of_the_worker(played: Callable[..., Work], concluded: list[str]) -> None:
    run = played(train_until_stopped, time_limit_s=3600)
    assert run(WorkerOrders(Path("study.yaml"), stop_after_s=0.01)) == TRANSIENT
    assert concluded == []


def test_study_ends_after_its_time(played: Callable[..., Work], concluded: list[str]) -> None:
    """Else a cluster would start the worker again and again."""
    run = played(train_until_stopped, time_limit_s=1)
    assert run(WorkerOrders(Path("study.yaml"), stop_after_s=3600)) == DONE
    assert concluded == ["here:1:a"]


def test_worker_of_a_search_leaves_both_to_the_search(played: Callable[..., Work], concluded: list[str]) -> None:
    run = played(lambda worker: worker.stop.wait(0.1), time_limit_s=1)
    assert run(WorkerOrders(Path("study.yaml"), parent=1)) == DONE
    assert concluded == []


def test_worker_that_was_asked_to_stop_is_interrupted(played: Callable[..., Work], concluded: list[str]) -> None:
    assert played(lambda worker: worker.stop.set())() == INTERRUPTED
    assert concluded == []


def test_worker_that_is_stopped_while_it_publishes_is_interrupted(
    played: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_args: Any, **_settings: Any) -> None:
        started.stop.set()
        raise TrialInterrupted

    def end_trials(worker: Worker) -> None:
        nonlocal started
        started = worker

    started = Worker("nobody", None)
    run = played(end_trials)
    monkeypatch.setattr(module, "is_over", lambda _handle: True)
    monkeypatch.setattr(module, "conclude", interrupted)
    assert run() == INTERRUPTED
