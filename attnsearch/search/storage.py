"""Opens Optuna's storage and our tables behind one URL, tuned for several writers."""

from __future__ import annotations

from dataclasses import dataclass

import optuna
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.engine import Engine

from attnsearch.store.database import BUSY_TIMEOUT_S, create_database, tune_writer
from attnsearch.store.inspection import inspect_database, server_errors


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
        create: make schema and tables where they are missing; only the parent of a search does so.

    Raises:
        StoreError: foreign, corrupt, newer or absent database, or one that cannot be reached.
    """
    inspect_database(url, must_exist=not create)
    if create:
        create_database(url)
    engine_settings = (
        {"connect_args": {"timeout": BUSY_TIMEOUT_S}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    )
    with server_errors(url):
        backend = RDBStorage(url, engine_kwargs=engine_settings)
        engine = tune_writer(backend.engine)
    return Database(url, optuna.storages.get_storage(backend), engine)
