"""The search space: samples the settings of a trial, and is checked at all its limits before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import optuna
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from attnsearch.config.data import SyntheticData
from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.images import DataSettings, as_setting
from attnsearch.config.load import LoadedStudy, with_settings
from attnsearch.config.study import (
    ChoiceParameter,
    FloatParameter,
    IntParameter,
    Parameter,
    RepeatSampler,
    Scalar,
    StudyConfig,
)
from attnsearch.data.fixed_rows import explained_rows, fixed_subset
from attnsearch.data.synthetic.birds import class_codes
from attnsearch.data.tables import DataTables, ImageTable
from attnsearch.device import worker_gpus
from attnsearch.errors import ConfigError, TrialError, suggest
from attnsearch.loggers.base import check_loggers
from attnsearch.metrics.base import Metric
from attnsearch.metrics.part_codes import undefined_by_codes
from attnsearch.metrics.registry import RETRIEVAL_RULES, all_metrics, find_metric, is_metric, is_raw, is_score
from attnsearch.models import build_model
from attnsearch.search.brackets import check_halving
from attnsearch.search.study import OF_TRIAL, REPEAT, derive_seed
from attnsearch.tasks.base import build_task
from attnsearch.types import MatchRule, Need

Space = Mapping[str, Parameter]
Settings = dict[str, Scalar]

_CALLED: dict[Need | None, str] = {
    "masks": "part masks",
    "boxes": "boxes",
    "points": "part points",
    "interventions": "images that can be drawn again with other parts",
}


def trial_experiment(trial: optuna.Trial, loaded: LoadedStudy) -> ExperimentConfig:
    """The experiment of one trial, with a seed derived from that of the study and its number; a fixed one as it is.

    Raises:
        TrialError: the sampled values do not fit together.
    """
    if loaded.study.is_fixed:
        return loaded.experiment
    if loaded.study.repeats is not None:
        config = loaded.study
        settings = repeated_settings(trial, loaded.study.repeats, study=config.name, seed=config.seed)
    else:
        settings = suggest_settings(trial, loaded.study.space)
        settings["seed"] = derive_seed(loaded.study.seed, "trial", trial.number)
    try:
        return with_settings(loaded.experiment, settings)
    except ConfigError as error:
        raise TrialError("; ".join(str(error).splitlines())) from error


def suggest_settings(trial: optuna.Trial, space: Space) -> Settings:
    """One value for every hyperparameter whose condition holds, sampled in the order of the study file."""
    settings: Settings = {}
    for key, parameter in space.items():
        if is_active(parameter, settings):
            settings[key] = _suggest(trial, key, parameter)
    return settings


def repeated_settings(trial: optuna.Trial, repeats: RepeatSampler, *, study: str, seed: int) -> Settings:
    """The settings of the trial that this one repeats, with a seed that the search did not use.

    All settings are trained once before any of them is trained again. Which trial it is of, and how often that was
    trained before, is stored as `of_trial` and `repeat`.

    Args:
        study, seed: name and seed of the study; under another name the settings get other seeds.
    """
    repeat, place = divmod(trial.number, len(repeats.trials))
    number = repeats.trials[place]
    trial.suggest_int(OF_TRIAL, number, number)
    trial.suggest_int(REPEAT, repeat, repeat)
    return {**repeats.settings[place], "seed": derive_seed(seed, study, number, repeat)}


def _suggest(trial: optuna.Trial, key: str, parameter: Parameter) -> Scalar:
    if isinstance(parameter, FloatParameter):
        return trial.suggest_float(key, parameter.low, parameter.high, log=parameter.log, step=parameter.step)
    if isinstance(parameter, IntParameter):
        return trial.suggest_int(key, parameter.low, parameter.high, log=parameter.log, step=parameter.step)
    return trial.suggest_categorical(key, parameter.choices)


def is_active(parameter: Parameter, settings: Mapping[str, Scalar]) -> bool:
    """Whether the conditions of a hyperparameter hold under the values of those above it."""
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
        for value in parameter.limits():
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
    _raise(problems)
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
            if not holds(study.space[key], value):
                problems.append(
                    f"study {study.name}: enqueue[{index}].{key}: "
                    f"must lie in its range {range_text(study.space[key])}, got {value!r}"
                )
    return problems


def holds(parameter: Parameter, value: Scalar) -> bool:
    """Whether a value is one of those that a hyperparameter can have."""
    if isinstance(parameter, ChoiceParameter):
        return value in parameter.choices
    if isinstance(value, bool | str | None) or (isinstance(parameter, IntParameter) and isinstance(value, float)):
        return False
    return distribution(parameter)._contains(value)


def range_text(parameter: Parameter) -> str:
    """The values of a hyperparameter, for messages."""
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
        side = int(max(map(_number, size.limits())) / min(map(_number, ratio.limits())))
        sizes.append((side, side))
    return as_setting((max(height for height, _ in sizes), max(width for _, width in sizes)))


def _number(value: Any) -> float:
    return float(value)


def check_models(limits: Sequence[tuple[str, ExperimentConfig]], *, n_classes: int, metrics: Iterable[str]) -> None:
    """Builds the model of each range limit; one with weights is built for real, which loads them.

    Args:
        limits: (description, experiment), the base first.
        metrics: keys that the study needs.
    Raises:
        ConfigError: a backbone, weights, a device, a logger or a metric that is missing or does not fit; a line each.
    """
    task = limits[0][1].task.name
    problems = [problem for key in metrics if (problem := _metric_problem(key, task))]
    try:
        worker_gpus(limits[0][1].runtime.device)
        check_loggers(limits[0][1].runtime.loggers)
    except ConfigError as error:
        problems.append(str(error))
    seen: set[str] = set()
    for description, experiment in limits:
        text = experiment.model.model_dump_json()
        problem = "" if text in seen else _build_problem(experiment, n_classes)
        if problem and problem not in seen:  # a problem of all limits is reported once
            problems.append(problem if description == "base" else f"space at {description}: {problem}")
        seen |= {text, problem}
    _raise(problems)


def _build_problem(experiment: ExperimentConfig, n_classes: int) -> str:
    """What is wrong with a model; empty if nothing is."""
    try:
        with torch.device("meta" if experiment.model.weights == "none" else "cpu"):
            build_model(experiment.model, build_task(experiment.task).heads(n_classes))
    except ConfigError as error:
        return str(error)
    return ""


def _metric_problem(key: str, task: str) -> str | None:
    """One line for a metric that is unknown, or that the task does not measure, or not on that split."""
    split, _, name = key.partition("/")
    names = [metric.name for metric in all_metrics() if metric.is_of(task) and metric.is_of_split(split)]
    if name in names:
        return None
    known = f"known: {', '.join(f'{split}/{name}' for name in names)}"
    if not is_metric(name):
        return f"no metric {key!r}{suggest(name, names)}; {known}"
    metric = find_metric(name)
    if metric.is_of(task):
        return f"{key}: is measured on {' and '.join(metric.splits)} alone; {known}"
    return f"{key}: is no metric of the task {task!r}, but of {', '.join(metric.tasks)}"


def warnings_of(loaded: LoadedStudy, tables: DataTables) -> list[str]:
    """What to read before the first trial: of the scores that a study chooses by, and of halving that pauses nobody.

    Raises:
        ConfigError: as `check_scores`.
    """
    return [*check_scores(loaded, tables), *check_halving(loaded)]


def check_scores(loaded: LoadedStudy, tables: DataTables) -> list[str]:
    """Checks the scores of the saliency that a study chooses by.

    Returns:
        A warning where it optimises raw areas, or removes parts that all training images have.
    Raises:
        ConfigError: a score that its settings or its data cannot give, or settings that differ between trials; one
            line per problem.
    """
    keys = [*loaded.study.objectives, *loaded.study.constraints]
    problems = [
        f"space.{key}: trials would be measured differently and could not be compared; write it in the base"
        for key in loaded.study.space
        if key.startswith("evaluation.")
    ]
    problems += [_rule_problem(key, loaded.experiment, tables) for key in dict.fromkeys([loaded.study.monitor, *keys])]
    _raise([*filter(None, problems), *score_problems(loaded.experiment, tables, keys)])
    raw = [key for key in loaded.study.objectives if is_raw(key.partition("/")[2])]
    removing = [key for key in keys if _needs_missing_parts(key, loaded.experiment)]
    return [*([_raw_warning(raw)] if raw else []), *([_parts_warning(removing)] if removing else [])]


#: Scores of synthetic birds without some of their parts, which only training on such images prepares a model for.
_OF_REMOVED_PARTS = (
    *("sd", "target_sensitivity", "preservation_check", "deletion_check", "distractibility"),
    *("completeness", "explainability"),
)


def _needs_missing_parts(key: str, experiment: ExperimentConfig) -> bool:
    """Whether a score removes parts, and the training images of synthetic birds have all of them."""
    data = experiment.data
    return key.partition("/")[2] in _OF_REMOVED_PARTS and isinstance(data, SyntheticData) and not data.missing_parts


def _parts_warning(keys: Sequence[str]) -> str:
    return (
        f"{' and '.join(keys)}: removes parts, which no training image lacks; write data.missing_parts: 0.5, or take "
        "val/sd_swap, which exchanges them"
    )


def _rule_problem(key: str, experiment: ExperimentConfig, tables: DataTables) -> str:
    """One line for a metric of retrieval under another rule than that of the data; empty for all others."""
    (split, _, name), rule = key.partition("/"), tables.val.match_rule
    measured = build_task(experiment.task).metrics(tables.val)
    if rule is None or name in measured:
        return ""
    endings = [ending for ending, _ in RETRIEVAL_RULES.values() if name.endswith(ending)]
    instead = name.removesuffix(max(endings, key=len)) + RETRIEVAL_RULES[rule][0]
    if instead not in measured:
        return ""
    problem = (
        f"{key}: images of {tables.root} are matched by {_MATCHED_BY[rule]}, so {split}/{instead} is measured; write "
        "that under monitor and objectives"
    )
    if rule == "camera":
        return problem
    return f"{problem}, or give each image a camera: in its name, in images.csv or in cameras.csv"


_MATCHED_BY: dict[MatchRule, str] = {"camera": "camera", "group": "group alone", "open": "neither camera nor group"}


def _raw_warning(keys: Sequence[str]) -> str:
    return (
        f"objectives: {' and '.join(keys)} compares maps of one model and not models: a model that any masking "
        "confuses gets a good one; val/relevance_gain and val/decision_gain are measured against it"
    )


def _raise(problems: list[str]) -> None:
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))


def score_problems(experiment: ExperimentConfig, tables: DataTables, metrics: Iterable[str]) -> list[str]:
    """One line for each score among the metric keys that a trial will not have."""
    settings, n_images = experiment.evaluation.scores, experiment.evaluation.n_images
    n_explained = len(explained_rows(tables.val, fixed_subset(tables.val, n_images)))
    keys = [key for key in metrics if is_score(key.partition("/")[2])]
    problems = [problem for key in keys if (problem := _score_problem(key, experiment, tables.val))]
    if settings.families and settings.n_images is not None and settings.n_images > n_explained:
        what = "images" if tables.val.is_query is None else "queries with a match"
        problems.append(
            f"evaluation.scores.n_images: must be at most the {n_explained} validation {what} whose maps are stored, "
            f"got {settings.n_images}"
        )
    return problems


def _score_problem(key: str, experiment: ExperimentConfig, val: ImageTable) -> str | None:
    split, _, name = key.partition("/")
    if split != "val":
        return f"{key}: the saliency is scored on validation alone; write val/{name}"
    metric, settings, data = find_metric(name), experiment.evaluation.scores, experiment.data
    if metric.group not in settings.families:
        return f"{key}: is measured only with the family {metric.group!r}; add it to evaluation.scores.families"
    if metric.uses_random_orders and not settings.n_random:
        return f"{key}: compares with random orders; set evaluation.scores.n_random to at least 1"
    if metric.needs == "temperature":
        return f"{key}: is undefined for models with few errors; use val/decision_gain, which no confidence moves"
    return _data_problem(key, metric, data, val)


def _data_problem(key: str, metric: Metric, data: DataSettings, val: ImageTable) -> str | None:
    """One line for a score of whose needs the data set lacks one."""
    if metric.needs == "interventions" and isinstance(data, SyntheticData):
        return _codes_problem(key, data)
    if metric.needs in _CALLED and metric.needs not in val.regions:
        return f"{key}: needs {_CALLED[metric.needs]}, which this data set does not have; remove it or use other data"
    return None


def _codes_problem(key: str, data: SyntheticData) -> str | None:
    """One line for a score that the classes of synthetic birds leave undefined."""
    name = key.partition("/")[2]
    if (reason := undefined_by_codes(class_codes(data.n_classes, data.n_differing_parts)).get(name)) is None:
        return None
    return (
        f"{key}: is undefined with data.n_classes {data.n_classes} and data.n_differing_parts "
        f"{data.n_differing_parts}: {reason}; change them, or remove it"
    )
