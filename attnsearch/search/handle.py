"""What every process of a search holds: its checked study, opened in a database that Optuna's tables and ours share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from attnsearch.config.load import LoadedStudy
from attnsearch.errors import StoreError
from attnsearch.files import make_folder, remove_stale_temporaries
from attnsearch.search.history import freeze_bounds
from attnsearch.search.storage import RepeatingStorage
from attnsearch.search.study import STARTED_AT, UUID, create_study, open_optuna_study
from attnsearch.store.creation import create_database
from attnsearch.store.database import Connections, connect_writer
from attnsearch.store.inspection import inspect_database
from attnsearch.store.layout import StudyLayout
from attnsearch.store.leases import creation_lock
from attnsearch.store.retention import remove_resumes
from attnsearch.store.servers import repeated, wait_for_server
from attnsearch.store.trial_store import SqlTrialStore, TrialStore


@contextmanager
def only_runner(layout: StudyLayout) -> Iterator[None]:
    """Refuses to run one study twice at a time.

    Raises:
        StoreError: another process runs it.
    """
    make_folder(layout.study_dir)
    lock = FileLock(layout.run_lock, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise StoreError(
            f"{layout.study_dir}: another process runs this study; wait for it, stop it, take part in it with --join, "
            "or choose another name="
        ) from None
    try:
        yield
    finally:
        lock.release()


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
        create: make our tables and Optuna's where they are missing, under a lock; only the parent of a search does so.
        patience_s: seconds that a server may be away, now and later.

    Raises:
        StoreError: foreign, corrupt, newer or absent database, or one that cannot be reached.
    """
    wait_for_server(url, patience_s=patience_s)
    inspect_database(url, must_exist=not create, is_current=not create, is_thorough=create)
    return _create(url, patience_s=patience_s) if create else _open(url, create=False, patience_s=patience_s)


@repeated
def _create(url: str, *, patience_s: float) -> Database:
    """As `open_database` with `create`, for a database that has been inspected already."""
    with creation_lock(url):
        create_database(url)
        return _open(url, create=True, patience_s=patience_s)


def _open(url: str, *, create: bool, patience_s: float) -> Database:
    make = partial(RepeatingStorage, skip_table_creation=not create)
    storage, connections = connect_writer(url, make, patience_s=patience_s)
    return Database(optuna.storages.get_storage(storage), connections)


@dataclass(frozen=True)
class StudyHandle:
    """One process's view of a study. Never pickled: each process opens its own."""

    loaded: LoadedStudy
    layout: StudyLayout
    database: Database
    study: optuna.Study
    store: TrialStore

    @property
    def started_at(self) -> float:
        """When a person last started the study, by the clock of its store; failures before that do not count."""
        return float(self.study.user_attrs.get(STARTED_AT, 0.0))

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Trials in some states, all where none is named."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def is_finished(self, trial: FrozenTrial | optuna.Trial) -> bool:
        """Whether the database has an end of this trial."""
        return self.database.storage.get_trial(trial._trial_id).state.is_finished()

    def tell(self, trial: optuna.Trial, values: Sequence[float] | None, state: TrialState) -> None:
        """Ends a trial. Needs `store.exclusive`."""
        self.study.tell(trial, values, state=state)
        freeze_bounds(self.study, self.database.url)

    def return_to_waiting(self, trial: FrozenTrial | optuna.Trial) -> None:
        """Makes the next ask hand out this trial again, with its number and parameters. Needs `store.exclusive`."""
        self.database.storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)

    def remove_resumes(self, numbers: Iterable[int]) -> None:
        """Deletes the resume checkpoints of these finished trials, unless the study keeps them.

        Raises:
            StoreError: the disk refuses.
        """
        if not self.loaded.study.retention.resume:
            remove_resumes(numbers, self.layout)

    def remove_leftovers(self) -> None:
        """Deletes what killed processes have left: resume checkpoints of finished trials, and half-written files.

        Raises:
            StoreError: the disk refuses.
        """
        self.remove_resumes([trial.number for trial in self.trials() if trial.state.is_finished()])
        remove_stale_temporaries(self.layout.study_dir)


def create_handle(loaded: LoadedStudy, layout: StudyLayout, url: str, identity: Mapping[str, Any]) -> StudyHandle:
    """A handle on a study, which is made where it is missing, in a database that has been inspected already.

    Args:
        identity: from `study_identity`.
    Raises:
        ConfigError: the study exists with another identity; the difference is printed.
        StoreError: the database refuses, or another process has held the lock of the creation too long.
    """
    database = _create(url, patience_s=loaded.study.storage_patience_s)
    with creation_lock(url):
        create_study(database.storage, loaded.study, identity)
    return _handle_on(database, loaded, layout)


def open_handle(loaded: LoadedStudy, layout: StudyLayout, url: str) -> StudyHandle:
    """A handle on a study that exists.

    Raises:
        StoreError: there is none, or its database cannot be used.
    """
    return _handle_on(open_database(url, patience_s=loaded.study.storage_patience_s), loaded, layout)


def _handle_on(database: Database, loaded: LoadedStudy, layout: StudyLayout) -> StudyHandle:
    study = open_optuna_study(database.storage, loaded.study)
    store = SqlTrialStore(database.connections, str(study.user_attrs[UUID]), layout)
    return StudyHandle(loaded, layout, database, study, store)
