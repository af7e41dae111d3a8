"""Opens Optuna's storage and our tables behind one URL, tuned for several writers and for servers that restart."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import optuna
from optuna.storages import BaseStorage, RDBStorage

from attnsearch.store.database import Connections, connect_writer, create_database
from attnsearch.store.inspection import inspect_database
from attnsearch.store.locks import creation_lock
from attnsearch.store.servers import repeated, wait_for_server


class RepeatingStorage(RDBStorage):
    """Optuna's storage, repeating what was cut off by a lost connection; a second time it changes nothing.

    Not `create_new_study`, `create_new_trial` and `set_trial_state_values`: their callers look first what has become of
    the first attempt.
    """


for _name in (
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_all_studies",
    "get_trial",
    "get_trial_id_from_study_id_trial_number",
    "_get_trials",
    "_get_best_trial_id",
    "set_study_user_attr",
    "set_study_system_attr",
    "_set_trial_param",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
):
    setattr(RepeatingStorage, _name, repeated(getattr(RDBStorage, _name)))


@dataclass(frozen=True)
class Database:
    """Optuna's storage, and the connections that it shares with our own tables; each process opens its own."""

    storage: BaseStorage
    connections: Connections

    @property
    def url(self) -> str:
        return self.connections.url

    def close(self) -> None:
        """Closes the connections; a later use opens new ones."""
        self.connections.close()


@repeated
def open_database(url: str, *, create: bool = False, patience_s: float = 0.0) -> Database:
    """A database for writing.

    Args:
        create: make schema and tables where they are missing, under a lock; only the parent of a search does so.
        patience_s: seconds that a server may be away, now and later.

    Raises:
        StoreError: foreign, corrupt, newer or absent database, or one that cannot be reached.
    """
    wait_for_server(url, patience_s=patience_s)
    inspect_database(url, must_exist=not create)
    return create_storage(url, patience_s=patience_s) if create else _open(url, create=False, patience_s=patience_s)


@repeated
def create_storage(url: str, *, patience_s: float) -> Database:
    """As `open_database` with `create`, for a database that has been inspected already.

    Raises:
        StoreError: the database refuses, or another process has held the lock of the creation too long.
    """
    with creation_lock(url):
        create_database(url)
        return _open(url, create=True, patience_s=patience_s)


def _open(url: str, *, create: bool, patience_s: float) -> Database:
    make = partial(RepeatingStorage, skip_table_creation=not create)
    storage, connections = connect_writer(url, make, patience_s=patience_s)
    return Database(optuna.storages.get_storage(storage), connections)
