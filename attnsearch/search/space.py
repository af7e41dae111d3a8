"""The search space: checks it against the base experiment and samples the settings of a trial."""

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
    """One value for every hyperparameter whose condition holds, sampled in the order of the study file."""
    settings: Settings = {}
    for key, parameter in space.items():
        if _is_active(parameter, settings):
            settings[key] = _suggest(trial, key, parameter)
    return settings


def _suggest(trial: optuna.Trial, key: str, parameter: Parameter) -> Scalar:
    if isinstance(parameter, FloatParameter):
        return trial.suggest_float(key, parameter.low, parameter.high, log=parameter.log, step=parameter.step)
    if isinstance(parameter, IntParameter):
        return trial.suggest_int(key, parameter.low, parameter.high, log=parameter.log, step=parameter.step)
    return trial.suggest_categorical(key, parameter.choices)


def _is_active(parameter: Parameter, settings: Mapping[str, Scalar]) -> bool:
    return all(parent in settings and settings[parent] in values for parent, values in parameter.when.items())


def distribution(parameter: Parameter) -> BaseDistribution:
    """Optuna's distribution of a hyperparameter."""
    if isinstance(parameter, FloatParameter):
        return FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)
    if isinstance(parameter, IntParameter):
        return IntDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)
    return CategoricalDistribution(parameter.choices)


def extreme_settings(space: Space) -> Iterator[tuple[str, Settings]]:
    """Every range limit and choice of every hyperparameter, with the settings under which its conditions hold.

    Returns:
        (description, settings), the key of the hyperparameter last.
    """
    for key, parameter in space.items():
        for value in parameter.ends():
            yield f"{key} = {value!r}", {**_conditions(space, key), key: value}


def _conditions(space: Space, key: str) -> Settings:
    """The first value under which each hyperparameter above exists, so that the conditional one may be set."""
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
    experiments, problems = [("base", loaded.experiment)], enqueue_problems(loaded.study)
    for description, settings in extreme_settings(loaded.study.space):
        try:
            experiment = with_settings(loaded.experiment, settings)
        except ConfigError as error:
            problems.append(f"study {loaded.study.name}: space at {description}: {_reason(error)}")
            continue
        experiments.append((description, experiment))
        problems += _unused_problems(loaded.study.name, list(settings)[-1], experiment)
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))
    return experiments


def _reason(error: ConfigError) -> str:
    return "; ".join(line.removeprefix("defaults: ") for line in str(error).splitlines())


def _unused_problems(study: str, key: str, experiment: ExperimentConfig) -> list[str]:
    """A line if a hyperparameter of the model cannot change a prediction under the experiment's other settings."""
    block, _, name = key.partition(".")
    reason = experiment.model.unused_parameters().get(name) if block == "model" else None
    return [] if reason is None else [f"study {study}: space.{key}: would search for nothing: {reason}"]


def enqueue_problems(study: StudyConfig) -> list[str]:
    """A line for each enqueued value outside its range (Optuna would run it, and later refuse to copy the study)."""
    problems = []
    for index, point in enumerate(study.enqueue):
        for key, value in point.items():
            if not _contains(study.space[key], value):
                problems.append(
                    f"study {study.name}: enqueue[{index}].{key}: "
                    f"must lie in its range {_range(study.space[key])}, got {value!r}"
                )
    return problems


def _contains(parameter: Parameter, value: Scalar) -> bool:
    if isinstance(parameter, ChoiceParameter):
        return value in parameter.choices
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or (isinstance(parameter, IntParameter) and not isinstance(value, int))
    ):
        return False
    return distribution(parameter)._contains(value)


def _range(parameter: Parameter) -> str:
    if isinstance(parameter, ChoiceParameter):
        return str(list(parameter.choices))
    return f"{parameter.low} to {parameter.high}"


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
