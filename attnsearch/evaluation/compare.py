"""Compares scored trials image by image: intervals, paired and Welch tests, and how far the order can be trusted."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attnsearch.data.tables import places_of
from attnsearch.errors import ConfigError, suggest
from attnsearch.figures.plots import ModelTests, draw_tests
from attnsearch.files import atomic_path, atomic_write, csv_text
from attnsearch.metrics.registry import better_direction, find_metric, higher_is_better, is_metric
from attnsearch.metrics.statistics import (
    WinnerCheck,
    holm,
    krippendorff_alpha,
    mean_interval,
    paired,
    split_half_winner,
    welch,
)
from attnsearch.store.image_scores import ScoreTable
from attnsearch.store.layout import ExperimentLayout

_MAX_STEM = 80


@dataclass(frozen=True, eq=False)
class ScoredTrial:
    """One scored trial under the name that it is shown by."""

    name: str
    table: ScoreTable

    @property
    def grid(self) -> str:
        """Rows and columns of the map, which every number should stand beside; empty where none is scored."""
        return "x".join(map(str, self.table.about.get("grid", ())))


@dataclass(frozen=True)
class MetricMean:
    """One metric of one trial: its mean over the images where it is defined, with its error and a 95 % interval.

    Attributes:
        version, settings: how it was measured; settings are JSON.
    """

    name: str
    metric: str
    grid: str
    n_images: int
    n_undefined: int
    mean: float
    low: float
    high: float
    version: int
    settings: str


@dataclass(frozen=True)
class PairedDifference:
    """Two trials in one metric, `difference` being first minus second; tests are two-sided.

    Attributes:
        n_images: on which both are defined; paired numbers are of those alone.
        p_paired, p_welch: of the test that uses the pairs of images, and of the one that BR-NPA uses.
        p_paired_corrected, p_welch_corrected: after Holm's correction for all pairs of the comparison in this metric.
    """

    metric: str
    first: str
    second: str
    n_images: int
    difference: float
    low: float
    high: float
    p_paired: float
    p_paired_corrected: float
    p_welch: float
    p_welch_corrected: float


@dataclass(frozen=True)
class Comparison:
    """All levels and pairs of some metrics, and how far the order of the trials can be trusted in each.

    Attributes:
        alphas: metric -> Krippendorff's alpha of the order, with images as raters.
        winners: metric -> whether random halves of the images name the same best trial.
    """

    levels: tuple[MetricMean, ...]
    pairs: tuple[PairedDifference, ...]
    alphas: dict[str, float]
    winners: dict[str, WinnerCheck]

    @property
    def counted(self) -> str:
        """What the values are of: images, queries of ranked galleries, or both."""
        kinds = {is_of_queries(one.metric) for one in self.levels}
        return " or ".join("queries" if of_queries else "images" for of_queries in sorted(kinds, reverse=True))

    def p_values(self, metric: str, names: Sequence[str]) -> NDArray[np.float64]:
        """(M, M) symmetric, corrected p-values of the paired test; 1 on the diagonal."""
        p_values = np.ones((len(names), len(names)))
        for pair in self.pairs:
            if pair.metric == metric:
                i, j = names.index(pair.first), names.index(pair.second)
                p_values[i, j] = p_values[j, i] = pair.p_paired_corrected
        return p_values


def is_of_queries(metric: str) -> bool:
    """Whether a metric is one of ranked galleries, of which each query has a value."""
    return is_metric(metric) and find_metric(metric).group == "retrieval"


def check_comparable(entries: Sequence[ScoredTrial]) -> list[str]:
    """Refuses trials whose numbers cannot be compared, and notes what limits the comparison of the others.

    Returns:
        Notes, one line each: grids that differ.
    Raises:
        ConfigError: fewer than two, a name twice, or scores of other versions, settings, splits or images.
    """
    names = [entry.name for entry in entries]
    if len(entries) < 2:
        raise ConfigError(f"a comparison needs at least two trials or studies, got {', '.join(names) or 'none'}")
    if len(set(names)) < len(names):
        raise ConfigError(f"each trial may be compared once, got {', '.join(names)}")
    for entry in entries[1:]:
        _require_alike(entries[0], entry)
    grids = sorted({entry.grid for entry in entries})
    if len(grids) == 1:
        return []
    return [
        f"the maps have different grids ({', '.join(grids)}), and coarse maps are favoured by some metrics; "
        "evaluation.scores.grid pools them to one"
    ]


def _require_alike(first: ScoredTrial, other: ScoredTrial) -> None:
    for key in ("version", "split", "settings", "images"):
        mine, others = first.table.about[key], other.table.about[key]
        if mine != others:
            shown = "" if key == "images" else f" ({_short(mine, others)})"
            fix = "score them alike with `attnsearch faithfulness`" if first.grid else "take studies of the same data"
            raise ConfigError(
                f"{first.name} and {other.name} were scored with different {key}{shown} and cannot be compared; {fix}"
            )


def _short(mine: object, other: object) -> str:
    """The two values, of settings those of the first key in which they differ."""
    if isinstance(mine, dict) and isinstance(other, dict):
        key = next(key for key in {**mine, **other} if mine.get(key) != other.get(key))
        return f"{key} {mine.get(key)!r} and {other.get(key)!r}"
    return f"{mine!r} and {other!r}"


def metrics_of(entries: Sequence[ScoredTrial], names: Sequence[str]) -> list[str]:
    """The metrics of these names, or all that every trial has and some image defines.

    Raises:
        ConfigError: a metric that a trial does not have.
    """
    shared = [name for name in entries[0].table.values if all(name in entry.table.values for entry in entries)]
    for name in names:
        if name not in shared:
            hint = suggest(name, shared)
            raise ConfigError(f"metric {name!r} was not scored for all trials{hint}; known: {', '.join(shared)}")
    return list(dict.fromkeys(names)) or [
        name for name in shared if not any(np.isnan(entry.table.values[name]).all() for entry in entries)
    ]


def compare(entries: Sequence[ScoredTrial], metrics: Iterable[str]) -> Comparison:
    """Compares trials that `check_comparable` let pass, in some metrics.

    Undefined values are left out of means and pairs, and counted. Holm's correction is over the pairs of one metric.
    """
    levels, pairs, alphas, winners = [], [], {}, {}
    for metric in metrics:
        levels += [_level(entry, metric) for entry in entries]
        pairs += _pairs(entries, metric)
        scores = np.stack([_aligned(entry, entries[0], metric) for entry in entries])
        alphas[metric] = krippendorff_alpha(scores)
        winners[metric] = split_half_winner(scores, higher_is_better=higher_is_better(f"val/{metric}"))
    return Comparison(tuple(levels), tuple(pairs), alphas, winners)


def joined(comparisons: Sequence[Comparison]) -> Comparison:
    """One comparison of the same trials out of several, each in other metrics."""
    return Comparison(
        tuple(level for one in comparisons for level in one.levels),
        tuple(pair for one in comparisons for pair in one.pairs),
        {metric: alpha for one in comparisons for metric, alpha in one.alphas.items()},
        {metric: check for one in comparisons for metric, check in one.winners.items()},
    )


def _level(entry: ScoredTrial, metric: str) -> MetricMean:
    values = entry.table.values[metric]
    interval = mean_interval(values)
    return MetricMean(
        name=entry.name,
        metric=metric,
        grid=entry.grid,
        n_images=len(values),
        n_undefined=int(np.isnan(values).sum()),
        mean=interval.mean,
        low=interval.low,
        high=interval.high,
        version=int(entry.table.about["version"]),
        settings=json.dumps(entry.table.about["settings"], sort_keys=True),
    )


def _pairs(entries: Sequence[ScoredTrial], metric: str) -> list[PairedDifference]:
    pairs = []
    for first, second in combinations(entries, 2):
        a, b = (_aligned(entry, entries[0], metric) for entry in (first, second))
        by_image, by_group = paired(a, b), welch(a, b)
        interval = mean_interval(a - b)
        pairs.append(
            PairedDifference(
                metric=metric,
                first=first.name,
                second=second.name,
                n_images=by_image.n,
                difference=by_image.difference,
                low=interval.low,
                high=interval.high,
                p_paired=by_image.p,
                p_paired_corrected=by_image.p,
                p_welch=by_group.p,
                p_welch_corrected=by_group.p,
            )
        )
    corrected = [holm(np.array([getattr(pair, key) for pair in pairs])) for key in ("p_paired", "p_welch")]
    return [
        replace(pair, p_paired_corrected=float(p_paired), p_welch_corrected=float(p_welch))
        for pair, p_paired, p_welch in zip(pairs, *corrected, strict=True)
    ]


def _aligned(entry: ScoredTrial, first: ScoredTrial, metric: str) -> NDArray[np.float64]:
    """The values (N,) of a metric in the order of the first trial's images."""
    return entry.table.values[metric][places_of(first.table.image_ids, entry.table.image_ids)]


def write_comparison(
    comparison: Comparison, entries: Sequence[ScoredTrial], layout: ExperimentLayout, name: str | None
) -> list[Path]:
    """Writes both tables, and BR-NPA's figure of the paired tests, a panel for each metric.

    Args:
        name: of the files; None is `comparison_name` of the trials.
    Raises:
        StoreError: the disk refuses.
    """
    names = [entry.name for entry in entries]
    stem = name or comparison_name(names)
    paths = [layout.comparison(stem), layout.comparison_pairs(stem)]
    atomic_write(paths[0], _csv(comparison.levels, MetricMean))
    atomic_write(paths[1], _csv(comparison.pairs, PairedDifference))
    tests = [tests for metric in comparison.alphas if (tests := _tests(comparison, metric, names)) is not None]
    if tests and len(names) > 1:
        path = layout.tests_figure(stem)
        with atomic_path(path) as temporary:
            draw_tests(names, tests, temporary)
        paths.append(path)
    return paths


def comparison_name(trials: Sequence[str]) -> str:
    """A name for the files of a comparison: its studies and their trials, shortened with a digest where it is long.

    Args:
        trials: `STUDY` or `STUDY:NUMBER`; `a:0` and `a:1` together are `a_0_1`.
    """
    numbers: dict[str, list[str]] = {}
    for trial in trials:
        study, _, number = trial.partition(":")
        numbers.setdefault(study, []).extend([number] if number else [])
    whole = "_vs_".join(re.sub(r"[^A-Za-z0-9_.-]+", "_", "_".join([study, *own])) for study, own in numbers.items())
    if len(whole) <= _MAX_STEM:
        return whole
    return f"{whole[: _MAX_STEM - 9]}_{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def _tests(comparison: Comparison, metric: str, names: Sequence[str]) -> ModelTests | None:
    """What the figure shows of a metric; None where a mean is undefined."""
    means = {level.name: level.mean for level in comparison.levels if level.metric == metric}
    if any(np.isnan(mean) for mean in means.values()):
        return None
    direction = better_direction(f"val/{metric}", "maximize")
    return ModelTests(metric, direction, [means[name] for name in names], comparison.p_values(metric, names))


def _csv(
    rows: Sequence[MetricMean] | Sequence[PairedDifference], kind: type[MetricMean] | type[PairedDifference]
) -> str:
    """A line per row; an undefined number is an empty cell."""
    cells = (
        ["" if isinstance(cell, float) and np.isnan(cell) else cell for cell in vars(row).values()] for row in rows
    )
    return csv_text([[field.name for field in fields(kind)], *cells])
