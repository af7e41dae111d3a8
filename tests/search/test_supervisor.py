"""How a worker ends, and what the supervisor makes of it; the trials, or the whole worker, are played."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from attnsearch.cli import searching
from attnsearch.errors import ConfigError, DataError, StoreError
from attnsearch.search import supervisor as module
from attnsearch.search import worker as worker_module
from attnsearch.search.context import Worker
from attnsearch.search.session import Session
from attnsearch.search.supervisor import Crew
from tests.search.studies import loaded_study

Open = Callable[..., Session]


class PlayedWorker:
    """A process with a known exit code; None runs for ever."""

    def __init__(self, index: int, code: int | None, log: Path) -> None:
        self.index, self.log, self.started_at = index, log.open("a"), 0.0
        self._code = code

    def poll(self) -> int | None:
        return self._code

    def last_words(self) -> str:
        return "data.root: no such folder"

    def close(self) -> None:
        self.log.close()


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[list[int | None]], list[PlayedWorker]]]:
    """Workers that end with these codes, in the order of their starts; returns those that were started."""
    started: list[PlayedWorker] = []

    def install(codes: list[int | None]) -> list[PlayedWorker]:
        def start(layout: object, url: str, index: int, **_settings: Any) -> PlayedWorker:
            started.append(PlayedWorker(index, codes[len(started)], tmp_path / "worker.log"))
            return started[-1]

        monkeypatch.setattr(module, "start_worker", start)
        return started

    yield install
    for worker in started:
        worker.close()


@pytest.mark.parametrize("code", [-9, 130])
def test_worker_that_a_signal_ended_is_started_again(open_tiny: Open, play: Any, code: int) -> None:
    started = play([code, None])
    crew = Crew(open_tiny(), n_workers=1, started_at=0.0)
    assert crew.is_working()
    assert len(started) == 2


def test_worker_that_found_nothing_more_to_do_is_not(open_tiny: Open, play: Any) -> None:
    started = play([0])
    assert not Crew(open_tiny(), n_workers=1, started_at=0.0).is_working()
    assert len(started) == 1


@pytest.mark.parametrize(("code", "kind"), [(1, StoreError), (2, ConfigError)])
def test_fault_of_a_worker_stops_the_study_with_its_words(
    open_tiny: Open, play: Any, code: int, kind: type[Exception]
) -> None:
    play([code])
    with pytest.raises(kind, match=r"^data\.root: no such folder$"):
        Crew(open_tiny(), n_workers=1, started_at=0.0).is_working()


def test_only_word_of_a_worker_is_the_error_that_ended_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def run(session: object, worker: object, *, started_at: float) -> None:
        print("downloading")  # as a library would; nobody reads the pipe before the worker ends
        raise DataError("x.jpg is broken")

    monkeypatch.setattr(worker_module, "run_worker", run)
    monkeypatch.setattr(searching, "load_study", lambda path: loaded_study())
    monkeypatch.setattr(searching, "open_session", lambda *arguments: None)
    assert searching.work(tmp_path / "results/here/hunt/study.yaml", parent=0, started_at=0.0) == 2
    written = capsys.readouterr()
    assert written.out == "x.jpg is broken\n"
    assert "downloading" in written.err


def test_worker_that_was_asked_to_stop_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(session: object, worker: Worker, *, started_at: float) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(worker_module, "run_worker", run)
    monkeypatch.setattr(searching, "load_study", lambda path: loaded_study())
    monkeypatch.setattr(searching, "open_session", lambda *arguments: None)
    assert searching.work(tmp_path / "results/here/hunt/study.yaml", parent=0, started_at=0.0) == 130
