"""Finds the studies and plain runs of a results folder, and reads their rows and epochs without writing."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from attnsearch.config.load import load_stored_experiment
from attnsearch.errors import AttnSearchError, ConfigError, StoreError
from attnsearch.results.cache import FileCache, settled_stamp, stamp_of
from attnsearch.search.trials import StudyRows, TrialRow, find_in, read_storage, reader_url, rows_of
from attnsearch.store.archive import has_archive, read_archive
from attnsearch.store.epochs import read_csv
from attnsearch.store.layout import ExperimentLayout, StudyLayout, TrialLayout
from attnsearch.store.trial_store import open_trial_records
from attnsearch.store.urls import sqlite_path, url_named

if TYPE_CHECKING:
    import pandas as pd


ASK_AGAIN_S = 5.0


class NoCopyStorage:
    """A storage that hands out its trials as they are: who only looks needs no copy of each, which takes a second for
    5,000 of them. All else goes to the storage behind.
    """

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(self, study_id: int, deepcopy: bool = True, states: Any = None) -> list[FrozenTrial]:
        """As the storage behind, without copies."""
        return self._storage.get_all_trials(study_id, deepcopy=False, states=states)


BaseStorage.register(NoCopyStorage)  # it answers all of a storage's calls by handing them on


@dataclass
class Results:
    """The experiments that one server shows; what it reads is remembered until the files change.

    Attributes:
        experiments: name -> layout.
        storage_named: the database that a person named; None is each experiment's own file.
    """

    experiments: Mapping[str, ExperimentLayout]
    storage_named: str | None = None
    _urls: FileCache[str] = field(default_factory=lambda: FileCache(256), repr=False)
    _rows: FileCache[StudyRows] = field(default_factory=lambda: FileCache(256), repr=False)
    _faults: dict[str, tuple[float, StoreError]] = field(default_factory=dict, repr=False)
    _storages: dict[str, BaseStorage] = field(default_factory=dict, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def studies(self) -> list[StudyLayout]:
        """All studies and plain runs, by experiment and name."""
        return [study for one in self.experiments.values() for study in studies_of(one)]

    def find(self, experiment: str, study: str) -> StudyLayout:
        """One study or plain run.

        Raises:
            ConfigError: there is none of this name.
        """
        for layout in studies_of(self.experiments[experiment]) if experiment in self.experiments else ():
            if layout.study == study:
                return layout
        raise ConfigError(f"no study {study!r} in the experiment {experiment!r}")

    def url(self, layout: StudyLayout) -> str:
        """The database of a study.

        Raises:
            ConfigError, StoreError: as `reader_url`.
        """
        path = layout.study_yaml
        return self._urls.get(path, stamp_of(path), lambda: reader_url(layout, self.storage_named))

    def shared_url(self, experiment: ExperimentLayout) -> str:
        """The database of an experiment, whatever its studies name.

        Raises:
            ConfigError: the one that a person named is not a usable URL.
        """
        return url_named(self.storage_named, experiment)

    def storage(self, url: str) -> BaseStorage:
        """Optuna's storage for looking only; finished trials are read once.

        Raises:
            StoreError: no such database, or one that is not ours; for some seconds without asking again, so that all
                studies on a server that is away wait for it once.
        """
        with self._lock:
            failed_at, fault = self._faults.get(url, (-math.inf, None))
            if fault is not None and time.monotonic() - failed_at < ASK_AGAIN_S:
                raise fault
            if url not in self._storages:
                self._storages[url] = self._open(url)
            return self._storages[url]

    def _open(self, url: str) -> BaseStorage:
        try:
            return cast(BaseStorage, NoCopyStorage(read_storage(url)))
        except StoreError as error:
            self._faults[url] = (time.monotonic(), error)
            raise

    def rows(self, layout: StudyLayout) -> StudyRows:
        """All trials of a study at this moment; a plain run is a study of one trial.

        Raises:
            ConfigError, StoreError: the study cannot be read.
        """
        if not layout.study_yaml.is_file():
            return rows_of_run(layout)
        url = self.url(layout)
        path = sqlite_path(url)
        stamp = time.monotonic_ns() if path is None else settled_stamp(path, path.with_name(f"{path.name}-wal"))
        return self._rows.get((url, layout.study), stamp, lambda: self._read(layout, url))

    def _read(self, layout: StudyLayout, url: str) -> StudyRows:
        return rows_of(find_in(self.storage(url), url, layout.study), url)

    def trial(self, layout: StudyLayout, number: int) -> TrialRow:
        """One trial.

        Raises:
            ConfigError: the study has no trial of this number.
        """
        for row in self.rows(layout).trials:
            if row.number == number:
                return row
        raise ConfigError(f"study {layout.study!r} has no trial {number}")

    def epochs(self, layout: StudyLayout, numbers: Collection[int]) -> dict[int, pd.DataFrame]:
        """The epochs of some trials, columns `epoch` and `split/metric`; trials without any are left out."""
        if not layout.study_yaml.is_file():
            path = layout.trial(0).epochs_csv
            return {0: _with_slashes(read_csv(path))} if 0 in numbers and path.exists() else {}
        frame = open_trial_records(self.url(layout), self.rows(layout).uuid, layout).read_epochs(numbers)
        return {int(str(number)): rows.dropna(axis=1, how="all") for number, rows in frame.groupby("trial")}


def studies_of(experiment: ExperimentLayout) -> list[StudyLayout]:
    """The studies and plain runs of an experiment, by name."""
    return sorted([*experiment.studies(), *_runs(experiment)], key=lambda layout: layout.study)


def _runs(experiment: ExperimentLayout) -> list[StudyLayout]:
    """Plain runs: laid out as a study of the one trial 0, without `study.yaml`."""
    if not experiment.directory.is_dir():
        return []
    found = []
    for folder in sorted(path for path in experiment.directory.iterdir() if path.is_dir()):
        try:
            layout = experiment.study(folder.name)
        except ConfigError:
            continue  # another folder, such as `artifacts`
        if layout.trial(0).config.is_file() and not layout.study_yaml.exists():
            found.append(layout)
    return found


def find_experiments(folder: Path) -> dict[str, ExperimentLayout]:
    """The experiments in a folder: those below it, or the folder itself where it is one.

    Raises:
        StoreError: no such folder, or nothing was run in it.
    """
    folder = folder.expanduser().absolute()
    if not folder.is_dir():
        raise StoreError(f"{folder} is no folder; give the results folder or one experiment in it")
    found: dict[str, ExperimentLayout] = {}
    for candidate in (folder, *sorted(folder.iterdir())):
        try:
            experiment = ExperimentLayout.at(candidate)
        except ConfigError:
            continue
        if candidate.is_dir() and studies_of(experiment):
            if candidate == folder:
                return {experiment.experiment: experiment}
            found[experiment.experiment] = experiment
    if not found:
        raise StoreError(f"{folder} holds no study and no run; `attnsearch search` or `attnsearch train` make them")
    return found


def rows_of_run(layout: StudyLayout) -> StudyRows:
    """A plain run as a study of one trial; its values are those of the kept epoch."""
    trial = layout.trial(0)
    config = load_stored_experiment(trial.config)
    kept = _kept_epoch(trial)
    epochs = _with_slashes(read_csv(trial.epochs_csv)) if trial.epochs_csv.exists() else None
    metrics: dict[str, float] = {}
    if epochs is not None and kept:
        rows = epochs.loc[epochs["epoch"] == kept]
        if rows.empty:
            raise StoreError(f"{trial.epochs_csv} lacks epoch {kept}, which its maps are of; train the run again")
        metrics = {str(key): float(rows.iloc[0][key]) for key in epochs.columns if "/" in str(key)}
    value = metrics.get(config.monitor)
    return StudyRows(
        name=layout.study,
        uuid="",
        objectives={config.monitor: config.monitor_direction},
        trials=(_row_of_run(kept, metrics, value, 0 if epochs is None else len(epochs)),),
        best=(0,) if kept else (),
    )


def _row_of_run(kept: int, metrics: Mapping[str, float], value: float | None, n_epochs: int) -> TrialRow:
    return TrialRow(
        number=0,
        state="complete" if kept else "running",
        values=() if value is None else (value,),
        params={},
        metrics=metrics,
        kept_epoch=kept,
        epochs_run=n_epochs,
        seconds=0.0,
        images_per_s=0.0,
        is_feasible=True,
        error=None,
        started=None,
        ended=None,
    )


def _kept_epoch(trial: TrialLayout) -> int:
    """The epoch whose maps were archived; 0 before that."""
    paths = trial.archive("val")
    try:
        return read_archive(paths, index_only=True).epoch if has_archive(paths) else 0
    except AttnSearchError:
        return 0


def _with_slashes(frame: pd.DataFrame) -> pd.DataFrame:
    """`val_accuracy` as the database calls it, `val/accuracy`; the costs are those of training."""

    def renamed(name: str) -> str:
        split, _, metric = name.partition("_")
        return f"{split}/{metric}" if split in ("train", "val", "test") else f"train/{name}"

    return frame.rename(columns={name: renamed(str(name)) for name in frame.columns if name != "epoch"})
