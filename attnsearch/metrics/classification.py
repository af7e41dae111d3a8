"""Where a classifier errs: per class, pair by pair, and how far its confidence can be believed.

All arrays are numpy; importing this file does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_BINS = 15


@dataclass(frozen=True)
class ConfusedPair:
    """Two classes that are taken for each other.

    Attributes:
        first, second: class indices, `first` being the smaller one.
        n_errors: images of either class that are predicted as the other.
        first_as_second, second_as_first: the two directions.
        rate: errors as a fraction of the images of both classes.
    """

    first: int
    second: int
    n_errors: int
    first_as_second: int
    second_as_first: int
    rate: float


def top_k_accuracy(logits: NDArray[np.float32], labels: NDArray[np.int64], k: int) -> float:
    """Fraction of images whose class is among the k highest logits; of equal ones, the smaller class index is higher.

    Args:
        logits: (N, n_classes).
        labels: (N,).
    Raises:
        ValueError: no images, or k outside of 1 to n_classes.
    """
    if not len(logits) or not 1 <= k <= logits.shape[1]:
        raise ValueError(f"k must be between 1 and {logits.shape[1]} on at least one image, got {k} on {len(logits)}")
    top = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return float((top == labels[:, None]).any(axis=1).mean())


def confusion_matrix(labels: NDArray[np.int64], predictions: NDArray[np.int64], n_classes: int) -> NDArray[np.int64]:
    """(n_classes, n_classes) counts: rows are true classes, columns predicted ones."""
    flat = np.bincount(labels * n_classes + predictions, minlength=n_classes * n_classes)
    return flat.reshape(n_classes, n_classes).astype(np.int64)


def class_accuracies(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n_classes,) fraction of each class's images that are predicted right; NaN for a class without images."""
    n_images = matrix.sum(axis=1)
    with np.errstate(invalid="ignore"):
        accuracies: NDArray[np.float64] = np.diag(matrix) / n_images
    return accuracies


def class_precisions(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n_classes,) fraction of each class's predictions that are right; NaN for a class that is never predicted."""
    return class_accuracies(matrix.T)


def most_confused(matrix: NDArray[np.int64], *, n_pairs: int) -> list[ConfusedPair]:
    """The pairs of classes with the most errors between them, both directions counted; then by rate, then by index.

    The matrix is that of `confusion_matrix`, (n_classes, n_classes). Pairs without an error are left out, so fewer may
    come back.

    Source: the question is that of The Loupe's analysis, whose code counts one direction and lists a pair twice.
    """
    true, predicted = np.nonzero(matrix)
    return pairs_of_counts(true, predicted, matrix[true, predicted], matrix.sum(axis=1), n_pairs=n_pairs)


def pairs_of_counts(
    true: NDArray[np.int64],
    predicted: NDArray[np.int64],
    counts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    *,
    n_pairs: int,
) -> list[ConfusedPair]:
    """As `most_confused`, of the entries of a matrix, which may itself be too large to hold.

    Args:
        true, predicted, counts: (M,) a class, the one that is predicted, and of how many images; entries of the same
            classes are added up, and those of correct predictions left out.
        sizes: (n_classes,) images of each class.
    """
    is_wrong = true != predicted
    true, predicted, counts = true[is_wrong], predicted[is_wrong], counts[is_wrong]
    ends = np.stack([np.minimum(true, predicted), np.maximum(true, predicted)], axis=1)  # (M, 2)
    found, place = np.unique(ends, axis=0, return_inverse=True)
    both, forward = (
        np.bincount(place.ravel(), weights=weights, minlength=len(found)).astype(np.int64)
        for weights in (counts, counts * (true < predicted))
    )
    rates = both / sizes[found].sum(axis=1)
    order = np.lexsort((found[:, 1], found[:, 0], -rates, -both))[:n_pairs]
    return [
        ConfusedPair(
            first=int(found[at, 0]),
            second=int(found[at, 1]),
            n_errors=int(both[at]),
            first_as_second=int(forward[at]),
            second_as_first=int(both[at] - forward[at]),
            rate=float(rates[at]),
        )
        for at in order
    ]


def calibration_error(confidences: NDArray[np.float32], is_right: NDArray[np.bool_], *, n_bins: int = N_BINS) -> float:
    """Expected calibration error: mean gap between confidence and accuracy over equal bins of (0, 1], by their images.

    Args:
        confidences: (N,) probability of the predicted class.
        is_right: (N,).
    Source: Guo et al. 2017 (arXiv 1706.04599), section 2.
    """
    if not len(confidences):
        return float("nan")
    bins = np.clip(np.ceil(confidences.astype(np.float64) * n_bins).astype(int) - 1, 0, n_bins - 1)
    gaps = np.bincount(bins, weights=confidences.astype(np.float64) - is_right, minlength=n_bins)
    return float(np.abs(gaps).sum() / len(confidences))


MIN_WRONG = 20
"""Wrong images below which no temperature is fitted: without errors any confidence is too low."""
TEMPERATURES = (0.25, 4.0)
"""Limits between which a temperature must lie."""


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float | None:
    """The temperature T at which softmax(logits / T) has the smallest cross-entropy.

    Args:
        logits: (N, n_classes).
        labels: (N,).
    Returns:
        None where fewer than `MIN_WRONG` images are wrong, or no T inside of `TEMPERATURES` is the best one.
    Source: Guo et al. 2017 (arXiv 1706.04599), section 4.2.
    """
    n_wrong = int((logits.argmax(axis=1) != labels).sum())
    if n_wrong < MIN_WRONG or not np.isfinite(logits).all():
        return None
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    scores = logits.astype(np.float64)
    right = scores[np.arange(len(labels)), labels]

    def cross_entropy(log_temperature: float) -> float:
        inverse = np.exp(-log_temperature)
        return float(np.mean(logsumexp(scores * inverse, axis=1) - right * inverse))

    low, high = np.log(TEMPERATURES)
    found = float(minimize_scalar(cross_entropy, bounds=(low, high), method="bounded").x)
    is_inside = min(found - low, high - found) > 1e-3
    return float(np.exp(found)) if is_inside else None
