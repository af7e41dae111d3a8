"""Opens Optuna's storage and our tables behind one URL, tuned for several writers and for servers that restart."""

from __future__ import annotations

from dataclasses import dataclass

import optuna
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.engine import Engine

from attnsearch.store.database import create_database, tune_writer, writer_arguments
from attnsearch.store.inspection import inspect_database, server_errors
from attnsearch.store.locks import creation_lock
from attnsearch.store.servers import Connector, connector_of, repeated, wait_for_server


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
    """Optuna's storage and the engine of our own tables, both on one database; made anew in every process."""

    url: str
    storage: BaseStorage
    engine: Engine
    connector: Connector | None = None

    @property
    def is_away(self) -> bool:
        """Whether the server of the database does not answer just now; a file always does."""
        return self.connector is not None and self.connector.is_away

    def was_away_within(self, seconds: float) -> bool:
        """Whether the server was away at some time in the last `seconds`, so that nobody could renew a lease."""
        return self.connector is not None and self.connector.was_away_within(seconds)


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
    if not create:
        return _open(url, create=False, patience_s=patience_s)
    with creation_lock(url):
        create_database(url).dispose()
        return _open(url, create=True, patience_s=patience_s)


def _open(url: str, *, create: bool, patience_s: float) -> Database:
    connector = connector_of(url, patience_s=patience_s)
    writer_url, options = writer_arguments(url, connector)
    with server_errors(url):
        backend = RepeatingStorage(writer_url, engine_kwargs=options, skip_table_creation=not create)
        engine = tune_writer(backend.engine)
    return Database(url, optuna.storages.get_storage(backend), engine, connector)
