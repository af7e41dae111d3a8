"""Locks between the processes that use a database: the server's own on PostgreSQL, a file on SQLite."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import DBAPIError

from attnsearch.errors import StoreError
from attnsearch.files import locked
from attnsearch.store.database import database_errors, open_writer
from attnsearch.store.layout import creation_lock_of
from attnsearch.store.urls import sqlite_path

TIMEOUT_S = 120.0


@contextmanager
def creation_lock(url: str, *, timeout_s: float = TIMEOUT_S) -> Iterator[None]:
    """Held while tables or a study are created: of several first starts one creates them and the others find them.

    Raises:
        StoreError: another process holds it for all of `timeout_s`, or the disk or the server refuses.
    """
    path = sqlite_path(url)
    if path is not None:
        with locked(creation_lock_of(path), timeout_s=timeout_s):
            yield
        return
    engine = open_writer(url)
    try:
        with _server_lock(engine, "create", timeout_s=timeout_s):
            yield
    finally:
        engine.dispose()


@contextmanager
def study_lock(engine: Engine, study_uuid: str, *, file: Path, timeout_s: float = TIMEOUT_S) -> Iterator[None]:
    """Held while the state of a trial changes; on a server it reaches searches from other folders and machines too.

    Not re-entrant.

    Args:
        file: the lock file of the study, for SQLite.
    Raises:
        StoreError: another process holds it for all of `timeout_s`, or the disk or the server refuses.
    """
    if engine.dialect.name == "sqlite":
        with locked(file, timeout_s=timeout_s):
            yield
        return
    with _server_lock(engine, f"study {study_uuid}", timeout_s=timeout_s):
        yield


@contextmanager
def _server_lock(engine: Engine, name: str, *, timeout_s: float) -> Iterator[None]:
    """An advisory lock of a transaction: the server releases it with the connection, however the process ends.

    Raises:
        ConnectionLost: after the block, if the connection broke, so that others may have held the lock meanwhile.
    """
    with database_errors(engine):
        connection = engine.connect()
    with connection:
        with database_errors(engine):
            _acquire(connection, name, timeout_s)
        try:
            yield
        except BaseException:
            with suppress(DBAPIError, StoreError):  # the server has released the lock of a connection that was lost
                connection.rollback()
            raise
        with database_errors(engine):
            connection.execute(select(1))
            connection.rollback()


def _acquire(connection: Connection, name: str, timeout_s: float) -> None:
    limits = {
        "lock_timeout": round(1000 * timeout_s),  # ms
        "statement_timeout": 0,  # 0 = none, whatever the server's default
        "idle_in_transaction_session_timeout": 0,
    }
    connection.execute(select(*(func.set_config(key, str(value), True) for key, value in limits.items())))
    connection.execute(select(func.pg_advisory_xact_lock(_key(name))))


def _key(name: str) -> int:
    """The 64-bit number that stands for a name; locks of different databases on one server never meet."""
    digest = hashlib.sha256(f"attnsearch {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
