"""Final columns of a scoring, once all of its images are measured: the best setting, and numbers that are no mean.

Until then a value under one of several settings, or a part of such a number, stands in a column `name@…`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from attnsearch.metrics.base import BestSetting, Metric, OfAllImages
from attnsearch.metrics.perturbation import SaliencyCase
from attnsearch.metrics.registry import score_metrics
from attnsearch.store.score_journal import ImageScore
from attnsearch.types import Split

AT = "@"
Columns = dict[str, NDArray[np.float64]]
F = TypeVar("F", BestSetting, OfAllImages)


def unfinished_columns(metric: Metric, case: SaliencyCase) -> dict[str, Tensor]:
    """The columns (B,) that a metric of all images together keeps until they are measured; nothing of other metrics."""
    function = metric.function
    if isinstance(function, BestSetting):
        values = function.measure(case)  # (B, M)
        return {f"{function.name}{AT}{setting}": values[:, index] for index, setting in enumerate(function.settings)}
    if isinstance(function, OfAllImages) and function.measure is not None:
        return {f"{metric.name}{AT}{column}": values for column, values in function.measure(case).items()}
    return {}


def finish_scores(
    scores: Sequence[ImageScore], split: Split, of_validation: Mapping[str, float]
) -> tuple[list[ImageScore], dict[str, float]]:
    """Scores with final columns alone, and the setting of each metric that has one.

    Args:
        of_validation: name -> setting that was chosen there. A missing one is chosen here; but on test images, where
            the choice would flatter, there is then no best setting.
    """
    columns = {name: np.array([score.values[name] for score in scores], dtype=np.float64) for name in scores[0].values}
    settings = _settings(columns, split, of_validation)
    for metric, function in _functions(BestSetting):
        if function.name in settings:
            columns[metric.name] = columns[f"{function.name}{AT}{settings[function.name]}"]
    for metric, number in _functions(OfAllImages):
        if (inputs := _inputs(metric, number, columns)) is not None:
            columns[metric.name] = number.combine(inputs)
    final = {name: columns[name] for name in _final_names(columns)}
    return [
        replace(score, values={name: float(column[row]) for name, column in final.items()})
        for row, score in enumerate(scores)
    ], settings


def _functions(kind: type[F]) -> list[tuple[Metric, F]]:
    return [(metric, metric.function) for metric in score_metrics() if isinstance(metric.function, kind)]


def _settings(columns: Columns, split: Split, of_validation: Mapping[str, float]) -> dict[str, float]:
    """The setting of each measured `BestSetting`, by its name."""
    measured = {name.partition(AT)[0] for name in columns if AT in name}
    functions = [function for _, function in _functions(BestSetting) if function.name in measured]
    chosen: dict[str, float] = {}
    for _, members in groupby(functions, key=lambda function: function.together or function.name):
        group = list(members)
        best = _best_setting(columns, group) if split != "test" else None
        for function in group:
            setting = of_validation.get(function.name, best)
            if setting is not None:
                chosen[function.name] = setting
    return chosen


def _best_setting(columns: Columns, group: Sequence[BestSetting]) -> float:
    """The setting with the best weighted sum of the means where they are defined; the first of equals."""

    def total(setting: float) -> float:
        values = [(function.weight, columns[f"{function.name}{AT}{setting}"]) for function in group]
        return sum(weight * float(np.nanmean(column)) for weight, column in values if not np.isnan(column).all())

    return max(group[0].settings, key=total)


def _inputs(metric: Metric, function: OfAllImages, columns: Columns) -> Columns | None:
    """What a number is made of, by column; None where one was not measured."""
    own = {name: columns[key] for name in function.columns if (key := f"{metric.name}{AT}{name}") in columns}
    inputs = {name: own.get(name, columns.get(name)) for name in function.columns}
    known = {name: column for name, column in inputs.items() if column is not None}
    return known if len(known) == len(inputs) else None


def _final_names(columns: Columns) -> list[str]:
    """Names of final columns; one that was made of others stands where the first of its own parts stood, or last."""
    metric_of = {function.name: metric.name for metric, function in _functions(BestSetting)}
    names = (
        metric_of.get(prefix, prefix) if at else name for name in columns for prefix, at, _ in [name.partition(AT)]
    )
    return [name for name in dict.fromkeys(names) if name in columns]
