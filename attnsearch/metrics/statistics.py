"""From scores to statements: intervals, tests, how far the order of several models can be trusted, volumes of fronts.

Scores of single images are numpy arrays, one number per image, NaN where undefined. Importing this file does not import
torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnsearch.metrics.racing import is_on_front

Floats = NDArray[np.float64]

LEVEL = 0.95
ALPHA = 0.05
"""Corrected p-values below it separate the winner of a search from other trials."""
N_RESAMPLES = 1000
SEED = 1
"""Of the bootstrap of reported intervals, so that they are the same numbers again."""


@dataclass(frozen=True)
class Interval:
    """A mean over `n` images, and the ends of its interval; all NaN without images."""

    mean: float
    low: float
    high: float
    n: int


def mean_interval(values: Floats, *, level: float = LEVEL) -> Interval:
    """The mean of the defined values, with Student's interval.

    Of the influence values of a gain it is the interval of the ratio by the delta method.

    Args:
        values: (N,).
        level: in (0, 1).
    """
    from scipy import stats

    defined = _defined(values)
    mean = float(defined.mean()) if len(defined) else float("nan")
    if len(defined) < 2:
        return Interval(mean, float("nan"), float("nan"), len(defined))
    width = float(stats.t.ppf((1 + level) / 2, len(defined) - 1) * np.sqrt(_variance(defined) / len(defined)))
    return Interval(mean, mean - width, mean + width, len(defined))


@dataclass(frozen=True)
class TestResult:
    """A two-sided test; `difference` is the first mean minus the second, all NaN where the test is undefined."""

    difference: float
    statistic: float
    dof: float
    p: float
    n: int


@dataclass(frozen=True)
class WinnerCheck:
    """How often two random halves of the images name the same best model.

    Attributes:
        same: fraction of the splits in which they do; NaN without images.
        chance: what equal models reach, 1 / M.
        corrected: mean over the splits of the score that one half gives to the winner of the other, so that the choice
            of the winner does not flatter it.
    """

    same: float
    chance: float
    corrected: float


def bootstrap_interval(
    values: Floats, *, level: float = LEVEL, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> Interval:
    """The mean of the defined values, with a percentile interval over resampled images.

    Args:
        values: (N,).
        level: in (0, 1).
    """
    defined = _defined(values)
    if not len(defined):
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    rows = np.random.default_rng(seed).integers(len(defined), size=(n_resamples, len(defined)))
    low, high = np.quantile(defined[rows].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(defined.mean()), float(low), float(high), len(defined))


def welch(first: Floats, second: Floats) -> TestResult:
    """Welch's test of two means, of unequal variances and images that need not be the same.

    Args:
        first, second: (N,) each, of any number of images.
    Source: BR-NPA's comparison of models (released code, processResults.py), which takes no account of the pairing.
    """
    a, b = _defined(first), _defined(second)
    n = min(len(a), len(b))
    if n < 2 or (np.ptp(a) == 0 and np.ptp(b) == 0):
        return _undefined(_difference(a, b), n)
    u, v = _variance(a) / len(a), _variance(b) / len(b)
    dof = (u + v) ** 2 / (u**2 / (len(a) - 1) + v**2 / (len(b) - 1))
    return _student(_difference(a, b), u + v, dof, n)


def paired(first: Floats, second: Floats) -> TestResult:
    """Student's test of the differences on the same images; those that either lacks are left out.

    Args:
        first, second: (N,), image by image.
    """
    both = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    differences = _defined(both)
    n = len(differences)
    if n < 2 or np.ptp(differences) == 0:
        return _undefined(float(differences.mean()) if n else float("nan"), n)
    return _student(float(differences.mean()), _variance(differences) / n, n - 1, n)


def holm(p_values: Floats) -> Floats:
    """p-values (n,) corrected for their number by Holm's method, in the same order; NaN stays and does not count."""
    p = np.asarray(p_values, dtype=np.float64)
    corrected = np.full(p.shape, np.nan)
    defined = np.flatnonzero(~np.isnan(p))
    order = defined[np.argsort(p[defined], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return corrected


@dataclass(frozen=True)
class Separation:
    """The means of k groups, and whether the first is better than each other one.

    Attributes:
        means, low, high: (k,) with the ends of their intervals.
        p: (k,) one-sided, of the first against each other one, after Holm's correction; NaN for the first itself, and
            where no group has two values.
        is_ahead: (k,) whether a group has a better mean than the first.
    """

    means: Floats
    low: Floats
    high: Floats
    p: Floats
    is_ahead: NDArray[np.bool_]


def separation(groups: Sequence[Floats], *, higher_is_better: bool = True, level: float = LEVEL) -> Separation:
    """Whether the first of k groups is better than each other one: one-sided t-tests with one pooled variance.

    With few values a group, the variance of all groups together is far better known than that of each.

    Args:
        groups: k of (n,) each, of any n; NaN is left out.
    """
    from scipy import stats

    defined = [_defined(values) for values in groups]
    sizes = np.array([len(values) for values in defined])
    means = np.array([values.mean() if len(values) else np.nan for values in defined])
    dof = int(np.maximum(sizes - 1, 0).sum())
    squares = sum(float(((values - values.mean()) ** 2).sum()) for values in defined if len(values))
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.sqrt(np.float64(squares) / dof)
        half = stats.t.ppf((1 + level) / 2, dof) * spread / np.sqrt(sizes)
        leads = (means[0] - means) * (1.0 if higher_is_better else -1.0)
        p = stats.t.sf(leads / (spread * np.sqrt(1 / sizes[0] + 1 / sizes)), dof)
    p[0] = np.nan
    return Separation(means, means - half, means + half, holm(p), leads < 0)


def krippendorff_alpha(scores: Floats) -> float:
    """How far images agree on the order of several models: 1 fully, 0 as by chance, negative against each other.

    Each image is a rater who ranks the models by their scores; ranks are compared as ordinal data.

    Args:
        scores: (M, N), of M models on N images; an image is left out where a model has no score.
    Returns:
        Alpha; NaN with fewer than two models or images, or if all ranks are tied.
    Source: Krippendorff 2004, alpha for ordinal data; for explanation metrics, Gomez and Mouchère 2023 (arXiv
        2311.17876).
    """
    from scipy import stats

    complete = np.asarray(scores, dtype=np.float64)
    complete = complete[:, ~np.isnan(complete).any(axis=0)]
    n_models, n_images = complete.shape
    if n_models < 2 or n_images < 2:
        return float("nan")
    ranks = stats.rankdata(complete, axis=0)
    values, positions = np.unique(ranks, return_inverse=True)
    counts = np.stack([np.bincount(row, minlength=len(values)) for row in positions.reshape(ranks.shape)])  # (M, V)
    coincidences = (counts.T @ counts - np.diag(counts.sum(axis=0))) / (n_images - 1)  # (V, V)
    totals = coincidences.sum(axis=1)
    below = np.concatenate([[0.0], np.cumsum(totals)])
    middle = (below[:-1] + below[1:]) / 2  # an ordinal scale: half of the own values lie below
    distance = (middle[:, None] - middle[None, :]) ** 2
    expected = (np.outer(totals, totals) * distance).sum() / (totals.sum() - 1)
    if expected == 0:
        return float("nan")
    return float(1 - (coincidences * distance).sum() / expected)


def split_half_winner(
    scores: Floats, *, higher_is_better: bool = True, n_splits: int = N_RESAMPLES, seed: int = 0
) -> WinnerCheck:
    """Whether random halves of the images have the same best model, by mean.

    Unlike images drawn again with replacement, the two halves share no image, so that equal models agree by chance
    alone. Where models are equal on a half, each of them wins it with the same probability.

    Args:
        scores: (M, N), of M models on N images; an image is left out where a model has no score.
    """
    complete = np.asarray(scores, dtype=np.float64)
    complete = complete[:, ~np.isnan(complete).any(axis=0)]
    n_models, half = len(complete), complete.shape[1] // 2
    if not half:
        return WinnerCheck(float("nan"), 1 / n_models, float("nan"))
    rng = np.random.default_rng(seed)
    same, corrected = np.zeros(n_splits), np.zeros(n_splits)
    for split in range(n_splits):
        order = rng.permutation(complete.shape[1])
        first, second = (complete[:, part].mean(axis=1) for part in (order[:half], order[half : 2 * half]))
        wins, other = (_winners(means, higher_is_better) for means in (first, second))
        same[split], corrected[split] = wins @ other, wins @ second
    return WinnerCheck(float(same.mean()), 1 / n_models, float(corrected.mean()))


def cross_fitted(first: Floats, second: Floats, *, higher_is_better: bool = True) -> float:
    """What the best candidate is worth, without what the choice of the best adds to it.

    The mean of the second value of the candidate that is best by the first, and of the reverse; of equal ones the first
    in order counts. It is of a choice by half of the images, so that it errs, if at all, on the low side.

    Args:
        first, second: (M,), of the same M candidates on two halves of the images; NaN leaves a candidate out.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    defined = ~(np.isnan(a) | np.isnan(b))
    if not defined.any():
        return float("nan")
    a, b = a[defined], b[defined]
    by_a, by_b = (values.argmax() if higher_is_better else values.argmin() for values in (a, b))
    return float(b[by_a] + a[by_b]) / 2


def hypervolume(points: Floats) -> float:
    """The volume of the union of the boxes between the origin and some points.

    Args:
        points: (n, d), larger is better in every column; a point that is not above the origin in all adds nothing.
    Source: While, Bradstreet, Barone 2012, "A fast way of calculating exact hypervolumes" (WFG).
    """
    front = non_dominated(np.maximum(np.asarray(points, dtype=np.float64), 0.0))
    front = front[np.argsort(front[:, 0], kind="stable")]
    return sum(added_volume(point, front[place + 1 :]) for place, point in enumerate(front))


def added_volume(point: Floats, others: Floats) -> float:
    """What a point (d,) adds to the volume of others (n, d): its own box without what they cover of it."""
    own = np.maximum(np.asarray(point, dtype=np.float64), 0.0)
    if not len(others) or not own.all():
        return float(own.prod())
    return float(own.prod()) - hypervolume(np.minimum(others, own))


def non_dominated(points: Floats) -> Floats:
    """Of points (n, d) those that no other one reaches in all columns, each once: (m, d) in another order."""
    distinct = np.unique(np.asarray(points, dtype=np.float64), axis=0)
    kept: Floats = distinct[is_on_front(distinct.T)]
    return kept


def _winners(means: Floats, higher_is_better: bool) -> Floats:
    """(M,) the probability of each model to be called the best by means (M,): 1 for one of them but where some tie."""
    is_best = np.asarray(means == (means.max() if higher_is_better else means.min()), dtype=np.float64)
    chances: Floats = is_best / is_best.sum()
    return chances


def rank_correlation(first: NDArray[np.floating[Any]], second: NDArray[np.floating[Any]]) -> Floats:
    """(N,) Spearman's correlation of each pair of maps (N, ...), ties at their mean rank; NaN where one is flat."""
    from scipy import stats

    ranks = [stats.rankdata(maps.reshape(len(maps), -1), axis=1) for maps in (first, second)]
    centred = [rank - rank.mean(axis=1, keepdims=True) for rank in ranks]
    products = (centred[0] * centred[1]).sum(axis=1)
    scale = np.sqrt((centred[0] ** 2).sum(axis=1) * (centred[1] ** 2).sum(axis=1))
    correlations: Floats = np.divide(products, scale, out=np.full(len(first), np.nan), where=scale > 0)
    return correlations


def linear_influence(terms: Sequence[tuple[float, Floats]]) -> Floats:
    """(N,) values whose mean is a weighted sum of means, and whose standard error is that of the sum (delta method).

    Args:
        terms: weight and values (N,) of each mean, which leaves out NaN; with one that has no value, all are NaN.
    """
    total = sum(weight * _mean(values) for weight, values in terms)
    deviations = [
        np.where(np.isnan(values), 0.0, weight * (values - _mean(values)) * len(values) / max(1, _count(values)))
        for weight, values in terms
    ]
    return np.asarray(total + sum(deviations), dtype=np.float64)


def _mean(values: Floats) -> float:
    defined = _defined(values)
    return float(defined.mean()) if len(defined) else math.nan


def _count(values: Floats) -> int:
    return len(_defined(values))


def _defined(values: Floats) -> Floats:
    """The values of (N,) that are not NaN."""
    array = np.asarray(values, dtype=np.float64).ravel()
    return array[~np.isnan(array)]


def _difference(first: Floats, second: Floats) -> float:
    """Of the means of (N,) and (M,)."""
    return float(first.mean() - second.mean()) if len(first) and len(second) else float("nan")


def _variance(values: Floats) -> float:
    """Of (N,), unbiased, and 0 for equal values, whatever the rounding of their mean."""
    return float(values.var(ddof=1)) if np.ptp(values) else 0.0


def _student(difference: float, variance: float, dof: float, n: int) -> TestResult:
    """The test of a difference whose estimate has this variance, which must not be 0."""
    from scipy import stats

    statistic = difference / math.sqrt(variance)
    return TestResult(difference, statistic, float(dof), float(2 * stats.t.sf(abs(statistic), dof)), n)


def _undefined(difference: float, n: int) -> TestResult:
    return TestResult(difference, float("nan"), float("nan"), float("nan"), n)
