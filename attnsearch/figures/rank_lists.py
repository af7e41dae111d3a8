"""The ranked gallery of one query, image by image, as figures and pages show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnsearch.data.identity_numbers import DISTRACTORS
from attnsearch.types import MatchRule, Retrieval

N_SHOWN = 10
"""Gallery images that are shown of a ranked list."""
REMOVED_AS: dict[MatchRule, str] = {"camera": "same camera", "group": "same group", "open": "same content"}
"""Match rule -> what a removed gallery image and the query have in common."""


@dataclass(frozen=True)
class RankedImage:
    """A gallery image in the list of a query.

    Attributes:
        row: in the split.
        rank: from 1; None for an image of the query's identity that the match rule removes.
        cosine: of its features and those of the query.
        is_distractor: whether it is of no identity that is searched for, as the backgrounds of Market-1501.
    """

    row: int
    rank: int | None
    cosine: float
    is_match: bool
    is_distractor: bool = False


@dataclass(frozen=True)
class RankList:
    """The beginning of a ranked gallery.

    Attributes:
        query: its row in the split.
        images: the nearest first.
        average_precision: NaN for a query without a match.
        first_match: rank of the first match, from 1; 0 without a match.
        n_matches: in the whole gallery.
    """

    query: int
    images: Sequence[RankedImage]
    average_precision: float
    first_match: int
    n_matches: int


def rank_list(retrieval: Retrieval, query: int, *, n_shown: int = N_SHOWN, with_removed: bool = False) -> RankList:
    """The nearest gallery images of a query.

    Args:
        query: its row in the split.
        n_shown: how many images at most; a retrieval holds the ranks of some more alone.
        with_removed: shows images that the match rule removes too, at the place of their distance.
    Raises:
        ValueError: the row is no query.
    """
    if not retrieval.is_query[query]:
        raise ValueError(f"row {query}, {retrieval.image_ids[query]}, is of the gallery and has no ranked list")
    place = int(retrieval.is_query[:query].sum())  # among the queries
    ranked = retrieval.ranked_rows[place]
    ranked = ranked[ranked >= 0][:n_shown]
    is_same = (retrieval.labels == retrieval.labels[query]) & ~retrieval.is_query
    is_removed = is_same & (retrieval.removal_keys == retrieval.removal_keys[query])
    rows, ranks = ranked, np.arange(1, len(ranked) + 1)
    if with_removed:
        removed, at = _between(retrieval, query, ranked, np.flatnonzero(is_removed))
        rows, ranks = np.insert(ranked, at, removed)[:n_shown], np.insert(ranks, at, 0)[:n_shown]
    distractors = _distractor_label(retrieval)
    images = [
        RankedImage(
            int(row),
            int(rank) or None,
            cosine,
            is_match=bool(is_same[row] and rank),
            is_distractor=bool(retrieval.labels[row] == distractors),
        )
        for row, rank, cosine in zip(rows, ranks, cosines(retrieval, query, rows), strict=True)
    ]
    return RankList(
        query,
        images,
        average_precision=float(retrieval.average_precision[place]),
        first_match=int(retrieval.first_match[place]),
        n_matches=int((is_same & ~is_removed).sum()),
    )


def cosines(retrieval: Retrieval, query: int, rows: NDArray[np.int64]) -> list[float]:
    """The cosines of the features of a query and of rows (n,)."""
    own, others = np.asarray(retrieval.features[query]), np.asarray(retrieval.features[rows])
    norms = np.linalg.norm(own) * np.linalg.norm(others, axis=1)
    found: list[float] = (others @ own / norms).tolist()
    return found


def _between(
    retrieval: Retrieval, query: int, ranked: NDArray[np.int64], removed: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """Removed rows (m,), the nearest first, and the places (m,) before which they stand among the ranked rows (n,)."""
    own = np.asarray(retrieval.features[query])

    def gaps(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        if retrieval.distance == "cosine":
            return 1.0 - np.array(cosines(retrieval, query, rows))
        return np.linalg.norm(np.asarray(retrieval.features[rows], dtype=np.float64) - own, axis=1)

    gaps_of_removed = gaps(removed)
    order = np.argsort(gaps_of_removed, kind="stable")
    in_order = np.maximum.accumulate(gaps(ranked))  # the ranks are as they were measured, whatever rounding says here
    return removed[order], np.searchsorted(in_order, gaps_of_removed[order])


def _distractor_label(retrieval: Retrieval) -> int | None:
    """The label of images that no query is of; None where there are none."""
    if DISTRACTORS not in retrieval.identities:
        return None
    label = retrieval.identities.index(DISTRACTORS)
    return None if (retrieval.labels[retrieval.is_query] == label).any() else label
