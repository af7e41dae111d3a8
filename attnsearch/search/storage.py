"""Opens Optuna's storage and our tables behind one URL, tuned for several writers."""

from __future__ import annotations

from dataclasses import dataclass

import optuna
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.engine import Engine

from attnsearch.store.database import create_database, tune_writer, writer_arguments
from attnsearch.store.inspection import inspect_database, server_errors
from attnsearch.store.locks import creation_lock


@dataclass(frozen=True)
class Database:
    """Optuna's storage and the engine of our own tables, both on one database; made anew in every process."""

    url: str
    storage: BaseStorage
    engine: Engine
    is_away: bool = False


def open_database(url: str, *, create: bool = False) -> Database:
    """A database for writing.

    Args:
        create: make schema and tables where they are missing, under a lock; only the parent of a search does so.

    Raises:
        StoreError: foreign, corrupt, newer or absent database, or one that cannot be reached.
    """
    inspect_database(url, must_exist=not create)
    if not create:
        return _open(url, create=False)
    with creation_lock(url):
        create_database(url).dispose()
        return _open(url, create=True)


def _open(url: str, *, create: bool) -> Database:
    writer_url, options = writer_arguments(url)
    with server_errors(url):
        backend = RDBStorage(writer_url, engine_kwargs=options, skip_table_creation=not create)
        engine = tune_writer(backend.engine)
    return Database(url, optuna.storages.get_storage(backend), engine)
