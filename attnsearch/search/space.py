"""The search space: checks it against the base experiment and draws one setting per trial."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from attnsearch.config.data import as_setting
from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import LoadedStudy, with_settings
from attnsearch.config.study import ChoiceParameter, FloatParameter, IntParameter, Parameter, Scalar, StudyConfig
from attnsearch.errors import ConfigError

Space = Mapping[str, Parameter]
Settings = dict[str, Scalar]


def suggest_settings(trial: optuna.Trial, space: Space) -> Settings:
    """One value for every axis whose condition holds, drawn in the order of the study file."""
    settings: Settings = {}
    for key, axis in space.items():
        if _is_active(axis, settings):
            settings[key] = _suggest(trial, key, axis)
    return settings


def _suggest(trial: optuna.Trial, key: str, axis: Parameter) -> Scalar:
    if isinstance(axis, FloatParameter):
        return trial.suggest_float(key, axis.low, axis.high, log=axis.log, step=axis.step)
    if isinstance(axis, IntParameter):
        return trial.suggest_int(key, axis.low, axis.high, log=axis.log, step=axis.step)
    return trial.suggest_categorical(key, axis.choices)


def _is_active(axis: Parameter, settings: Mapping[str, Scalar]) -> bool:
    return all(parent in settings and settings[parent] in values for parent, values in axis.when.items())


def distribution(axis: Parameter) -> BaseDistribution:
    """Optuna's distribution of an axis."""
    if isinstance(axis, FloatParameter):
        return FloatDistribution(axis.low, axis.high, log=axis.log, step=axis.step)
    if isinstance(axis, IntParameter):
        return IntDistribution(axis.low, axis.high, log=axis.log, step=axis.step)
    return CategoricalDistribution(axis.choices)


def extreme_settings(space: Space) -> Iterator[tuple[str, Settings]]:
    """Every end and choice of every axis, as (description, settings that the axis and its conditions need)."""
    for key, axis in space.items():
        for value in axis.ends():
            yield f"{key} = {value!r}", {**_conditions(space, key), key: value}


def _conditions(space: Space, key: str) -> Settings:
    """The first value under which each axis above exists, so that the conditional one may be set."""
    settings: Settings = {}
    conditional = [key]
    while conditional:
        for parent, values in space[conditional.pop()].when.items():
            if parent not in settings:
                settings[parent] = values[0]
                conditional.append(parent)
    return settings


def extreme_experiments(loaded: LoadedStudy) -> list[tuple[str, ExperimentConfig]]:
    """The base and the experiment at every range limit of the space, all checked.

    Raises:
        ConfigError: one line for each limit or enqueued setting that does not fit.
    """
    found, faults = [("base", loaded.experiment)], enqueue_faults(loaded.study)
    for description, settings in extreme_settings(loaded.study.space):
        try:
            experiment = with_settings(loaded.experiment, settings)
        except ConfigError as error:
            faults.append(f"study {loaded.study.name}: space at {description}: {_reason(error)}")
            continue
        found.append((description, experiment))
        faults += _inert_faults(loaded.study.name, list(settings)[-1], experiment)
    if faults:
        raise ConfigError("\n".join(dict.fromkeys(faults)))
    return found


def _reason(error: ConfigError) -> str:
    return "; ".join(line.removeprefix("defaults: ") for line in str(error).splitlines())


def _inert_faults(study: str, key: str, experiment: ExperimentConfig) -> list[str]:
    """A line if an axis of the model cannot change a prediction under the experiment's other settings."""
    block, _, name = key.partition(".")
    reason = experiment.model.unused_parameters().get(name) if block == "model" else None
    return [] if reason is None else [f"study {study}: space.{key}: would search for nothing: {reason}"]


def enqueue_faults(study: StudyConfig) -> list[str]:
    """A line for each enqueued value outside its axis (Optuna would run it, and later refuse to copy the study)."""
    faults = []
    for index, point in enumerate(study.enqueue):
        for key, value in point.items():
            if not _contains(study.space[key], value):
                faults.append(
                    f"study {study.name}: enqueue[{index}].{key}: "
                    f"must lie inside its axis {_range(study.space[key])}, got {value!r}"
                )
    return faults


def _contains(axis: Parameter, value: Scalar) -> bool:
    if isinstance(axis, ChoiceParameter):
        return value in axis.choices
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or (isinstance(axis, IntParameter) and not isinstance(value, int))
    ):
        return False
    return distribution(axis)._contains(value)


def _range(axis: Parameter) -> str:
    return str(list(axis.choices)) if isinstance(axis, ChoiceParameter) else f"{axis.low} to {axis.high}"


def needed_cache_px(space: Space, limits: Iterable[tuple[str, ExperimentConfig]]) -> int | tuple[int, int]:
    """`data.cache_px` that serves every combination of the range limits.

    Args:
        limits: from `extreme_experiments`.
    """
    sizes = [experiment.data.cached_hw for _, experiment in limits]
    if {"data.image_size_px", "data.crop_ratio"} <= set(space):
        size, ratio = space["data.image_size_px"], space["data.crop_ratio"]
        side = int(max(map(_number, size.ends())) / min(map(_number, ratio.ends())))
        sizes.append((side, side))
    return as_setting((max(height for height, _ in sizes), max(width for _, width in sizes)))


def _number(value: Any) -> float:
    return float(value)
