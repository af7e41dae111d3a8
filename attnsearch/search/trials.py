"""Trials of a study, read without writing and without torch: as frozen rows, the best ones, how many count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from attnsearch.config.load import load_stored_settings
from attnsearch.errors import ConfigError, StoreError
from attnsearch.metrics.registry import is_metric
from attnsearch.search.brackets import brackets_of, is_paused
from attnsearch.search.choice import best_of, best_trials, is_feasible, refined, stored_race, ties_of
from attnsearch.search.standings import Standing, standings_of
from attnsearch.search.storage import TrialStorage, without_collector
from attnsearch.search.study import (
    IDENTITY,
    IMPORTED_FROM,
    RETURNED,
    UUID,
    Bounds,
    Stop,
    experiment_of,
    find_optuna_study,
    stored_bounds,
    stored_stop,
)
from attnsearch.store.database import connect_reader
from attnsearch.store.inspection import database_content_errors, inspect_database
from attnsearch.store.layout import StudyLayout
from attnsearch.store.servers import wait_for_server
from attnsearch.store.urls import shown, url_named
from attnsearch.types import SPLITS, URL_VARIABLE

MAX_COUNT = 2**53
"""Whole numbers below it are exact in the scripts of the pages."""


def best_epoch(attributes: Mapping[str, Any]) -> Any:
    """The best epoch among the attributes of a trial, unchecked; `kept_epoch` in version 0.1; 0 = none."""
    return attributes.get("best_epoch", attributes.get("kept_epoch", 0))


@dataclass(frozen=True)
class TrialRow:
    """One trial. `values` are the objectives of its best epoch, `metrics` all that was measured there.

    `values` of a paused or pruned trial are what it has reached so far, empty where not known. `error` is why it
    failed, or why it waits after an attempt; `standing` is the last rung that it has reached, unless it runs or is
    complete; `imported_from` is the trial of another study that it is a copy of, as `EXPERIMENT/STUDY:NUMBER`.
    """

    number: int
    state: str
    values: tuple[float, ...]
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    best_epoch: int
    epochs_run: int
    seconds: float
    images_per_s: float
    is_feasible: bool
    error: str | None
    started: datetime | None
    ended: datetime | None
    standing: Standing | None = None
    imported_from: str = ""


@dataclass(frozen=True)
class StudyRows:
    """A study.

    Attributes:
        best: numbers of its best trial, or of its Pareto front.
        bounds: see `stored_bounds`.
        ties: numbers of the trials that are not surely beaten, within two standard errors of the leader.
        n_refined: images that the scores of these were measured on after the search; None without a race.
        stop: why its patience ended, also where it has been continued since.
    """

    name: str
    uuid: str
    objectives: Mapping[str, str]
    trials: tuple[TrialRow, ...]
    best: tuple[int, ...]
    bounds: Bounds | None = None
    ties: tuple[int, ...] = ()
    n_refined: int | None = None
    stop: Stop | None = None

    @property
    def complete(self) -> list[TrialRow]:
        """The trials that were trained to their end."""
        return [trial for trial in self.trials if trial.state == "complete"]


def read_storage(url: str, *, has_reports: bool = True) -> optuna.storages.BaseStorage:
    """Optuna's storage for looking only: it blocks no worker and writes nothing.

    Args:
        has_reports: whether trials are read with what they reported of their epochs.
    Raises:
        StoreError: no such database, or one that is not ours.
    """
    inspect_database(url, must_exist=True, is_thorough=False)  # all pages of a large file would take seconds
    return open_read_storage(url, has_reports=has_reports)


def open_read_storage(url: str, *, has_reports: bool = True) -> optuna.storages.BaseStorage:
    """As `read_storage`, for a database that has been inspected already.

    Raises:
        StoreError: it cannot be read.
    """
    make = partial(TrialStorage, skip_compatibility_check=True, skip_table_creation=True, has_reports=has_reports)
    with database_content_errors(url):
        return optuna.storages.get_storage(connect_reader(url, make))


def open_stored(url: str, *, patience_s: float) -> optuna.storages.BaseStorage | None:
    """What the database of a search holds, read-only; None where it is new. Waits for its server.

    Raises:
        StoreError: it cannot be reached, or is not ours.
    """
    wait_for_server(url, patience_s=patience_s)
    return open_read_storage(url) if inspect_database(url) == "ours" else None


def reader_url(layout: StudyLayout, storage: str | None) -> str:
    """The database that a reader opens: the one that was named, or the experiment's own file.

    Args:
        storage: URL from the command line or the environment. What `study.yaml` names is never opened or expanded.
    Raises:
        ConfigError: `storage` is not a usable URL, or `study.yaml` is broken.
        StoreError: the study keeps its trials elsewhere, or the experiment's own file is not ours.
    """
    url = url_named(storage, layout)
    if storage is None and load_stored_settings(layout.study_yaml).storage and not _holds(url, layout.study):
        raise StoreError(
            f"study {layout.study!r} keeps its trials in another database; give it with --storage URL or {URL_VARIABLE}"
        )
    return url


def _holds(url: str, name: str) -> bool:
    with database_content_errors(url):
        is_ours = inspect_database(url, is_thorough=False) == "ours"
        return is_ours and name in optuna.study.get_all_study_names(read_storage(url))


def open_to_read(url: str, layout: StudyLayout) -> optuna.Study:
    """Optuna's study of a folder, for looking only.

    Raises:
        StoreError: no such database or study, or the study is that of another experiment.
    """
    return find_own(read_storage(url), url, layout)


def find_own(storage: optuna.storages.BaseStorage, url: str, layout: StudyLayout) -> optuna.Study:
    """Optuna's study of a folder, in a storage that is open.

    Raises:
        StoreError: no such study, one of another experiment, or a damaged database.
    """
    study = find_in(storage, url, layout.study)
    with database_content_errors(url):
        check_owner(study, layout)
    return study


def check_owner(study: optuna.Study, layout: StudyLayout) -> None:
    """Checks that a study is that of the folder: a database has each name once, but several experiments may share it.

    Raises:
        StoreError: it belongs to another experiment, also by the `study.yaml` of a folder that was copied or renamed.
    """
    if not is_own(study.user_attrs, layout):
        raise StoreError(
            f"the study {layout.study!r} in this database belongs to the experiment "
            f"{experiment_of(study.user_attrs[IDENTITY])!r}, not to {layout.experiment!r}; name the database of "
            f"{layout.experiment}/{layout.study} with --storage URL"
        )


def is_own(attributes: Mapping[str, Any], layout: StudyLayout) -> bool:
    """Whether a stored study is that of the folder, by its user attributes; so is one of another program.

    A folder that was copied or renamed still names its experiment in `study.yaml`.
    """
    owner = experiment_of(attributes.get(IDENTITY, {}))
    if owner in (None, layout.experiment):
        return True
    base = load_stored_settings(layout.study_yaml).base
    return not isinstance(base, str) and base.get("experiment") == owner


def find_in(storage: optuna.storages.BaseStorage, url: str, name: str) -> optuna.Study:
    """Optuna's study of this name in a storage that is open.

    Raises:
        StoreError: no such study, or a damaged database.
    """
    with database_content_errors(url):
        known = sorted(optuna.study.get_all_study_names(storage))
        if name not in known:
            raise StoreError(f"study {name!r} is not in its database {shown(url)}; known: {', '.join(known) or 'none'}")
        return optuna.load_study(study_name=name, storage=storage)


def find_stored(storage: optuna.storages.BaseStorage, url: str, name: str) -> optuna.Study | None:
    """The study that a search finds, if there is one; its trials are read once, so that none starts on damaged ones.

    Raises:
        StoreError: a damaged database.
    """
    with database_content_errors(url):
        study = find_optuna_study(storage, name)
    if study is not None:
        rows_of(study, url)
    return study


def read_study(url: str, name: str) -> StudyRows:
    """All trials of a study at this moment.

    Raises:
        StoreError: no such database or study, or a damaged database.
    """
    return rows_of(find_in(read_storage(url, has_reports=False), url, name), url)


def rows_of(study: optuna.Study, url: str) -> StudyRows:
    """The rows of an open study.

    Raises:
        StoreError: the database holds something that is no trial.
    """
    with database_content_errors(url), without_collector():
        race, measured = stored_race(study), study.get_trials(deepcopy=False)
        trials, standings = refined(study, measured, race), standings_of(brackets_of(study, measured))
        names = study.metric_names or [str(index) for index in range(len(study.directions))]
        directions = [direction.name.lower() for direction in study.directions]
        objectives = {_text("an objective", key): direction for key, direction in zip(names, directions, strict=True)}
        rows = rows_of_trials(trials, tuple(objectives), standings)
        best = tuple(trial.number for trial in best_of(study, trials, race))
        uuid = str(study.user_attrs.get(UUID, ""))
        ties, n_images = ties_of(measured, race), None if race is None else race.n_images
        bounds, stop = stored_bounds(study), stored_stop(study)
        return StudyRows(study.study_name, uuid, objectives, rows, best, bounds, ties, n_images, stop)


def best_checkpoint(
    key: str, name: str, layout: StudyLayout, storage: optuna.storages.BaseStorage | None, *, has_named_storage: bool
) -> Path:
    """The best checkpoint of the best trial of another study of the experiment.

    Args:
        key: of the setting that names the study, for messages.
        layout: of the study that starts from it.
        storage: the database of that study; None where it is new.
        has_named_storage: whether a user named this database.
    Raises:
        ConfigError: no such study, no complete feasible trial, or its checkpoint is gone.
        StoreError: the study keeps its trials in another database, or is one of another experiment.
    """
    source = _sibling(key, name, layout)
    config = load_stored_settings(source.study_yaml)
    study = None if storage is None else find_optuna_study(storage, name)
    if study is None and config.storage and not has_named_storage:
        raise StoreError(
            f"{key}: study {name!r} keeps its trials in another database; give it with --storage URL or {URL_VARIABLE}"
        )
    if study is not None:
        check_owner(study, source)
    best = [] if study is None else best_trials(study, config, k=1)
    if not best:
        raise ConfigError(f"{key}: study {name!r} has no complete trial that keeps its constraints; search it first")
    checkpoint = source.trial(best[0].number).best
    if not checkpoint.exists():
        raise ConfigError(
            f"{key}: {checkpoint} of the best trial of study {name!r} is gone; give the path of another one"
        )
    return checkpoint


def _sibling(key: str, name: str, layout: StudyLayout) -> StudyLayout:
    """Another study of the experiment."""
    studies = {other.study: other for other in layout.shared.studies()}
    if name not in studies:
        raise ConfigError(
            f"{key}: no study {name!r} in {layout.experiment_dir}; run `attnsearch search {name}` first, or name "
            f"one of those that are there; known: {', '.join(sorted(studies)) or 'none'}"
        )
    return studies[name]


def is_measured(key: str) -> bool:
    """Whether this is a `split/metric` and no cost, such as `train/seconds`."""
    split, _, name = key.partition("/")
    return split in SPLITS and is_metric(name)


class _MeasuredKeys(dict[str, bool]):
    """Key -> `is_measured`; trials of a study share their keys."""

    def __missing__(self, key: str) -> bool:
        self[key] = is_measured(key)
        return self[key]


def rows_of_trials(
    trials: Iterable[FrozenTrial], objectives: Sequence[str], standings: Mapping[int, Standing]
) -> tuple[TrialRow, ...]:
    """The rows of trials, every value of which is of its kind; so that they can be shown as they are.

    Args:
        objectives: of the study.
        standings: by number of the trial, see `standings_of`.
    Raises:
        ValueError: a value is of another kind, or their number is another one.
    """
    measured = _MeasuredKeys()
    return tuple(_row_of(trial, objectives, standings.get(trial.number), measured) for trial in trials)


def _row_of(
    trial: FrozenTrial, objectives: Sequence[str], standing: Standing | None, measured: Mapping[str, bool]
) -> TrialRow:
    attributes, params, number = trial.user_attrs, trial.params.items(), _count("number", trial.number)

    def numeric(key: str) -> float:
        return _number(f"{key} of trial {number}", attributes.get(key, 0.0))

    metrics = {key: value for key, value in attributes.items() if measured[key]}
    if not {float}.issuperset(map(type, metrics.values())):
        metrics = {key: numeric(key) for key in metrics}
    return TrialRow(
        number=number,
        state="paused" if is_paused(trial) else trial.state.name.lower(),
        values=_values(trial, objectives),
        params={_text("a setting", key): _text(key, one) if isinstance(one, str) else one for key, one in params},
        metrics=metrics,
        best_epoch=_count(f"best_epoch of trial {number}", best_epoch(attributes)),
        epochs_run=_count(f"epochs_run of trial {number}", attributes.get("epochs_run", 0)),
        seconds=numeric("seconds"),
        images_per_s=numeric("images_per_s"),
        is_feasible=is_feasible(trial),
        error=_reason(trial),
        started=trial.datetime_start,
        ended=trial.datetime_complete,
        standing=standing,
        imported_from=_text(f"{IMPORTED_FROM} of trial {number}", attributes.get(IMPORTED_FROM, "")),
    )


def _values(trial: FrozenTrial, objectives: Sequence[str]) -> tuple[float, ...]:
    """The objectives; Optuna has none, or those of the last epoch, of a trial that is paused or pruned."""
    number, values, reached = trial.number, trial.values or (), trial.user_attrs
    if len(values) not in (0, len(objectives)) or (trial.state == TrialState.COMPLETE and not values):
        raise ValueError(f"trial {number} must have {len(objectives)} values, got {len(values)}")
    if (trial.state == TrialState.PRUNED or is_paused(trial)) and reached.keys() >= set(objectives):
        values = [reached[key] for key in objectives]
    return tuple(_number(f"a value of trial {number}", value) for value in values)


def _reason(trial: FrozenTrial) -> str | None:
    """Why a trial failed, or why one that waits, but not at a rung, was returned."""
    was_returned = trial.state == TrialState.WAITING and not is_paused(trial)
    note = trial.user_attrs.get(RETURNED) if was_returned else None
    reason = trial.user_attrs.get("error") if note is None else dict(note).get("reason")
    return None if reason is None else _text(f"error of trial {trial.number}", reason)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number, got {value!r}")
    return float(value)


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_COUNT:
        raise ValueError(f"{name} must be a whole number from 0 on, got {value!r}")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, got {value!r}")
    value.encode()  # half a surrogate pair can stand in JSON, but on no page
    return value
