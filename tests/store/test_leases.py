"""Locks between processes on one database, played by two holders in one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg import sql
from sqlalchemy import Engine

from attnsearch.errors import ConnectionLost, StoreError
from attnsearch.store.database import open_writer
from attnsearch.store.leases import creation_lock, study_lock
from tests.postgres import PostgresServer

HELD = r"another process has held this lock for 0\.05 s|due to lock timeout; another process holds this lock"


@pytest.fixture
def server_engine(postgres_url: str) -> Iterator[Engine]:
    engine = open_writer(postgres_url)
    yield engine
    engine.dispose()


def test_database_is_created_by_one_process_at_a_time(url: str) -> None:
    with creation_lock(url), pytest.raises(StoreError, match=HELD), creation_lock(url, timeout_s=0.05):
        pass
    with creation_lock(url, timeout_s=0.05):
        pass


def test_study_is_changed_by_one_process_at_a_time(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "ask.lock"
    with (
        study_lock(engine, "uuid", file=file),
        pytest.raises(StoreError, match=HELD),
        study_lock(engine, "uuid", file=file, timeout_s=0.05),
    ):
        pass
    with study_lock(engine, "uuid", file=file, timeout_s=0.05):
        pass


def test_study_on_a_server_is_locked_from_whatever_folder(server_engine: Engine, tmp_path: Path) -> None:
    with (
        study_lock(server_engine, "uuid", file=tmp_path / "here"),
        pytest.raises(StoreError, match=HELD),
        study_lock(server_engine, "uuid", file=tmp_path / "there", timeout_s=0.05),
    ):
        pass


def test_studies_of_one_server_are_locked_apart(
    server_engine: Engine, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    held = sql.SQL("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted")
    with (
        study_lock(server_engine, "uuid", file=tmp_path / "ask.lock"),
        study_lock(server_engine, "another", file=tmp_path / "ask.lock", timeout_s=0.05),
    ):
        assert postgres_server.execute(held) == [(2,)]


def test_lock_ends_with_the_block_that_fails(url: str) -> None:
    with pytest.raises(KeyError), creation_lock(url):
        raise KeyError
    with creation_lock(url, timeout_s=0.05):
        pass


def test_block_whose_lock_was_lost_is_told_so_and_leaves_nothing_locked(
    server_engine: Engine, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    others = sql.SQL(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
        "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    with pytest.raises(ConnectionLost), study_lock(server_engine, "uuid", file=tmp_path / "ask.lock"):
        assert (True,) in postgres_server.execute(others)
    with study_lock(server_engine, "uuid", file=tmp_path / "ask.lock", timeout_s=0.05):
        pass
