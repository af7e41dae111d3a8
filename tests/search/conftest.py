"""Sessions on small databases, with and without trials."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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
