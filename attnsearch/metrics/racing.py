"""Which of several scored trials are not surely beaten, from their scores of the same images.

Importing this file does not import torch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

STANDARD_ERRORS = 2.0
"""Of the paired difference of two trials, within which they are a tie."""


def contenders(scores: Floats, others: Floats) -> NDArray[np.bool_]:
    """Whether each of M trials may be the best, or on the front: (M,).

    With one objective those within two standard errors of the leader. With several, those that no trial surely beats:
    one that is no worse in all objectives, and ahead by more than two standard errors in each score.

    Args:
        scores: (S, M, N) of N images in S >= 1 objectives, larger is better; NaN counts as 0.
        others: (F, M) objectives without images, larger is better.
    """
    scores = np.nan_to_num(scores)
    means = scores.mean(axis=2)  # (S, M)
    ahead = np.stack([_is_surely_ahead(one) for one in scores])  # (S, M, M) the row ahead of the column
    is_ahead: NDArray[np.bool_] = np.all(ahead, axis=0)
    if len(scores) + len(others) == 1:
        return np.asarray(~is_ahead[int(means[0].argmax())], dtype=np.bool_)
    all_means = np.concatenate([means, others])  # (S + F, M)
    is_no_worse = np.all(all_means[:, :, None] >= all_means[:, None, :], axis=0)
    return np.asarray(~np.any(is_ahead & is_no_worse, axis=0), dtype=np.bool_)


def _is_surely_ahead(scores: Floats) -> NDArray[np.bool_]:
    """(M, M): whether the trial of the row is ahead of that of the column by more than the limit, on scores (M, N)."""
    n_images = scores.shape[1]
    if n_images < 2:
        return np.zeros((len(scores), len(scores)), dtype=bool)
    is_ahead = np.zeros((len(scores), len(scores)), dtype=bool)
    for row, values in enumerate(scores):
        differences = values - scores  # (M, N)
        error = differences.std(axis=1, ddof=1) / np.sqrt(n_images)
        is_ahead[row] = differences.mean(axis=1) > STANDARD_ERRORS * error
    return is_ahead


def is_on_front(values: Floats) -> NDArray[np.bool_]:
    """Whether no other trial is at least as good in all objectives and better in one: (M,).

    Args:
        values: (F, M), larger is better.
    """
    return np.asarray(~np.any(dominations(values), axis=0), dtype=np.bool_)


def dominations(values: Floats) -> NDArray[np.bool_]:
    """(M, M) whether the trial of the row is at least as good as that of the column in all objectives, better in one.

    Args:
        values: (F, M), larger is better.
    """
    is_no_worse = np.ones((values.shape[1],) * 2, dtype=bool)
    is_better = np.zeros_like(is_no_worse)
    for objective in values:  # all at once would take F times the memory
        is_no_worse &= objective[:, None] >= objective
        is_better |= objective[:, None] > objective
    return is_no_worse & is_better
