"""Processes that are forked before they are needed: what they see, how they end, and that none is left over."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from attnsearch.errors import INTERRUPTED
from attnsearch.search import slots
from attnsearch.search.launchers import WorkerOrders
from attnsearch.search.launchers import standby as module
from attnsearch.search.launchers.standby import Orders, RunWorker, take, workers_standing_by
from tests.search.studies import loaded_study

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")


@pytest.fixture(autouse=True)
def can_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of the test runner do no harm to children that compute nothing."""
    monkeypatch.setattr(module, "active_count", lambda: 1)


@pytest.fixture(autouse=True)
def closed_pipes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The pool closes the pipes of the processes that it takes; here nobody else does."""
    pipes: list[Any] = []
    make = module.ForkedProcess.__init__

    def noted(self: Any, process: Any, stdout: Any) -> None:
        pipes.append(stdout)
        make(self, process, stdout)

    monkeypatch.setattr(module.ForkedProcess, "__init__", noted)
    yield
    for pipe in pipes:
        pipe.close()


@pytest.fixture
def orders(tmp_path: Path) -> Orders:
    return Orders(WorkerOrders(tmp_path / "study.yaml"), {"GREETING": "hello"}, tmp_path / "worker.log", n_threads=2)


def describe(worker: WorkerOrders) -> tuple[int, str]:
    own_session = os.getsid(0) == os.getpid()
    os.write(2, b"a line of the log\n")
    seen = (worker.study_yaml.name, own_session, torch.get_num_threads(), dict(os.environ))
    return INTERRUPTED, repr(seen)


def wait_for_ever(worker: WorkerOrders) -> tuple[int, str]:
    while True:
        signal.pause()


def test_worker_runs_its_orders_in_its_own_environment_session_and_log(orders: Orders) -> None:
    with workers_standing_by(loaded_study(), 1, describe):
        process = take(orders)
        assert process is not None
        process.wait()
        assert process.stdout is not None
        words = process.stdout.read()
    assert process.poll() == INTERRUPTED
    assert words == repr(("study.yaml", True, 2, {"GREETING": "hello"}))
    assert orders.log.read_text() == "a line of the log\n"


def test_each_is_taken_once_and_the_rest_end_with_the_block(orders: Orders, forked: Callable[[], list[Any]]) -> None:
    with workers_standing_by(loaded_study(), 3, describe):
        first, second = take(orders), take(orders)
        assert first is not None
        assert second is not None
        first.wait()
        second.wait()
    assert [process.exitcode for process in forked()] == [INTERRUPTED, INTERRUPTED, 0]
    assert take(orders) is None


def test_worker_that_somebody_killed_is_passed_over(orders: Orders, forked: Callable[[], list[Any]]) -> None:
    with workers_standing_by(loaded_study(), 2, describe):
        forked()[0].kill()
        forked()[0].join()
        process = take(orders)
        assert process is not None
        process.wait()
    assert [process.exitcode for process in forked()] == [-signal.SIGKILL, INTERRUPTED]


def test_signal_ends_a_worker_and_is_its_exit_code(orders: Orders) -> None:
    with workers_standing_by(loaded_study(), 1, wait_for_ever):
        process = take(orders)
        assert process is not None
        assert process.poll() is None
        process.terminate()
        process.wait()
    assert process.poll() == -signal.SIGTERM


@pytest.mark.parametrize(
    ("experiment", "n_threads"), [({"plugins": ("mine.py",)}, 1), ({}, 2)], ids=["plugins", "threads"]
)
def test_nothing_is_forked_where_something_may_have_run(
    monkeypatch: pytest.MonkeyPatch, orders: Orders, experiment: dict[str, Any], n_threads: int
) -> None:
    monkeypatch.setattr(module, "active_count", lambda: n_threads)
    loaded = loaded_study()
    object.__setattr__(loaded, "experiment", loaded.experiment.model_copy(update=experiment))
    with workers_standing_by(loaded, 1, describe):
        assert take(orders) is None


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Any]]:
    """The processes that were forked, in order."""
    processes: list[Any] = []
    fork = module._fork

    def noted(run: RunWorker) -> Any:
        waiting = fork(run)
        processes.append(waiting.process)
        return waiting

    monkeypatch.setattr(module, "_fork", noted)
    return lambda: processes


def test_gpus_are_counted_by_another_process(monkeypatch: pytest.MonkeyPatch, forked: Callable[[], list[Any]]) -> None:
    """One that has asked CUDA cannot be copied any more."""
    here = os.getpid()

    def count(_setting: str) -> tuple[str, ...]:
        return ("0", "1") if os.getpid() != here else ()

    monkeypatch.setattr(slots, "worker_gpus", count)
    with workers_standing_by(loaded_study(), None, describe):
        assert len(forked()) == 2


def test_no_gpu_is_counted_where_the_study_says_how_many_workers(
    monkeypatch: pytest.MonkeyPatch, forked: Callable[[], list[Any]]
) -> None:
    def count(_setting: str) -> tuple[str, ...]:
        raise AssertionError("this process has asked for GPUs and cannot be copied any more")

    monkeypatch.setattr(slots, "worker_gpus", count)
    loaded = loaded_study()
    loaded = replace(loaded, study=loaded.study.model_copy(update={"n_workers": 2}))
    with workers_standing_by(loaded, None, describe):
        assert len(forked()) == 2
