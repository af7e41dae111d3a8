"""The databases of a results folder, opened for reading: rows and epochs of studies, nothing is written."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from threading import Lock
from typing import TYPE_CHECKING, cast

import optuna
from optuna.storages import BaseStorage

from attnsearch.errors import StoreError
from attnsearch.results.cache import FileCache, settled_stamp, stamp_of
from attnsearch.results.optuna_storage import NoCopyStorage
from attnsearch.search.trials import StudyRows, find_in, read_storage, reader_url, rows_of
from attnsearch.store.layout import ExperimentLayout, StudyLayout
from attnsearch.store.trial_store import open_trial_records
from attnsearch.store.urls import connection_url, sqlite_path, url_named

if TYPE_CHECKING:
    import pandas as pd

ASK_AGAIN_S = 5.0
"""Seconds until a database that could not be read is tried again."""


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
        self._storages: dict[str, BaseStorage] = {}
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

    def storage(self, url: str) -> BaseStorage:
        """Optuna's storage, read-only; finished trials are read once.

        Raises:
            StoreError: no such database, or one that is not ours; for some seconds without asking again, so that all
                studies on a server that is away wait for it once.
        """
        with self._lock:
            failed_at, error = self._errors.get(url, (-math.inf, None))
            if error is not None and time.monotonic() - failed_at < ASK_AGAIN_S:
                raise error
            if url not in self._storages:
                self._storages[url] = self._open(url)
            return self._storages[url]

    def _open(self, url: str) -> BaseStorage:
        try:
            return cast(BaseStorage, NoCopyStorage(read_storage(url)))
        except StoreError as error:
            self._errors[url] = (time.monotonic(), error)
            raise

    def study(self, layout: StudyLayout) -> optuna.Study:
        """Optuna's study, read-only.

        Raises:
            ConfigError, StoreError: the study cannot be read.
        """
        url = self.url(layout)
        return find_in(self.storage(url), url, layout.study)

    def rows(self, layout: StudyLayout) -> StudyRows:
        """All trials of a study at this moment.

        Raises:
            ConfigError, StoreError: the study cannot be read.
        """
        url = self.url(layout)
        path = sqlite_path(url)
        stamp = time.monotonic_ns() if path is None else settled_stamp(path, path.with_name(f"{path.name}-wal"))
        return self._rows.get((url, layout.study), stamp, lambda: rows_of(self.study(layout), url))

    def epochs(self, layout: StudyLayout, numbers: Collection[int] | None = None) -> pd.DataFrame:
        """The epochs of some trials, None = all: columns `trial`, `epoch` and `split/metric`, a row per epoch.

        Raises:
            ConfigError, StoreError: the study cannot be read.
        """
        return open_trial_records(self.url(layout), self.rows(layout).uuid).read_epochs(numbers)
