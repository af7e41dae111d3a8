"""Checks of a search space before anything is written: models, metrics, scores and their needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import LoadedStudy
from attnsearch.data.tables import DataTables, ImageTable
from attnsearch.device import worker_gpus
from attnsearch.errors import ConfigError, suggest
from attnsearch.metrics.registry import all_metrics, find_metric, is_metric, is_raw, is_score
from attnsearch.models import build_model
from attnsearch.tasks.base import build_task
from attnsearch.types import Need


def check_models(limits: Sequence[tuple[str, ExperimentConfig]], *, n_classes: int, metrics: Iterable[str]) -> None:
    """Builds the model of each range limit; one with weights is built for real, which loads them.

    Args:
        limits: (description, experiment), the base first.
        metrics: keys that the study needs.
    Raises:
        ConfigError: a backbone, a weights file, a device or a metric that does not exist or fit; one line per problem.
    """
    task = limits[0][1].task.name
    problems = [problem for key in metrics if (problem := _metric_problem(key, task))]
    try:
        worker_gpus(limits[0][1].runtime.device)
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
    """One line for a metric that is unknown, or that the task does not measure."""
    name = key.partition("/")[2]
    names = [metric.name for metric in all_metrics() if task in (metric.tasks or (task,))]
    if name in names:
        return None
    if is_metric(name):
        return f"{key}: is no metric of the task {task!r}, but of {', '.join(find_metric(name).tasks)}"
    return f"no metric {key!r}{suggest(name, names)}; known: {', '.join(f'val/{name}' for name in names)}"


_CALLED: dict[Need, str] = {"masks": "part masks", "boxes": "boxes", "points": "part points"}


def check_scores(loaded: LoadedStudy, tables: DataTables) -> list[str]:
    """Checks the scores of the saliency that a study chooses by.

    Returns:
        A warning where it optimises raw areas.
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
    _raise([*problems, *score_problems(loaded.experiment, tables, keys)])
    raw = [key for key in loaded.study.objectives if is_raw(key.partition("/")[2])]
    return [_raw_warning(raw)] if raw else []


def _raw_warning(keys: Sequence[str]) -> str:
    return (
        f"objectives: {' and '.join(keys)} compares maps of one model and not models: a model that any masking "
        "confuses gets a good one; val/relevance_gain and val/deletion_gain are measured against it"
    )


def _raise(problems: list[str]) -> None:
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))


def score_problems(experiment: ExperimentConfig, tables: DataTables, metrics: Iterable[str]) -> list[str]:
    """One line for each score among the metric keys that a trial will not have."""
    settings, n_images = experiment.evaluation.scores, experiment.evaluation.n_images
    n_archived = min(n_images or len(tables.val), len(tables.val))
    keys = [key for key in metrics if is_score(key.partition("/")[2])]
    problems = [problem for key in keys if (problem := _score_problem(key, experiment, tables.val))]
    if settings.families and settings.n_images is not None and settings.n_images > n_archived:
        problems.append(
            f"evaluation.scores.n_images: must be at most the {n_archived} validation images whose maps are stored, "
            f"got {settings.n_images}"
        )
    return problems


def _score_problem(key: str, experiment: ExperimentConfig, val: ImageTable) -> str | None:
    split, _, name = key.partition("/")
    if split != "val":
        return f"{key}: the saliency is scored on validation alone; write val/{name}"
    metric = find_metric(name)
    if metric.group not in experiment.evaluation.scores.families:
        return f"{key}: is measured only with the family {metric.group!r}; add it to evaluation.scores.families"
    if metric.needs is not None and metric.needs not in val.regions:
        return f"{key}: needs {_CALLED[metric.needs]}, which this data set does not have; remove it or use other data"
    return None
