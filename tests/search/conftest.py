"""Handles on small databases, with and without trials."""

from __future__ import annotations

import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from attnsearch.search.handle import StudyHandle, open_database
from attnsearch.search.launchers import local
from attnsearch.search.plan import layout_of
from attnsearch.store import trial_store
from attnsearch.store.layout import StudyLayout
from attnsearch.store.urls import default_url, sqlite_url
from tests.search.studies import loaded_study, plan_of

if TYPE_CHECKING:
    from tests.postgres import PostgresServer

TABLES_OF_STUDIES = (
    "studies",
    *(f"attnsearch_{name}" for name in ("studies", "epoch_values", "scorings", "score_values", "artifacts", "leases")),
)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with all tables and no study: making one takes Optuna longer than most tests."""
    path = tmp_path_factory.mktemp("template") / "hypSearch.db"
    open_database(sqlite_url(path), create=True).close()
    return path


@pytest.fixture(scope="session")
def server_tables(postgres_server: PostgresServer) -> str:
    """The same on the PostgreSQL server of the tests; its URL."""
    url = postgres_server.create_database("with_tables")
    open_database(url, create=True).close()
    return url


@pytest.fixture
def server_url(postgres_server: PostgresServer, server_tables: str) -> Iterator[str]:
    """A database on the server with all tables and no study."""
    yield server_tables
    postgres_server.clear_tables("with_tables", TABLES_OF_STUDIES)


@pytest.fixture(autouse=True)
def server_that_has_run_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the tests was started just now, and leases that ran out since then would be left to their workers."""
    monkeypatch.setattr(trial_store, "server_age_s", lambda _engine: math.inf)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    """Which database `open_tiny` works on; tests under `ON_EACH_DATABASE` run on all."""
    return str(getattr(request, "param", "sqlite"))


@pytest.fixture
def make_database(backend: str, request: pytest.FixtureRequest) -> Callable[[StudyLayout], str]:
    """Puts a database with all tables where a study expects it; returns its URL."""
    source = request.getfixturevalue("empty_database" if backend == "sqlite" else "server_url")

    def make(layout: StudyLayout) -> str:
        if backend == "postgresql":
            return str(source)
        if not layout.database.exists():
            shutil.copy(source, layout.database)
        return default_url(layout)

    return make


@pytest.fixture
def open_tiny(tmp_path: Path, make_database: Callable[[StudyLayout], str]) -> Iterator[Callable[..., StudyHandle]]:
    """Opens a study made on the spot; keyword arguments are fields of the study."""
    handles: list[StudyHandle] = []

    def make(**study: Any) -> StudyHandle:
        loaded = loaded_study(**study)
        layout = layout_of(loaded, tmp_path)
        layout.study_dir.mkdir(parents=True, exist_ok=True)
        handles.append(plan_of(loaded, tmp_path, url=make_database(layout)).open())
        return handles[-1]

    yield make
    for handle in handles:
        handle.database.close()


class PlayedWorker:
    """A process with a known exit code; None runs for ever."""

    def __init__(self, index: int, code: int | None, log: Path, words: str) -> None:
        self.index, self.log, self.started_at = index, log, time.monotonic()
        self.is_closed = False
        self._code, self._words = code, words
        self.popen = self

    def poll(self) -> int | None:
        return self._code

    def terminate(self) -> None:
        self._code = -signal.SIGTERM if self._code is None else self._code

    def kill(self) -> None:
        self._code = -signal.SIGKILL if self._code is None else self._code

    def last_line(self) -> str:
        return self._words

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[PlayedWorker]]:
    """Workers that end with these codes and words, in the order of their starts; returns those that were started."""
    started: list[PlayedWorker] = []

    def install(codes: list[int | None], words: str = "data.root: no such folder") -> list[PlayedWorker]:
        def start(_handle: object, index: int, **_settings: Any) -> PlayedWorker:
            started.append(PlayedWorker(index, codes[len(started)], tmp_path / "worker.log", words))
            return started[-1]

        monkeypatch.setattr(local, "start_worker", start)
        return started

    return install
