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
from attnsearch.search.processes import signals_held
from attnsearch.search.session import Session
from attnsearch.search.supervisor import Crew, supervise
from tests.search.studies import loaded_study

Open = Callable[..., Session]


class PlayedWorker:
    """A process with a known exit code; None runs for ever."""

    def __init__(self, index: int, code: int | None, log: Path) -> None:
        self.index, self.log, self.started_at = index, log.open("a"), 0.0
        self._code = code
        self.popen = self

    def poll(self) -> int | None:
        return self._code

    def send_signal(self, number: int) -> None:
        self._code = -number

    def wait(self) -> int | None:
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


def crew_of(session: Session) -> Crew:
    crew = Crew(session, n_workers=1, started_at=0.0)
    crew.start()
    return crew


@pytest.mark.parametrize("code", [-9, 130])
def test_worker_that_a_signal_ended_is_started_again(open_tiny: Open, play: Any, code: int) -> None:
    started = play([code, None])
    assert crew_of(open_tiny()).is_working()
    assert len(started) == 2


def test_worker_that_found_nothing_more_to_do_is_not(open_tiny: Open, play: Any) -> None:
    started = play([0])
    assert not crew_of(open_tiny()).is_working()
    assert len(started) == 1


@pytest.mark.parametrize(("code", "kind"), [(1, StoreError), (2, ConfigError)])
def test_fault_of_a_worker_stops_the_study_with_its_words(
    open_tiny: Open, play: Any, code: int, kind: type[Exception]
) -> None:
    play([code])
    with pytest.raises(kind, match=r"^data\.root: no such folder$"):
        crew_of(open_tiny()).is_working()


def fail_to_start() -> None:
    raise OSError("no process is left")


@pytest.mark.parametrize(
    ("harm", "kind", "n_started"),
    [(lambda: signal.raise_signal(signal.SIGINT), KeyboardInterrupt, 2), (fail_to_start, OSError, 1)],
)
def test_what_comes_while_workers_are_started_leaves_none_behind(
    open_tiny: Open,
    play: Any,
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[], None],
    kind: type[BaseException],
    n_started: int,
) -> None:
    started = play([None, None, None])
    start = module.start_worker

    def start_harmed(layout: Any, url: str, index: int, **settings: Any) -> Any:
        if index == 1:
            harm()
        return start(layout, url, index, **settings)

    monkeypatch.setattr(module, "start_worker", start_harmed)
    with pytest.raises(kind):
        supervise(open_tiny(), n_workers=3, should_stop=lambda: False, tick=lambda _session: None)
    assert [worker.poll() for worker in started] == [-signal.SIGTERM] * n_started
    assert all(worker.log.closed for worker in started)


def test_held_signals_arrive_after_the_block() -> None:
    seen: list[str] = []

    def step() -> None:
        with signals_held():
            signal.raise_signal(signal.SIGINT)
            seen.append("rest of the block")

    with pytest.raises(KeyboardInterrupt):
        step()
    assert seen == ["rest of the block"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_trial_of_a_killed_search_goes_back_though_the_budget_is_spent(open_tiny: Open, play: Any) -> None:
    session = open_tiny(n_trials=1)
    session.study.tell(session.study.ask(), 0.5)
    session.study.ask()  # under a larger budget than now
    started = play([])
    assert supervise(session, n_workers=1, should_stop=lambda: False, tick=lambda _session: None) == "finished"
    assert [trial.state.name for trial in session.trials()] == ["COMPLETE", "WAITING"]
    assert not started


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
