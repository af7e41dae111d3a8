"""A study as frozen rows, read without writing and without torch: what tables, the explorer and reports show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

from attnsearch.config.load import load_stored_study
from attnsearch.config.variables import URL_VARIABLE
from attnsearch.errors import StoreError
from attnsearch.search.study import UUID, is_feasible
from attnsearch.store.database import reader_arguments
from attnsearch.store.inspection import inspect_database, server_errors
from attnsearch.store.layout import StudyLayout
from attnsearch.store.urls import url_named
from attnsearch.types import METRICS


@dataclass(frozen=True)
class TrialRow:
    """One trial. `values` are the objectives of its kept epoch, `metrics` all that was measured there."""

    number: int
    state: str
    values: tuple[float, ...]
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    kept_epoch: int
    epochs_run: int
    seconds: float
    images_per_s: float
    is_feasible: bool
    error: str | None
    started: datetime | None
    ended: datetime | None


@dataclass(frozen=True)
class StudyRows:
    """A study; `best` are the numbers of its best trial, or of its Pareto front."""

    name: str
    uuid: str
    objectives: Mapping[str, str]
    trials: tuple[TrialRow, ...]
    best: tuple[int, ...]


def read_storage(url: str) -> optuna.storages.BaseStorage:
    """Optuna's storage for looking only: it blocks no worker and writes nothing.

    Raises:
        StoreError: no such database, or one that is not ours.
    """
    inspect_database(url, must_exist=True)
    reader_url, arguments = reader_arguments(url)
    with server_errors(url):
        backend = RDBStorage(
            reader_url, engine_kwargs=arguments, skip_compatibility_check=True, skip_table_creation=True
        )
    return optuna.storages.get_storage(backend)


def reader_url(layout: StudyLayout, storage: str | None) -> str:
    """The database that a reader opens: the one that a person named, or the experiment's own file.

    Args:
        storage: URL from the command line or the environment. What `study.yaml` names is never opened or expanded.
    Raises:
        ConfigError: `storage` is not a usable URL, or `study.yaml` is broken.
        StoreError: the study keeps its trials elsewhere, or the experiment's own file is not ours.
    """
    url = url_named(storage, layout)
    if storage is None and load_stored_study(layout.study_yaml).study.storage and not _holds(url, layout.study):
        raise StoreError(
            f"study {layout.study!r} keeps its trials in another database; give it with --storage URL or {URL_VARIABLE}"
        )
    return url


def _holds(url: str, name: str) -> bool:
    return inspect_database(url) == "ours" and name in optuna.study.get_all_study_names(read_storage(url))


def open_to_read(url: str, name: str) -> optuna.Study:
    """Optuna's study, for looking only.

    Raises:
        StoreError: no such database or study.
    """
    storage = read_storage(url)
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        known = ", ".join(sorted(optuna.study.get_all_study_names(storage))) or "none"
        raise StoreError(f"study {name!r} is not in this database; known: {known}") from None


def read_study(url: str, name: str) -> StudyRows:
    """All trials of a study at this moment.

    Raises:
        StoreError: no such database or study.
    """
    return rows_of(open_to_read(url, name))


def rows_of(study: optuna.Study) -> StudyRows:
    """The rows of an open study."""
    trials = study.get_trials(deepcopy=False)
    names = study.metric_names or [str(index) for index in range(len(study.directions))]
    objectives = {key: direction.name.lower() for key, direction in zip(names, study.directions, strict=True)}
    best = tuple(trial.number for trial in best_feasible(study))
    return StudyRows(study.study_name, str(study.user_attrs.get(UUID, "")), objectives, tuple(map(_row, trials)), best)


def best_feasible(study: optuna.Study) -> list[FrozenTrial]:
    """The best trial, or the Pareto front; empty while no feasible trial is complete."""
    if len(study.directions) > 1:
        return study.best_trials
    try:
        return [study.best_trial]
    except ValueError:
        return []


def _row(trial: FrozenTrial) -> TrialRow:
    attributes = trial.user_attrs
    return TrialRow(
        number=trial.number,
        state=trial.state.name.lower(),
        values=tuple(trial.values or ()),
        params=dict(trial.params),
        metrics={key: value for key, value in attributes.items() if key.partition("/")[2] in METRICS},
        kept_epoch=int(attributes.get("kept_epoch", 0)),
        epochs_run=int(attributes.get("epochs_run", 0)),
        seconds=float(attributes.get("seconds", 0.0)),
        images_per_s=float(attributes.get("images_per_s", 0.0)),
        is_feasible=is_feasible(trial),
        error=attributes.get("error"),
        started=trial.datetime_start,
        ended=trial.datetime_complete,
    )
