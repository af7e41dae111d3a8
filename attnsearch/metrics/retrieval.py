"""How well a gallery is ranked for each query: average precision, inverse negative penalty and CMC, without sorting.

A gallery image of the query's identity counts as a match unless it is removed: images of the same identity *and* the
same camera (or group, or content) are left out of the query's ranking. Queries without a match are skipped; what is
told per query is NaN for them. Importing this file does not import torch.

Source: Zheng et al. 2015 (Market-1501, protocol and AP); Ye et al. 2021 (arXiv 2001.04193, inverse negative penalty).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attnsearch.errors import UsageError
from attnsearch.metrics.feature_distances import BLOCK_ROWS, FeatureDistances, Metric, distances, nearest_entries
from attnsearch.metrics.reranking import rerank, rerank_blocks
from attnsearch.metrics.statistics import Floats, Interval, bootstrap_interval

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Metric",
    "RankedGallery",
    "RankingLabels",
    "RankingScores",
    "camera_matrix",
    "distances",
    "group_means",
    "random_mean_average_precision",
    "rank_distances",
    "rank_features",
    "ranking_scores",
    "ranks_of",
    "rerank",
    "rerank_blocks",
    "score_intervals",
]

MAX_RANK = 50
Labels = NDArray[Any]


@dataclass(frozen=True, eq=False)
class RankingLabels:
    """Who is on the images of a retrieval, and what is removed for each query.

    Attributes:
        query_ids: (Q,) identities.
        gallery_ids: (G,).
        query_cameras: (Q,) cameras, or groups, or numbers of contents; with None nothing is removed.
        gallery_cameras: (G,), if there are those of the queries.
    """

    query_ids: Labels
    gallery_ids: Labels
    query_cameras: Labels | None = None
    gallery_cameras: Labels | None = None

    def __post_init__(self) -> None:
        """Makes arrays of what was given.

        Raises:
            UsageError: arrays that do not fit together, or nothing to rank.
        """
        for name in ("query_ids", "gallery_ids", "query_cameras", "gallery_cameras"):
            if (values := getattr(self, name)) is not None:
                object.__setattr__(self, name, _to_vector(values, name))
        if (self.query_cameras is None) != (self.gallery_cameras is None):
            given, missing = ("query", "gallery") if self.gallery_cameras is None else ("gallery", "query")
            raise UsageError(f"{given}_cameras needs {missing}_cameras; give both, or none to remove nothing")
        for side in ("query", "gallery"):
            ids, cameras = getattr(self, f"{side}_ids"), getattr(self, f"{side}_cameras")
            if not len(ids):
                raise UsageError(f"the {side} has no image; check the folder or the list that it was read from")
            if cameras is not None and len(cameras) != len(ids):
                raise UsageError(f"{side}_cameras has {len(cameras)} entries for {len(ids)} {side}_ids; give one each")

    @classmethod
    def of_split(cls, labels: Labels, keys: Labels, is_query: NDArray[np.bool_]) -> RankingLabels:
        """Those of a split of N images, of which some are queries: (N,) each."""
        return cls(labels[is_query], labels[~is_query], keys[is_query], keys[~is_query])

    def entries(self, query: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions in the gallery of a query's matches, and of the images that are removed for it: (n,) and (r,)."""
        ids, order, starts = self._index
        same = order[starts[ids[query]] : starts[ids[query] + 1]]
        if self.query_cameras is None or self.gallery_cameras is None:
            return same, same[:0]
        is_removed = self.gallery_cameras[same] == self.query_cameras[query]
        return same[~is_removed], same[is_removed]

    @cached_property
    def _index(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Numbers of the queries' identities (Q,), gallery positions by identity (G,), and where each begins there."""
        names, numbers = np.unique(np.concatenate([self.query_ids, self.gallery_ids]), return_inverse=True)
        of_queries, of_gallery = np.split(numbers, [len(self.query_ids)])
        order = np.argsort(of_gallery, kind="stable")
        return of_queries, order, np.searchsorted(of_gallery[order], np.arange(len(names) + 1))


@dataclass(frozen=True, eq=False)
class RankingScores:
    """What a ranking of the gallery is worth, query by query.

    Attributes:
        average_precision: (Q,), NaN where the query was skipped.
        inverse_negative_penalty: (Q,), number of matches / rank of the last one, NaN where skipped.
        first_match: (Q,) rank of the first match from 1, 0 where skipped.
        max_rank: number of ranks in `cmc`.
    """

    average_precision: Floats
    inverse_negative_penalty: Floats
    first_match: NDArray[np.int64]
    max_rank: int = MAX_RANK

    @property
    def n_valid(self) -> int:
        """Queries that have a match; means are over them."""
        return int(np.count_nonzero(self.first_match))

    @property
    def mean_average_precision(self) -> float:
        """mAP."""
        return float(np.nanmean(self.average_precision))

    @property
    def mean_inverse_negative_penalty(self) -> float:
        """mINP."""
        return float(np.nanmean(self.inverse_negative_penalty))

    @property
    def cmc(self) -> Floats:
        """Fraction of queries with a match among the first 1, 2, … images: (max_rank,), constant beyond the gallery."""
        counts = np.bincount(self.first_match[self.first_match > 0], minlength=self.max_rank + 1)
        return np.cumsum(counts[1 : self.max_rank + 1]) / self.n_valid

    def hits(self, rank: int) -> Floats:
        """1 where a match is among the first `rank` images, else 0: (Q,), NaN where skipped."""
        return np.where(self.first_match == 0, np.nan, self.first_match <= rank)

    def per_query(self) -> dict[str, Floats]:
        """The reported numbers by name, whose means are the scores of the ranking: (Q,) each, NaN where skipped."""
        return {
            "mAP": self.average_precision,
            "rank1": self.hits(1),
            "rank5": self.hits(5),
            "rank10": self.hits(10),
            "mINP": self.inverse_negative_penalty,
        }


@dataclass(frozen=True, eq=False)
class RankedGallery:
    """Scores, and the images at the top of each ranking, without those that are removed.

    Attributes:
        scores: of all queries.
        nearest: (Q, top_k) int32 positions in the gallery, nearest first, -1 where the ranking is shorter.
        distances: (Q, top_k) float32, of them, NaN where the ranking is shorter.
    """

    scores: RankingScores
    nearest: NDArray[np.int32]
    distances: NDArray[np.float32]


def ranking_scores(
    distances: NDArray[Any] | Tensor,
    query_ids: Labels,
    gallery_ids: Labels,
    query_cameras: Labels | None = None,
    gallery_cameras: Labels | None = None,
    max_rank: int = MAX_RANK,
) -> RankingScores:
    """Scores of a matrix of distances (Q, G); equal distances rank by position in the gallery.

    Args:
        query_ids, query_cameras: (Q,).
        gallery_ids, gallery_cameras: (G,).
        max_rank: length of the CMC curve.
    Raises:
        UsageError: shapes that do not fit, NaN, no query with a match, or no gallery.
    """
    if max_rank < 1:
        raise UsageError(f"max_rank must be >= 1, got {max_rank}")
    matrix = _to_array(distances)
    if matrix.ndim != 2:
        raise UsageError(f"distances must be a matrix (queries, gallery images), got the shape {matrix.shape}")
    labels = RankingLabels(query_ids, gallery_ids, query_cameras, gallery_cameras)
    ranking = _Ranking(labels, top_k=0)
    ranking.add(matrix)
    scores = ranking.finish().scores
    return RankingScores(scores.average_precision, scores.inverse_negative_penalty, scores.first_match, max_rank)


def rank_features(
    query: NDArray[Any] | Tensor,
    gallery: NDArray[Any] | Tensor,
    labels: RankingLabels,
    *,
    metric: Metric,
    top_k: int = 0,
    block_rows: int = BLOCK_ROWS,
) -> RankedGallery:
    """Ranks the gallery for each query without holding all distances: as `ranking_scores` of `distances`, bit for bit.

    Args:
        query: (Q, D), may be memory-mapped.
        gallery: (G, D), likewise.
        top_k: images at the top of each ranking that are returned.
        block_rows: queries that are ranked at once; their distances to the gallery are held in memory.
    Raises:
        UsageError: shapes that do not fit, values that are not finite, or no query with a match.
    """
    pairs = FeatureDistances(query, gallery, metric=metric)
    return rank_distances(pairs.blocks(block_rows), labels, top_k=top_k)


def rank_distances(blocks: Iterable[NDArray[Any]], labels: RankingLabels, *, top_k: int = 0) -> RankedGallery:
    """Ranks the gallery for each query from blocks of distances, (B, G) each, in the order of the queries.

    Raises:
        UsageError: as `rank_features`.
    """
    ranking = _Ranking(labels, top_k)
    for block in blocks:
        ranking.add(block)
    return ranking.finish()


def camera_matrix(
    query: NDArray[Any] | Tensor,
    gallery: NDArray[Any] | Tensor,
    labels: RankingLabels,
    *,
    metric: Metric,
    n_cameras: int,
) -> Floats:
    """mAP of the queries (Q, D) of one camera against the gallery images (G, D) of one other: (n_cameras, n_cameras).

    Rows are cameras of queries, columns those of gallery images. NaN without a query that has a match there, so on the
    diagonal.

    Raises:
        UsageError: labels without cameras, or cameras outside of 0 to n_cameras - 1.
    """
    if labels.query_cameras is None or labels.gallery_cameras is None:
        raise UsageError("a camera matrix needs query_cameras and gallery_cameras; this data has none")
    matrix = np.full((n_cameras, n_cameras), np.nan)
    _check_groups(labels.gallery_cameras, n_cameras)
    for camera in np.unique(labels.gallery_cameras).tolist():
        rows = np.flatnonzero(labels.gallery_cameras == camera)
        ids, cameras = labels.gallery_ids[rows], labels.gallery_cameras[rows]
        ranking = _Ranking(RankingLabels(labels.query_ids, ids, labels.query_cameras, cameras), top_k=0)
        for block in FeatureDistances(query, gallery[rows], metric=metric).blocks():
            ranking.add(block)
        matrix[:, camera] = group_means(ranking.average_precision, labels.query_cameras, n_cameras)
    return matrix


def group_means(values: Floats, groups: NDArray[np.integer[Any]], n_groups: int) -> Floats:
    """Means of the defined values (N,) of each camera or identity: (n_groups,), NaN for a group without any.

    Args:
        groups: (N,), from 0 to n_groups - 1.
    Raises:
        UsageError: a group outside of that range.
    """
    _check_groups(groups, n_groups)
    is_defined = ~np.isnan(values)
    sums = np.bincount(groups[is_defined], weights=values[is_defined], minlength=n_groups)
    with np.errstate(invalid="ignore"):
        means: Floats = sums / np.bincount(groups[is_defined], minlength=n_groups)
    return means


def score_intervals(scores: RankingScores, *, seed: int = 0) -> dict[str, Interval]:
    """The reported scores by name, each with a bootstrap interval over the queries that have a match."""
    return {name: bootstrap_interval(values, seed=seed) for name, values in scores.per_query().items()}


def random_mean_average_precision(labels: RankingLabels) -> float:
    """The expected mAP where each query's ranking is a random order.

    With n matches among N ranked images, it is (n - 1) / (N - 1) + (N - n) / (N (N - 1)) (1 + 1 / 2 + … + 1 / N).

    Raises:
        UsageError: no query has a match.
    """
    entries = map(labels.entries, range(len(labels.query_ids)))
    n_matches, n_removed = np.array([[*map(len, one)] for one in entries], dtype=np.float64).T
    n_ranked, n_matches = (len(labels.gallery_ids) - n_removed)[n_matches > 0], n_matches[n_matches > 0]
    if not len(n_matches):
        raise _no_match(labels)
    harmonic = np.cumsum(1 / np.arange(1, len(labels.gallery_ids) + 1))[n_ranked.astype(int) - 1]
    fewest = harmonic / n_ranked  # with a single match
    return float((fewest + (n_matches - 1) / np.maximum(n_ranked - 1, 1) * (1 - fewest)).mean())


class _Ranking:
    """Scores of queries as blocks of their distances come in."""

    def __init__(self, labels: RankingLabels, top_k: int) -> None:
        if top_k < 0:
            raise UsageError(f"top_k must be >= 0, got {top_k}")
        self._labels, self._n_seen, n_queries = labels, 0, len(labels.query_ids)
        self.average_precision = np.full(n_queries, np.nan)
        self._inverse_negative_penalty = np.full(n_queries, np.nan)
        self._first_match = np.zeros(n_queries, dtype=np.int64)
        self._nearest = np.full((n_queries, top_k), -1, dtype=np.int32)
        self._distances = np.full((n_queries, top_k), np.nan, dtype=np.float32)

    def add(self, block: NDArray[Any]) -> None:
        """The distances of the next queries, (B, G)."""
        expected = (len(self._labels.query_ids), len(self._labels.gallery_ids))
        if block.shape[1] != expected[1] or self._n_seen + len(block) > expected[0]:
            found = (self._n_seen + len(block), block.shape[1])
            raise UsageError(f"distances have the shape {found}, but there are labels for {expected}; they must agree")
        if np.isnan(block.min()):
            raise UsageError("distances have NaN, which has no rank; check the embeddings")
        for row in block:
            self._add_row(self._n_seen, row)
            self._n_seen += 1

    def _add_row(self, query: int, row: NDArray[Any]) -> None:
        """Distances of one query: (G,)."""
        matches, removed = self._labels.entries(query)
        if len(removed):
            row = row.astype(np.result_type(row, np.float16))  # a copy, whole numbers as floats
            row[removed] = np.nan  # NaN is neither smaller than nor equal to another distance
        if len(matches):
            ranks = ranks_of(matches, row)
            numbers = np.arange(1, len(ranks) + 1)
            self.average_precision[query] = (numbers / ranks).mean()
            self._inverse_negative_penalty[query] = len(ranks) / ranks[-1]
            self._first_match[query] = ranks[0]
        nearest = nearest_entries(row, self._nearest.shape[1])
        self._nearest[query, : len(nearest)] = nearest
        self._distances[query, : len(nearest)] = row[nearest]

    def finish(self) -> RankedGallery:
        """What was found.

        Raises:
            UsageError: queries without distances, or none with a match.
        """
        if self._n_seen < len(self._labels.query_ids):
            raise UsageError(
                f"distances of {self._n_seen} queries for {len(self._labels.query_ids)} query_ids; add all"
            )
        if not self._first_match.any():
            raise _no_match(self._labels)
        scores = RankingScores(self.average_precision, self._inverse_negative_penalty, self._first_match)
        return RankedGallery(scores, self._nearest, self._distances)


def ranks_of(matches: NDArray[np.int64], row: NDArray[Any]) -> NDArray[np.int64]:
    """Ranks (n,) of some entries of (G,) in its stable order, ascending: one pass over the row for each, no sort.

    Before an entry come all smaller ones, and the equal ones at lower positions.
    """
    ranks = [
        1 + np.count_nonzero(row[:position] <= limit) + np.count_nonzero(row[position + 1 :] < limit)
        for position, limit in zip(matches.tolist(), row[matches], strict=True)
    ]
    return np.sort(np.array(ranks, dtype=np.int64))


def _no_match(labels: RankingLabels) -> UsageError:
    others = " of another camera" if labels.query_cameras is not None else ""
    return UsageError(
        f"none of the {len(labels.query_ids)} queries has a match{others} in the gallery of {len(labels.gallery_ids)} "
        "images; check that identities and cameras of both are written alike"
    )


def _check_groups(groups: NDArray[np.integer[Any]], n_groups: int) -> None:
    if len(groups) and (groups.min() < 0 or groups.max() >= n_groups):
        raise UsageError(f"groups must be from 0 to {n_groups - 1}, got {groups.min()} to {groups.max()}")


def _to_vector(values: Labels | Tensor, name: str) -> Labels:
    """Labels (N,) as an array."""
    array = _to_array(values)
    if array.ndim != 1:
        raise UsageError(f"{name} must be a list of labels, got the shape {array.shape}")
    return array


def _to_array(values: NDArray[Any] | Tensor) -> NDArray[Any]:
    """Numbers of any shape, from the memory of any device."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
