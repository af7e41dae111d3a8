"""How the database of an experiment is made, with write-ahead logging and our tables."""

from __future__ import annotations

import contextlib
import logging

from sqlalchemy import Engine

from attnsearch.errors import StoreError
from attnsearch.files import make_folder
from attnsearch.store.database import database_errors, open_writer, url_of
from attnsearch.store.migration import migrate_database
from attnsearch.store.tables import create_missing
from attnsearch.store.urls import network_file_system, shown, sqlite_path

logger = logging.getLogger(__name__)


def create_database(url: str) -> None:
    """Creates what is missing (folder, file, WAL mode, our tables); for the parent of a search, before Optuna.

    Tables of an earlier version are brought to this one first, see `migrate_database`. Needs `creation_lock`.

    Ours come before Optuna's: a parent killed half-way leaves a database that `inspect_database` still calls ours.

    Raises:
        StoreError: the disk or the server refuses.
    """
    path = sqlite_path(url)
    if path is not None:
        make_folder(path.parent)
        kind = network_file_system(path)
        if kind is not None:
            logger.warning(
                "%s lies on a network file system (%s), where SQLite's locks can fail: keep it on a local disk or give "
                "a postgresql:// storage",
                path,
                kind,
            )
    migrate_database(url)
    engine = open_writer(url)
    try:
        create_tables(engine)
    finally:
        engine.dispose()  # a server counts connections that nobody closes


def create_tables(engine: Engine) -> None:
    """Creates our tables where they are missing and switches SQLite to write-ahead logging, which its file remembers.

    Raises:
        StoreError: the disk or the server refuses.
    """
    with database_errors(engine):
        if engine.dialect.name == "sqlite":
            _set_wal(engine)
        with engine.begin() as connection:
            create_missing(connection)


def _set_wal(engine: Engine) -> None:
    """Past SQLAlchemy, which would begin a transaction: the mode cannot be changed inside one."""
    with contextlib.closing(engine.raw_connection()) as raw:
        cursor = raw.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        (mode,) = cursor.fetchone() or ("",)
    if mode != "wal":
        raise StoreError(
            f"database {shown(url_of(engine))}: this disk cannot hold a write-ahead log "
            f"(SQLite stays in mode {mode!r}), put the database on a local disk or use a postgresql:// storage"
        )
