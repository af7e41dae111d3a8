"""The trials of studies for readers: from databases that are opened read-only, or from the files of a run of 0.1."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from attnsearch.config.load import load_stored_experiment
from attnsearch.errors import AttnSearchError, StoreError
from attnsearch.files import FileCache, settled_stamp, stamp_of
from attnsearch.search.trials import (
    StudyRows,
    TrialRow,
    find_own,
    is_measured,
    read_storage,
    reader_url,
    rows_of,
)
from attnsearch.store.archive import has_archive, read_archive
from attnsearch.store.epochs import best_epochs_in, read_csv
from attnsearch.store.file_records import check_recorded
from attnsearch.store.image_scores import has_scores, read_scores, scores_frame
from attnsearch.store.layout import ExperimentLayout, StudyLayout
from attnsearch.store.trial_layout import TrialLayout
from attnsearch.store.trial_store import TrialRecords, open_trial_records
from attnsearch.store.urls import connection_url, sqlite_path, url_named
from attnsearch.types import BestEpochs

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

ASK_AGAIN_S = 5.0
"""Seconds until a database that could not be read is tried again."""


class NoCopyStorage:
    """A storage that gives its trials as they are: a reader needs no copy of each, which takes a second for 5,000.

    All other calls go to the storage behind.
    """

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(self, study_id: int, deepcopy: bool = True, states: Any = None) -> list[FrozenTrial]:
        """As the storage behind, without copies."""
        return self._storage.get_all_trials(study_id, deepcopy=False, states=states)


BaseStorage.register(NoCopyStorage)  # it answers all of a storage's calls through the one behind


class StudyDatabases:
    """Databases that stay open; rows are remembered until the file of a database changes. Safe between threads.

    Args:
        storage: URL of the database that a person named; None is each experiment's own file.
    Raises:
        ConfigError: `storage` is not a usable URL.
    """

    def __init__(self, storage: str | None = None) -> None:
        if storage is not None:
            connection_url(storage)
        self._named = storage
        self._urls: FileCache[str] = FileCache(256)
        self._rows: FileCache[StudyRows] = FileCache(256)
        self._storages: dict[tuple[str, bool], BaseStorage] = {}
        self._errors: dict[str, tuple[float, StoreError]] = {}
        self._lock = Lock()

    def url(self, layout: StudyLayout) -> str:
        """The database of a study.

        Raises:
            ConfigError, StoreError: as `reader_url`.
        """
        path = layout.study_yaml
        return self._urls.get(path, stamp_of(path), lambda: reader_url(layout, self._named))

    def shared_url(self, experiment: ExperimentLayout) -> str:
        """The database of an experiment, whatever its studies name."""
        return url_named(self._named, experiment)

    def storage(self, url: str, *, has_reports: bool = True) -> BaseStorage:
        """Optuna's storage, read-only; finished trials are read once.

        Args:
            has_reports: whether trials are read with what they reported of their epochs.
        Raises:
            StoreError: no such database, or one that is not ours; for some seconds without asking again, so that all
                studies on a server that is away wait for it once.
        """
        with self._lock:
            failed_at, error = self._errors.get(url, (-math.inf, None))
            if error is not None and time.monotonic() - failed_at < ASK_AGAIN_S:
                raise error
            key = (url, has_reports)
            if key not in self._storages:
                self._storages[key] = self._open(url, has_reports)
            return self._storages[key]

    def _open(self, url: str, has_reports: bool) -> BaseStorage:
        try:
            return cast(BaseStorage, NoCopyStorage(read_storage(url, has_reports=has_reports)))
        except StoreError as error:
            self._errors[url] = (time.monotonic(), error)
            raise

    def study(self, layout: StudyLayout) -> optuna.Study:
        """Optuna's study, read-only; its trials come without what they reported of their epochs.

        Raises:
            ConfigError, StoreError: the study cannot be read.
        """
        url = self.url(layout)
        return find_own(self.storage(url, has_reports=False), url, layout)

    def rows(self, layout: StudyLayout) -> StudyRows:
        """All trials of a study at this moment.

        Raises:
            ConfigError, StoreError: the study cannot be read.
        """
        if is_plain_run(layout):
            return _plain_rows(layout)
        url = self.url(layout)
        path = sqlite_path(url)
        stamp = time.monotonic_ns() if path is None else settled_stamp(*_written(path))
        return self._rows.get((url, layout.study_dir), stamp, lambda: rows_of(self.study(layout), url))

    def epochs(self, layout: StudyLayout, numbers: Collection[int] | None = None) -> pd.DataFrame:
        """The epochs of some trials, None = all: columns `trial`, `epoch` and `split/metric`, a row per epoch.

        Raises:
            ConfigError, StoreError: the study cannot be read.
        """
        if is_plain_run(layout):
            frame = _plain_epochs(layout).assign(trial=0)
            return frame if numbers is None or 0 in numbers else frame.iloc[:0]
        return self._records(layout).read_epochs(numbers)

    def best_epochs(
        self, layout: StudyLayout, numbers: Collection[int], metrics: Sequence[str], *, is_higher: bool
    ) -> BestEpochs:
        """As `TrialRecords.read_best_epochs`.

        Raises:
            ConfigError, StoreError: the study cannot be read.
        """
        if is_plain_run(layout):
            return best_epochs_in(self.epochs(layout, numbers), metrics)
        return self._records(layout).read_best_epochs(numbers, metrics, is_higher=is_higher)

    def scores(self, layout: StudyLayout) -> pd.DataFrame:
        """All scorings of a study: columns as `TrialRecords.read_scores`; none for a run of version 0.1.

        Raises:
            ConfigError, StoreError: the study cannot be read.
        """
        return scores_frame([]) if is_plain_run(layout) else self._records(layout).read_scores()

    def check_file(self, layout: StudyLayout, number: int, kind: str, path: Path) -> None:
        """Checks that a file is the one that its trial ended with; one that the database does not know passes.

        Args:
            kind: the name of the file in the database, such as `best`.
        Raises:
            StoreError: its checksum is not the recorded one.
        """
        if is_plain_run(layout):
            return
        try:
            is_complete = any(row.number == number and row.state == "complete" for row in self.rows(layout).trials)
            files = self._records(layout).read_artifacts([number]).get(number, {}) if is_complete else {}
        except AttnSearchError as error:
            logger.warning("%s is used without a look at its checksum: %s", path, error)
            return
        check_recorded(path, files.get(kind))

    def _records(self, layout: StudyLayout) -> TrialRecords:
        return open_trial_records(self.url(layout), self.rows(layout).uuid)


def _written(database: Path) -> list[Path]:
    """The files of an SQLite database that hold something: a reader leaves an empty log, which is no change."""
    log = database.with_name(f"{database.name}-wal")
    return [database, *([log] if any(stamp_of(log)[0][2:]) else [])]


def is_plain_run(layout: StudyLayout) -> bool:
    """Whether a `train` of version 0.1 wrote the folder: it holds one trial, and neither study nor database."""
    return layout.trial(0).config.is_file() and not layout.study_yaml.exists()


def _plain_rows(layout: StudyLayout) -> StudyRows:
    """The run as a study of one trial; its values are those of the best epoch.

    Raises:
        ConfigError, StoreError: a file of the run is broken.
    """
    trial = layout.trial(0)
    config = load_stored_experiment(trial.config)
    best_epoch = _best_epoch(trial)
    epochs = _plain_epochs(layout)
    measured = _at(best_epoch, epochs, trial) if len(epochs) and best_epoch else {}
    value = measured.get(config.monitor)
    return StudyRows(
        name=layout.study,
        uuid="",
        objectives={config.monitor: config.monitor_direction},
        trials=(_row(best_epoch, {**measured, **_score_means(trial)}, value, epochs),),
        best=(0,) if best_epoch else (),
    )


def _at(epoch: int, epochs: pd.DataFrame, trial: TrialLayout) -> dict[str, float]:
    rows = epochs.loc[epochs["epoch"] == epoch]
    if rows.empty:
        raise StoreError(f"{trial.epochs_csv} lacks epoch {epoch}, which its maps are of; train the run again")
    return {str(key): float(rows.iloc[0][key]) for key in epochs.columns}


def _row(best_epoch: int, measured: Mapping[str, float], value: float | None, epochs: pd.DataFrame) -> TrialRow:
    return TrialRow(
        number=0,
        state="complete" if best_epoch else "running",
        values=() if value is None else (value,),
        params={},
        metrics={key: value for key, value in measured.items() if is_measured(key)},
        best_epoch=best_epoch,
        epochs_run=len(epochs),
        seconds=float(epochs["train/seconds"].sum()) if len(epochs) else 0.0,
        images_per_s=_speed(epochs) if len(epochs) else 0.0,
        is_feasible=True,
        error=None,
        started=None,
        ended=None,
    )


def _score_means(trial: TrialLayout) -> dict[str, float]:
    """The scores as a search stores them; none where their files are damaged, so that the run can be scored again."""
    paths = trial.scores("val")
    try:
        means = read_scores(paths).trial_means() if has_scores(paths) else {}
    except StoreError:
        return {}
    return {f"val/{name}": mean for name, mean in means.items()}


def _speed(epochs: pd.DataFrame) -> float:
    """Images per second over all epochs: the harmonic mean, for each epoch has as many images."""
    speeds = epochs["train/images_per_s"]
    return len(epochs) / float((1 / speeds).sum()) if (speeds > 0).all() else 0.0


def _best_epoch(trial: TrialLayout) -> int:
    """The epoch whose maps were archived; 0 before that."""
    paths = trial.archive("val")
    try:
        return read_archive(paths, index_only=True).epoch if has_archive(paths) else 0
    except AttnSearchError:
        return 0


def _plain_epochs(layout: StudyLayout) -> pd.DataFrame:
    """The epochs of the run, columns `epoch` and `split/metric`; empty before the first one ended."""
    import pandas as pd

    path = layout.trial(0).epochs_csv
    return _with_slashes(read_csv(path)) if path.exists() else pd.DataFrame(columns=["epoch"])


def _with_slashes(frame: pd.DataFrame) -> pd.DataFrame:
    """`val_accuracy` as the database calls it, `val/accuracy`; the costs are those of training."""

    def renamed(name: str) -> str:
        split, _, metric = name.partition("_")
        return f"{split}/{metric}" if split in ("train", "val", "test") else f"train/{name}"

    return frame.rename(columns={name: renamed(str(name)) for name in frame.columns if name != "epoch"})
