"""What pages show of a retrieval: ranked galleries with what is left out of them, pairs, means by identity."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from attnsearch.data.identity_numbers import DISTRACTORS
from attnsearch.errors import ConfigError
from attnsearch.metrics.retrieval import RankingLabels, group_means, ranks_of
from attnsearch.types import MatchRule, Retrieval

REMOVED_AS: Mapping[MatchRule, str] = {"camera": "same camera", "group": "same group", "open": "same content"}
"""Why a gallery image of the query's identity is in no ranking."""
_BLOCK_ROWS = 4096
_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class RankedImage:
    """A gallery image of a query.

    Attributes:
        row: in the split.
        rank: from 1; None for an image that is removed.
        cosine: to the query.
    """

    row: int
    rank: int | None
    cosine: float
    is_match: bool


@dataclass(frozen=True, eq=False)
class Rankings:
    """The ranked galleries of a split of N images with Q queries; features stay mapped from disk."""

    retrieval: Retrieval

    @cached_property
    def query_rows(self) -> NDArray[np.int64]:
        """(Q,) rows in the split."""
        return np.flatnonzero(self.retrieval.is_query)

    @cached_property
    def gallery_rows(self) -> NDArray[np.int64]:
        """(G,) rows in the split."""
        return np.flatnonzero(~self.retrieval.is_query)

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Image id -> its row in the split."""
        return {image_id: row for row, image_id in enumerate(self.retrieval.image_ids)}

    @cached_property
    def nearest(self) -> NDArray[np.int64]:
        """(Q,) rows of the first hits, -1 where nothing is ranked."""
        ranked = self.retrieval.ranked_rows
        return ranked[:, 0] if ranked.shape[1] else np.full(len(ranked), -1, dtype=np.int64)

    @cached_property
    def nearest_cosines(self) -> NDArray[np.float64]:
        """(Q,) between queries and their first hits, NaN where nothing is ranked."""
        features, cosines = self.retrieval.features, np.empty(len(self.nearest))
        for start in range(0, len(cosines), _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            rows = self.query_rows[part], self.nearest[part]
            queries, hits = (np.asarray(features[one], dtype=np.float64) for one in rows)  # (B, D)
            norms = np.linalg.norm(queries, axis=1) * np.linalg.norm(hits, axis=1)
            cosines[part] = np.einsum("bd,bd->b", queries, hits) / np.maximum(norms, _TINY)
        return np.where(self.nearest < 0, np.nan, cosines)

    @cached_property
    def nearest_matches(self) -> NDArray[np.int64]:
        """(Q,) rows of the nearest matches, -1 without a match."""
        ranked, first = self.retrieval.ranked_rows, self.retrieval.first_match
        is_ranked = (first > 0) & (first <= ranked.shape[1])
        rows = np.full(len(first), -1, dtype=np.int64)
        rows[is_ranked] = ranked[is_ranked, first[is_ranked] - 1]
        for place in np.flatnonzero((first > 0) & ~is_ranked).tolist():
            matches, _ = self.entries(place)
            rows[place] = min(matches[np.argsort(self._compare(place, matches)[1])[:1]], default=-1)
        return rows

    @cached_property
    def identity_means(self) -> NDArray[np.float64]:
        """Mean average precision of each identity's queries, in the order of `identities`, (I,); NaN without any."""
        labels = self.retrieval.labels[self.query_rows]
        return group_means(self.retrieval.average_precision, labels, len(self.retrieval.identities))

    @cached_property
    def distractor_label(self) -> int | None:
        """The label of gallery images that are meant to match no query; None where there are none."""
        names = self.retrieval.identities
        label = names.index(DISTRACTORS) if DISTRACTORS in names else None
        return None if label in self.retrieval.labels[self.query_rows] else label

    @cached_property
    def _labels(self) -> RankingLabels:
        one = self.retrieval
        return RankingLabels.of_split(one.labels, one.removal_keys, one.is_query)

    def place_of(self, row: int) -> int:
        """Place of an image among the queries.

        Raises:
            ConfigError: there is no such row, or it holds a gallery image.
        """
        if not self.retrieval.is_query[self._known(row)]:
            raise ConfigError(f"image {self.retrieval.image_ids[row]!r} is in the gallery and no query")
        return int(np.searchsorted(self.query_rows, row))

    def _known(self, row: int) -> int:
        n_images = len(self.retrieval.is_query)
        if row >= n_images:
            raise ConfigError(f"the split has {n_images} images, there is no row {row}")
        return row

    def entries(self, place: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of a query's matches, and of the gallery images that are removed for it: (n,) and (r,)."""
        matches, removed = self._labels.entries(place)
        return self.gallery_rows[matches], self.gallery_rows[removed]

    def ranked(self, place: int, top: int) -> list[RankedImage]:
        """The first images of a query's ranking, at most `top`, with those that are removed where they would stand."""
        rows = self.retrieval.ranked_rows[place, :top]
        rows = rows[rows >= 0]
        _, removed = self.entries(place)
        found = self._images(place, np.concatenate([rows, removed]), range(1, len(rows) + 1))
        _, gaps = self._compare(place, np.concatenate([rows, removed]))
        reached = np.maximum.accumulate(gaps[: len(rows)])  # in the stored order, which equal distances may blur
        last = reached[-1] if len(rows) == top else math.inf
        keys = [*range(len(rows)), *(np.searchsorted(reached, gaps[len(rows) :], side="left") - 0.5).tolist()]
        order = sorted(range(len(found)), key=lambda index: (keys[index], gaps[index]))
        return [found[index] for index in order if index < len(rows) or gaps[index] <= last]

    def missed(self, place: int, top: int, n: int) -> list[RankedImage]:
        """The nearest matches of a query that are not among the first `top` of its ranking, at most `n`."""
        matches, _ = self.entries(place)
        beyond = matches[~np.isin(matches, self.retrieval.ranked_rows[place, :top])]
        beyond = beyond[np.argsort(self._compare(place, beyond)[1], kind="stable")][:n]
        return self._images(place, beyond, self._ranks(place, beyond))

    def pair(self, place: int, row: int) -> RankedImage:
        """A query and any gallery image.

        Raises:
            ConfigError: there is no such row, or it holds a query.
        """
        if self.retrieval.is_query[self._known(row)]:
            raise ConfigError(f"image {self.retrieval.image_ids[row]!r} is a query and not in the gallery")
        rows = np.array([row])
        ranks = () if row in self.entries(place)[1] else self._ranks(place, rows)
        return self._images(place, rows, ranks)[0]

    def _ranks(self, place: int, rows: NDArray[np.int64]) -> list[int]:
        """Ranks of images (n,), none of them removed, ascending; all distances are made where one is not stored."""
        stored = {int(row): rank for rank, row in enumerate(self.retrieval.ranked_rows[place], 1) if row >= 0}
        if all(int(row) in stored for row in rows):
            return [stored[int(row)] for row in rows]
        _, gaps = self._compare(place, self.gallery_rows)
        gaps[np.isin(self.gallery_rows, self.entries(place)[1])] = np.nan  # neither smaller than nor equal to another
        found = ranks_of(np.searchsorted(self.gallery_rows, rows), gaps).tolist()
        return [stored.get(int(row), max(rank, len(stored) + 1)) for row, rank in zip(rows, found, strict=True)]

    def _images(self, place: int, rows: NDArray[np.int64], ranks: Iterable[int]) -> list[RankedImage]:
        """Gallery images at rows (n,): the first ones with their ranks, the others removed."""
        ranks = list(ranks)
        is_same = self.retrieval.labels[rows] == self.retrieval.labels[self.query_rows[place]]
        cosines, _ = self._compare(place, rows)
        return [
            RankedImage(int(row), rank, float(cosine), rank is not None and bool(same))
            for row, rank, cosine, same in zip(
                rows, [*ranks, *[None] * (len(rows) - len(ranks))], cosines, is_same, strict=True
            )
        ]

    def _compare(self, place: int, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Cosines of a query to images at rows (n,), and what they are ranked by, smallest first: (n,) each."""
        features = self.retrieval.features
        query = np.asarray(features[self.query_rows[place]], dtype=np.float64)  # (D,)
        products, squares = np.empty(len(rows)), np.empty(len(rows))
        for start in range(0, len(rows), _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            block = np.asarray(features[rows[part]], dtype=np.float64)
            products[part], squares[part] = block @ query, np.einsum("nd,nd->n", block, block)
        own = float(query @ query)
        cosines = products / np.maximum(np.sqrt(own * squares), _TINY)
        return cosines, 1 - cosines if self.retrieval.distance == "cosine" else own + squares - 2 * products
