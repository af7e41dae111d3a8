"""Which queries of a retrieval a page shows: filters and order, from the query of a URL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnsearch.errors import ConfigError
from attnsearch.explorer.image_query import choice_of, ordered, whole_number
from attnsearch.figures.rankings import Rankings

VERDICTS = ("all", "wrong", "right", "unmatched")
CAMERAS_OF = ("hit", "missed")


@dataclass(frozen=True)
class QueryFilter:
    """Which queries a page shows, and in which order.

    Attributes:
        verdict: one of `VERDICTS`: whether the first hit is a match; "unmatched" have no match at all.
        n_hard: the identities of lowest mean average precision, so many; 0 for all.
        identity: its name, "" for any.
        query_camera, gallery_camera: positions in `camera_names`, None for any.
        camera_of: one of `CAMERAS_OF`: the gallery camera is that of the first hit, or of the nearest match where the
            first hit is wrong.
        order: one of `ORDERS`.
        page: from 1.
    """

    verdict: str = "all"
    n_hard: int = 0
    identity: str = ""
    query_camera: int | None = None
    gallery_camera: int | None = None
    camera_of: str = "hit"
    order: str = "ap"
    is_descending: bool = False
    page: int = 1


def parse_filter(arguments: Mapping[str, str]) -> QueryFilter:
    """Reads the query of a URL.

    Raises:
        ConfigError: a value that cannot be read.
    """
    return QueryFilter(
        verdict=choice_of(arguments, "verdict", VERDICTS),
        n_hard=whole_number(arguments, "hard") or 0,
        identity=arguments.get("identity", ""),
        query_camera=whole_number(arguments, "query_camera"),
        gallery_camera=whole_number(arguments, "gallery_camera"),
        camera_of=choice_of(arguments, "camera_of", CAMERAS_OF),
        order=choice_of(arguments, "order", ORDERS),
        is_descending=arguments.get("down", "") == "1",
        page=max(1, whole_number(arguments, "page") or 1),
    )


def matching_places(rankings: Rankings, wanted: QueryFilter) -> list[int]:
    """Places among the queries of all that fit, in order; undefined values stand last in both directions."""
    retrieval, rows = rankings.retrieval, rankings.query_rows
    labels, first = retrieval.labels[rows], retrieval.first_match
    verdicts = {"all": first >= 0, "wrong": first > 1, "right": first == 1, "unmatched": first == 0}
    fits = verdicts[wanted.verdict] & _fits_cameras(rankings, wanted)
    if wanted.n_hard:
        fits &= np.isin(labels, hardest_identities(rankings, wanted.n_hard))
    if wanted.identity:
        names = np.array(retrieval.identities)
        fits &= names[labels] == wanted.identity
    key = _ORDERS[wanted.order](rankings)
    return ordered(np.flatnonzero(fits).tolist(), key, is_descending=wanted.is_descending)


def hardest_identities(rankings: Rankings, n: int) -> NDArray[np.int64]:
    """Labels of the identities of lowest mean average precision, hardest first: (<= n,)."""
    means = rankings.identity_means
    return np.argsort(means, kind="stable")[: min(n, int(np.isfinite(means).sum()))]


def _fits_cameras(rankings: Rankings, wanted: QueryFilter) -> NDArray[np.bool_]:
    """(Q,) whether the cameras are those that are wanted.

    Raises:
        ConfigError: cameras are asked for and not known, or those of gallery images whose ranks were removed.
    """
    retrieval, cameras = rankings.retrieval, rankings.retrieval.cameras
    of_missed = wanted.camera_of == "missed"
    fits = retrieval.first_match > 1 if of_missed else np.ones(len(retrieval.first_match), dtype=bool)
    if wanted.query_camera is None and wanted.gallery_camera is None:
        return fits
    if cameras is None:
        raise ConfigError("the cameras of these images are not known, so that they cannot be filtered by camera")
    if wanted.gallery_camera is not None and not retrieval.has_ranks:
        raise ConfigError("the ranks of the gallery were removed, so that queries cannot be filtered by its camera")
    if wanted.query_camera is not None:
        fits &= cameras[rankings.query_rows] == wanted.query_camera
    if wanted.gallery_camera is not None:
        found = rankings.nearest_matches if of_missed else rankings.nearest
        fits &= (found >= 0) & (cameras[found] == wanted.gallery_camera)
    return fits


def _values(column: NDArray[np.float64]) -> Callable[[int], float]:
    """The values (Q,) by place."""
    values: list[float] = column.tolist()
    return values.__getitem__


def _ranks_or_nan(rankings: Rankings) -> Callable[[int], float]:
    first = rankings.retrieval.first_match
    return _values(np.where(first > 0, first, np.nan))


def _names(rankings: Rankings) -> Callable[[int], str]:
    retrieval, rows = rankings.retrieval, rankings.query_rows
    return lambda place: retrieval.identities[retrieval.labels[rows[place]]]


def _camera_names(rankings: Rankings) -> Callable[[int], str]:
    retrieval, rows, cameras = rankings.retrieval, rankings.query_rows, rankings.retrieval.cameras
    return lambda place: "" if cameras is None else retrieval.camera_names[cameras[rows[place]]]


def _identity_means(rankings: Rankings) -> Callable[[int], float]:
    return _values(rankings.identity_means[rankings.retrieval.labels[rankings.query_rows]])


_ORDERS: Mapping[str, Callable[[Rankings], Callable[[int], float | str]]] = {
    "ap": lambda rankings: _values(rankings.retrieval.average_precision),
    "first_match": _ranks_or_nan,
    "cosine": lambda rankings: _values(rankings.nearest_cosines),
    "identity": _names,
    "identity_ap": _identity_means,
    "camera": _camera_names,
    "image": lambda rankings: lambda place: rankings.retrieval.image_ids[rankings.query_rows[place]],
    "row": lambda rankings: lambda place: place,
}
ORDERS = tuple(_ORDERS)
