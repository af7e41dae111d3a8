"""Sessions on small databases, with and without trials."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from attnsearch.search import crew
from attnsearch.search.session import Session, layout_of, open_session, storage_url
from attnsearch.search.storage import open_database
from attnsearch.search.study import create_study
from attnsearch.store.urls import sqlite_url
from tests.search.studies import loaded_study


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with all tables and no study: making one takes Optuna longer than most tests."""
    path = tmp_path_factory.mktemp("template") / "hypSearch.db"
    open_database(sqlite_url(path), create=True).engine.dispose()
    return path


@pytest.fixture
def open_tiny(tmp_path: Path, empty_database: Path) -> Iterator[Callable[..., Session]]:
    """Opens a session on a study made on the spot; keyword arguments are fields of the study."""
    sessions: list[Session] = []

    def make(**study: Any) -> Session:
        loaded = loaded_study(**study)
        layout = layout_of(loaded, root=tmp_path)
        layout.study_dir.mkdir(parents=True, exist_ok=True)
        shutil.copy(empty_database, layout.database)
        url = storage_url(loaded, layout)
        database = open_database(url, create=True)
        create_study(database, loaded, val_hash="split-a", class_names=("a", "b"))
        database.engine.dispose()
        sessions.append(open_session(loaded, layout, url))
        return sessions[-1]

    yield make
    for session in sessions:
        session.database.engine.dispose()


@pytest.fixture
def interrupts() -> Iterator[None]:
    """SIGINT as at a terminal: a process in the background may have been started with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class PlayedWorker:
    """A process with a known exit code; None runs for ever."""

    def __init__(self, index: int, code: int | None, log: Path) -> None:
        self.index, self.log, self.started_at = index, log.open("a"), time.monotonic()
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

        monkeypatch.setattr(crew, "start_worker", start)
        return started

    yield install
    for worker in started:
        worker.close()
