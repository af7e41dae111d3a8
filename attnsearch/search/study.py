"""Creates and opens Optuna's studies, builds their samplers and pruners, and makes what they store of a trial."""

from __future__ import annotations

import hashlib
import json
import math
import re
import uuid
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, NopPruner
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from attnsearch.config.evaluation import VERSION
from attnsearch.config.load import LoadedStudy
from attnsearch.config.study import MedianPruner, PercentilePruner, StudyConfig
from attnsearch.errors import ConfigError, StoreError, TransientStoreError
from attnsearch.metrics.registry import is_score
from attnsearch.store.layout import StudyLayout
from attnsearch.types import HALVES, TrialResult

IDENTITY = "attnsearch_identity"
UUID = "attnsearch_uuid"
BOUNDS = "attnsearch_bounds"
"""The attribute of a study with several objectives: of each of them the worst and best value of its first trials."""
SCORES_KEY = "evaluation.scores"
OF_TRIAL, REPEAT = "of_trial", "repeat"
"""The hyperparameters of a trial that repeats one of another study: its number, and which repetition it is, from 0."""
ENDED_AT = "ended_at"
STARTED_AT = "attnsearch_started_at"
"""The attribute of a study: when a person last started it, by the clock of its store."""
IMPORTED_FROM = "imported_from"
"""The user attribute of a trial that another study has run: that trial as `EXPERIMENT/STUDY:NUMBER`."""
EXTENDS = "attnsearch_extends"
"""The attribute of a study that has the trials of another one: its name, its UUID and the numbers of the trials."""
STOPPED = "attnsearch_stopped"
"""The attribute of a study that its patience has ended: a `Stop`."""
_OF_DATA = {"classes", "validation split"}
"""What differs between two studies of the same settings with other data."""
_SHOWN_CLASSES = 3
_HASH = re.compile(r"[0-9a-f]{64}")
RETURNED = "returned"
"""The user attribute of a trial that was returned: reason, attempts in a row, epochs of the other trials before."""


Bounds = tuple[tuple[float, float], ...]
"""(worst, best) of each objective."""


def build_pruner(study: StudyConfig) -> BasePruner:
    """Optuna's pruner, which halving does not use; epochs count from 1 and Optuna's steps from 0."""
    pruner = study.pruner
    if pruner is None or study.halving:
        return NopPruner()
    if isinstance(pruner, MedianPruner):
        return optuna.pruners.MedianPruner(
            n_startup_trials=pruner.n_startup_trials, n_warmup_steps=pruner.n_warmup_epochs
        )
    assert isinstance(pruner, PercentilePruner)
    return optuna.pruners.PercentilePruner(
        percentile=100 * pruner.keep_share,
        n_startup_trials=pruner.n_startup_trials,
        n_warmup_steps=pruner.n_warmup_epochs,
    )


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2^31) that depends on all parts."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def create_study(storage: BaseStorage, config: StudyConfig, identity: Mapping[str, Any]) -> optuna.Study:
    """The study of this name, made and its first trials enqueued if it is new. Needs `creation_lock`.

    Args:
        identity: from `study_identity`.
    Raises:
        ConfigError: it exists with another base, space, class map or validation split; the difference is printed.
    """
    study = find_optuna_study(storage, config.name)
    if study is not None and IDENTITY in study.user_attrs:
        check_unchanged(study, identity)
        return study
    if study is None:
        directions = list(config.objectives.values())
        study = optuna.create_study(storage=storage, study_name=config.name, directions=directions)
    _refuse_foreign(study, config.name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # stable in practice; gives the dashboard its names
        study.set_metric_names(list(config.objectives))
    study.set_user_attr(UUID, str(uuid.uuid4()))
    for point in config.enqueue:
        study.enqueue_trial(dict(point), skip_if_exists=True)
    study.set_user_attr(IDENTITY, dict(identity))
    return study


def stored_bounds(study: optuna.Study) -> Bounds | None:
    """The bounds that were frozen with a study, see `search/history.py`; None before that.

    Raises:
        ValueError: they are no pair of finite numbers for each objective.
    """
    stored = study.user_attrs.get(BOUNDS)
    if stored is None:
        return None
    bounds = tuple((float(worst), float(best)) for worst, best in stored)
    if len(bounds) != len(study.directions) or not all(math.isfinite(end) for pair in bounds for end in pair):
        raise ValueError(f"{BOUNDS} must have two finite numbers for each objective, got {stored!r}")
    return bounds


@dataclass(frozen=True)
class Stop:
    """Why a study starts no new trials though its budget is not spent.

    Attributes:
        patience: trials in a row without improvement, as was set then.
    """

    patience: int
    reason: str

    def holds(self, config: StudyConfig) -> bool:
        """Whether it still does under the settings of now: with more patience, or without it, the study continues."""
        return config.patience is not None and config.patience <= self.patience


def stored_stop(study: optuna.Study) -> Stop | None:
    """Why the patience of a study ended; None where it has not.

    Raises:
        ValueError: what is stored is no such reason.
    """
    stored = study.user_attrs.get(STOPPED)
    if stored is None:
        return None
    try:
        return Stop(int(stored["patience"]), str(stored["reason"]))
    except (LookupError, TypeError) as error:
        raise ValueError(f"{STOPPED} must be what a search has written, got {stored!r}") from error


def find_optuna_study(storage: BaseStorage, name: str) -> optuna.Study | None:
    """The study of this name, if there is one."""
    if name not in optuna.study.get_all_study_names(storage):
        return None
    return optuna.load_study(study_name=name, storage=storage)


def experiment_of(identity: Mapping[str, Any]) -> str | None:
    """The experiment that an identity belongs to; None where another program made the study."""
    name: str | None = identity.get("experiment", {}).get("experiment")
    return name


def check_unchanged(study: optuna.Study, identity: Mapping[str, Any], layout: StudyLayout | None = None) -> None:
    """Compares a stored study with the identity of the settings that it is opened with.

    Args:
        layout: where its files lie, for the message.
    Raises:
        ConfigError: the name is that of a study of another experiment or kind, or of one with another base, space,
            objectives, class map or validation split; the difference is printed.
    """
    stored = study.user_attrs.get(IDENTITY)
    if stored is None:
        return
    expected = _comparable(stored, identity)
    if stored != expected:
        _check_name(study.study_name, stored, identity)
        if {"classes"} <= {key for key in expected if stored.get(key) != expected[key]} <= _OF_DATA:
            raise ConfigError(_other_classes(stored, expected, layout))
        path = layout and (layout.trial(0).config if _is_training(stored) else layout.study_yaml)
        head = f"{path or f'study {study.study_name!r}'}: this {_kind(stored)} was started with other settings"
        raise ConfigError(describe_difference(head, _as_typed(stored), _as_typed(expected)))


def _other_classes(stored: Mapping[str, Any], expected: Mapping[str, Any], layout: StudyLayout | None) -> str:
    """That a study was begun with another data set, and what to do."""
    place = layout.experiment_dir if layout else f"the experiment {experiment_of(stored)!r}"
    names = [name for name in stored["classes"] if name not in expected["classes"]] or stored["classes"]
    more = ", .." if len(names) > _SHOWN_CLASSES else ""
    return f"{place} holds other classes ({', '.join(names[:_SHOWN_CLASSES])}{more}); add experiment=NAME"


def changed_settings(stored: Mapping[str, Any], identity: Mapping[str, Any]) -> Iterable[tuple[str, Any, Any]]:
    """(dotted key, stored value, value now) wherever two identities differ, by the keys that a command line takes."""
    return changes(_as_typed(stored), _as_typed(_comparable(stored, identity)))


def _comparable(stored: Mapping[str, Any], identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity without what a study that was begun before trials were scored lacks: no objective is a score."""
    return {key: value for key, value in identity.items() if key != SCORES_KEY or key in stored}


def check_imported(study: optuna.Study) -> None:
    """Checks that a study has all trials of the one that it extends.

    Raises:
        ConfigError: the import was cut off.
    """
    extends = study.user_attrs.get(EXTENDS)
    if extends is None:
        return
    trials, n_wanted = study.get_trials(deepcopy=False), len(extends["trials"])
    n_imported = sum(IMPORTED_FROM in trial.user_attrs for trial in trials)
    if n_imported < n_wanted:
        raise ConfigError(
            f"study {study.study_name!r} has {n_imported} of {n_wanted} trials of {extends['study']}; continue the "
            f"import with `attnsearch extend {extends['study']}` and the file of this study"
        )


def _check_name(name: str, stored: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Checks that a stored study is at least of the same experiment and kind as the one that is opened."""
    owner = experiment_of(stored)
    if owner != experiment_of(identity) or _is_training(stored) != _is_training(identity):
        raise ConfigError(
            f"name: {name!r} is a {_kind(stored)} of the experiment {owner!r} in this database; choose another name="
        )


def _is_training(identity: Mapping[str, Any]) -> bool:
    return identity.get("sampler") == "fixed"


def _kind(identity: Mapping[str, Any]) -> str:
    return "training" if _is_training(identity) else "search"


def _as_typed(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity with the settings of the experiment under the keys that a command line takes."""
    settings = {key: value for key, value in identity.items() if key != "experiment"}
    return {**identity["experiment"], **settings}


def open_optuna_study(storage: BaseStorage, config: StudyConfig) -> optuna.Study:
    """An existing study, with its pruner.

    Raises:
        StoreError: there is none of this name.
    """
    try:
        return optuna.load_study(study_name=config.name, storage=storage, pruner=build_pruner(config))
    except KeyError:
        raise StoreError(f"no study {config.name!r} in this database; start it with `attnsearch search`") from None


def _refuse_foreign(study: optuna.Study, name: str) -> None:
    if study.get_trials(
        deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.FAIL)
    ):
        raise ConfigError(
            f"name: study {name!r} exists in this database but was made by another program; choose another name="
        )


def study_identity(loaded: LoadedStudy, *, val_hash: str, class_names: Sequence[str]) -> dict[str, Any]:
    """What all trials of a study share, as plain values that a difference can be printed from."""
    study = loaded.study.model_dump(mode="json", include={"space", "objectives", "monitor", "constraints"})
    return {
        "experiment": loaded.experiment.identity(),
        SCORES_KEY: {**loaded.experiment.evaluation.scores.identity(), **_score_version(loaded.study)},
        **study,
        **({"sampler": "fixed"} if loaded.study.is_fixed else {}),
        **({"repeat": repeats.model_dump(mode="json")} if (repeats := loaded.study.repeats) else {}),
        "classes": list(class_names),
        "validation split": val_hash,
    }


def _score_version(study: StudyConfig) -> dict[str, int]:
    """The version of the scores, for a study that chooses by them, which must not mix it with others."""
    return {"version": VERSION} if chooses_by_scores(study) else {}


def chooses_by_scores(study: StudyConfig) -> bool:
    """Whether an objective or a constraint is a score of the saliency."""
    return any(is_score(key.partition("/")[2]) for key in (*study.objectives, *study.constraints))


def describe_difference(head: str, stored: Any, given: Any) -> str:
    """`head`, what to do, and a line for each setting that differs."""
    lines = [f"  {key}: was {_json(old)}, is {_json(new)}" for key, old, new in changes(stored, given)]
    return "\n".join([f"{head}; write those again, or choose another name=", *lines])


def _json(value: Any) -> str:
    is_hash = isinstance(value, str) and _HASH.fullmatch(value) is not None
    return f"{value[:8]}.." if is_hash else json.dumps(value, ensure_ascii=False)


def changes(old: Any, new: Any, key: str = "") -> Iterable[tuple[str, Any, Any]]:
    """(dotted key, old value, new value) wherever two nested values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for inner in [*old, *(extra for extra in new if extra not in old)]:
            yield from changes(old.get(inner), new.get(inner), f"{key}.{inner}" if key else inner)
    elif old != new:
        yield key, old, new


def take_trial(
    study: optuna.Study, waiting: FrozenTrial | None, *, attributes: Mapping[str, Any] | None = None
) -> optuna.Trial:
    """Makes a waiting trial, or a new one, a running trial. Needs the lock of the study.

    `study.ask` would take the first waiting trial, whichever it is.

    Args:
        attributes: user attributes that a new trial has from its first moment.
    Raises:
        TransientStoreError: the waiting trial was taken by a process that the lock does not reach.
    """
    study._thread_local.cached_all_trials = None  # as `ask` does: the sampler sees the trials of other workers
    if waiting is None:
        template = None
        if attributes:
            template = optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs=dict(attributes))
        return optuna.Trial(study, study._storage.create_new_trial(study._study_id, template_trial=template))
    if not study._storage.set_trial_state_values(waiting._trial_id, TrialState.RUNNING):
        raise TransientStoreError(f"trial {waiting.number} was taken by another process that does not share the lock")
    return optuna.Trial(study, waiting._trial_id)


def objective_values(config: StudyConfig, ended: TrialResult) -> list[float] | None:
    """The objectives in the order of the study file, or None where one is missing or not finite."""
    values = [ended.metrics.get(key, math.nan) for key in config.objectives]
    return values if all(math.isfinite(value) for value in values) else None


def undefined_objective(config: StudyConfig, ended: TrialResult) -> str:
    """Which objective has no value, and for a score why: an undefined one has a value, see `ScoreTable.trial_means`."""
    key = next(key for key in config.objectives if not math.isfinite(ended.metrics.get(key, math.nan)))
    reason = ": the model makes no maps that could be scored" if is_score(key.partition("/")[2]) else ""
    return f"{key} is not a finite number{reason}"


def constraint_values(config: StudyConfig, metrics: Mapping[str, float]) -> dict[str, float]:
    """Constraint name -> how far the best checkpoint lies outside it; <= 0 is feasible."""
    excess = {}
    for key, bound in config.constraints.items():
        value = metrics.get(key, math.nan)
        outside = value - bound.at_most if bound.at_most is not None else (bound.at_least or 0.0) - value
        excess[key] = outside if math.isfinite(outside) else math.inf
    return excess


def attributes(layout: StudyLayout, number: int, ended: TrialResult, *, at: float) -> dict[str, object]:
    """The user attributes of a trial that ended: columns of the dashboard's table, without metrics of `HALVES`.

    Args:
        at: when it ended, UTC seconds since 1970 by the clock of the store.
    """
    values: dict[str, object] = {
        "best_epoch": ended.best_epoch,
        "epochs_run": ended.epochs_run,
        "seconds": round(ended.seconds, 3),
        "images_per_s": round(ended.images_per_s, 1),
        **{key: value for key, value in ended.metrics.items() if math.isfinite(value) and not key.endswith(HALVES)},
        "folder": str(layout.trial(number).directory.relative_to(layout.root)),
        ENDED_AT: at,
    }
    return {**values, "error": ended.error} if ended.error else values
