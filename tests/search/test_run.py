"""How a worker ends, and what the supervisor leaves behind; the trials, or the whole worker, are played."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attnsearch.cli import main
from attnsearch.errors import DataError, DeviceError, SearchStopped
from attnsearch.search.context import Worker
from attnsearch.search.handle import StudyHandle
from attnsearch.search.launchers import WorkerOrders, process
from attnsearch.search.launchers.local import WorkerPool
from attnsearch.search.run import supervise

Open = Callable[..., StudyHandle]


def test_trial_of_a_killed_search_goes_back_though_the_budget_is_spent(open_tiny: Open, play: Any) -> None:
    handle = open_tiny(n_trials=1)
    handle.study.tell(handle.study.ask(), 0.5)
    handle.study.ask()  # under a larger budget than now
    started = play([])
    launcher = WorkerPool(handle, n_workers=1)
    assert supervise(handle, launcher, should_stop=lambda: False, tick=lambda _handle: None) == "finished"
    assert [trial.state.name for trial in handle.trials()] == ["COMPLETE", "WAITING"]
    assert not started


def worker_command(folder: Path) -> list[str]:
    file = folder / "results/here/hunt/study.yaml"
    file.parent.mkdir(parents=True)
    file.touch()
    return ["worker", str(file), "--parent", "0"]


def test_only_word_of_a_worker_is_the_error_that_ended_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def work(*_arguments: object) -> None:
        print("downloading")  # as a library would; nobody reads the pipe before the worker ends
        raise DataError("x.jpg is broken")

    monkeypatch.setattr(process, "work", work)
    assert main(worker_command(tmp_path)) == 2
    written = capsys.readouterr()
    assert written.out == "x.jpg is broken\n"
    assert "downloading" in written.err


def test_worker_that_was_asked_to_stop_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def work(_orders: WorkerOrders, worker: Worker) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return 130 if worker.stop.wait(60) else 0

    monkeypatch.setattr(process, "work", work)
    assert main(worker_command(tmp_path)) == 130


@pytest.mark.parametrize("error", [DeviceError("CUDA error: unknown error"), KeyError("oops")])
def test_worker_ends_with_a_code_of_its_own_after_an_error_that_may_pass(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, error: Exception
) -> None:
    def work(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(process, "work", work)
    assert main(worker_command(tmp_path)) == 75
    assert capsys.readouterr().out in ("CUDA error: unknown error\n", "unexpected KeyError: 'oops'\n")


class EndedWorkers:
    """A launcher whose workers have all ended without an error, after some trials."""

    def __init__(self, handle: StudyHandle, n_done: int) -> None:
        self._handle, self._n_done = handle, n_done

    def start(self) -> None:
        for _ in range(self._n_done):
            self._handle.study.tell(self._handle.study.ask(), 0.5)

    def is_working(self) -> bool:
        return False

    def stop(self) -> None:
        """Nobody is left."""

    def is_dead(self, worker: str) -> bool:
        return True


@pytest.mark.parametrize(("n_done", "is_stopped", "outcome"), [
    (4, False, "finished"),
    (1, True, "interrupted"),  # a signal to the whole group reached them first
])  # fmt: skip
def test_search_whose_workers_ended_early_is_not_finished(
    open_tiny: Open, n_done: int, is_stopped: bool, outcome: str
) -> None:
    handle = open_tiny(n_trials=4)
    launcher = EndedWorkers(handle, n_done)
    assert supervise(handle, launcher, should_stop=lambda: is_stopped, tick=lambda _handle: None) == outcome


def test_workers_that_all_left_are_no_interruption(open_tiny: Open) -> None:
    handle = open_tiny(n_trials=4)
    with pytest.raises(SearchStopped, match=r"all workers ended by themselves after 1 of 4 trials"):
        supervise(handle, EndedWorkers(handle, 1), should_stop=lambda: False, tick=lambda _handle: None)


def test_stopped_search_starts_no_worker_again(open_tiny: Open) -> None:
    looks: list[str] = []

    class SignalledWorkers(EndedWorkers):
        """Workers that the signal has ended too, and that would be started again if anyone looked."""

        def is_working(self) -> bool:
            looks.append("started again")
            return True

    handle = open_tiny()
    launcher = SignalledWorkers(handle, 0)
    outcome = supervise(handle, launcher, should_stop=lambda: True, tick=lambda _handle: None)
    assert (outcome, looks) == ("interrupted", [])
