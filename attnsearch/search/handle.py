"""What every process of a search holds: the checked study, its folder, its database and the lock around asking."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import optuna
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState

from attnsearch.config.load import LoadedStudy
from attnsearch.errors import StoreError
from attnsearch.files import make_folder
from attnsearch.search.storage import Database, open_database
from attnsearch.search.study import UUID, open_optuna_study
from attnsearch.store.layout import StudyLayout
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
            f"{layout.study_dir}: another process runs this study; wait for it, stop it, or choose another name="
        ) from None
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class StudyHandle:
    """One process's view of a study. Never pickled: each process opens its own."""

    loaded: LoadedStudy
    layout: StudyLayout
    database: Database
    study: optuna.Study
    store: TrialStore

    @property
    def uuid(self) -> str:
        return str(self.study.user_attrs[UUID])

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Trials in some states, all where none is named."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def is_finished(self, trial: FrozenTrial | optuna.Trial) -> bool:
        """Whether the database has an end of this trial."""
        return self.database.storage.get_trial(trial._trial_id).state.is_finished()

    def return_to_waiting(self, trial: FrozenTrial | optuna.Trial) -> None:
        """Makes the next ask hand out this trial again, with its number and parameters. Needs `store.exclusive`."""
        self.database.storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)


def open_handle(loaded: LoadedStudy, layout: StudyLayout, url: str) -> StudyHandle:
    """A handle on a study that exists.

    Raises:
        StoreError: there is none, or its database cannot be used.
    """
    return handle_on(open_database(url, patience_s=loaded.study.storage_patience_s), loaded, layout)


def handle_on(database: Database, loaded: LoadedStudy, layout: StudyLayout) -> StudyHandle:
    """As `open_handle`, in a database that is open.

    Raises:
        StoreError: there is no such study.
    """
    study = open_optuna_study(database, loaded.study)
    store = SqlTrialStore(database.connections, str(study.user_attrs[UUID]), layout)
    return StudyHandle(loaded, layout, database, study, store)
