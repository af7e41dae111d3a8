"""The features and ranked galleries of a split on disk: two `.npy` files, and a CSV with a row per image."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnsearch.errors import StoreError
from attnsearch.files import Check, atomic_write, atomic_write_array, csv_text
from attnsearch.store.inspection import Content, content_errors, open_array
from attnsearch.store.trial_layout import ArchivePaths
from attnsearch.types import AttentionArchive, Distance, MatchRule, Retrieval

COLUMNS = (
    *("row", "image_id", "identity", "camera", "removal_key", "is_query"),
    *("average_precision", "inverse_negative_penalty", "first_match"),
)
_FIX = "evaluate the trial again"


class RetrievalAbout(Content):
    """What the archive's JSON holds of its retrieval."""

    identities: tuple[str, ...]
    camera_names: tuple[str, ...]
    match_rule: MatchRule
    distance: Distance


def about_retrieval(retrieval: Retrieval) -> dict[str, Any]:
    """The part of a retrieval that goes into the archive's JSON."""
    return {name: getattr(retrieval, name) for name in RetrievalAbout.model_fields}


def write_retrieval(paths: ArchivePaths, retrieval: Retrieval, *, check: Check | None = None) -> None:
    """Writes features, ranks and the CSV, each whole or not at all.

    Raises:
        StoreError: the disk refuses.
    """
    arrays: dict[Path, NDArray[Any]] = {
        paths.features: retrieval.features.astype("<f4", copy=False),
        paths.ranks: retrieval.ranked_rows.astype("<i4"),
    }
    for path, array in arrays.items():
        atomic_write_array(path, array, check=check)
    text = ",".join(COLUMNS) + "\n" + csv_text(_rows(retrieval))
    atomic_write(paths.retrieval, text, check=check)


def _rows(retrieval: Retrieval) -> Iterator[list[object]]:
    """The cells of each image; what is measured of queries alone is empty for gallery images."""
    query_of = np.cumsum(retrieval.is_query) - 1  # (N,) place of a query among the queries
    cameras = retrieval.cameras
    for row, image_id in enumerate(retrieval.image_ids):
        camera = "" if cameras is None else retrieval.camera_names[cameras[row]]
        measured: list[object] = ["", "", ""]
        if retrieval.is_query[row]:
            place = query_of[row]
            precision, penalty = retrieval.average_precision[place], retrieval.inverse_negative_penalty[place]
            measured = ["" if np.isnan(value) else str(value) for value in (precision, penalty)]
            measured.append(int(retrieval.first_match[place]))
        identity = retrieval.identities[retrieval.labels[row]]
        key = int(retrieval.removal_keys[row])
        yield [row, image_id, identity, camera, key, int(retrieval.is_query[row]), *measured]


def has_retrieval(paths: ArchivePaths | None) -> bool:
    """Whether there are ranked galleries, of which retention may have removed the features."""
    return paths is not None and paths.retrieval.is_file()


def has_ranks(paths: ArchivePaths) -> bool:
    """Whether features and ranks are both there; retention removes the two."""
    return paths.features.is_file() and paths.ranks.is_file()


def read_retrieval(paths: ArchivePaths, about: RetrievalAbout, *, index_only: bool = False) -> Retrieval:
    """The retrieval of an archive; its features are mapped read-only and cost no memory until they are used.

    Args:
        index_only: with no feature and no rank of any image, so that it works after retention removed them.
    Raises:
        StoreError: files are missing, cut off or do not fit each other.
    """
    for path in (paths.retrieval,) if index_only else (paths.retrieval, paths.features, paths.ranks):
        if not path.exists():
            raise StoreError(f"{path} does not exist: retention removed it, {_FIX}")
    with content_errors(paths.retrieval, _FIX), paths.retrieval.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
        if not rows or tuple(rows[0]) != COLUMNS:
            raise ValueError(f"its columns must be {','.join(COLUMNS)}")
        columns = dict(zip(COLUMNS, zip(*rows[1:], strict=True), strict=True))
        retrieval = _from_columns(columns, about)
    if index_only:
        return retrieval
    features, ranks = open_array(paths.features, _FIX), open_array(paths.ranks, _FIX)
    whole = replace(retrieval, features=features, ranked_rows=np.array(ranks, dtype=np.int64))
    _require_fit(paths, whole)
    return whole


def _from_columns(columns: Mapping[str, Sequence[str]], about: RetrievalAbout) -> Retrieval:
    """A retrieval of N images out of the columns of its CSV, with features (N, 0) and ranks (Q, 0)."""
    is_query = np.array(columns["is_query"], dtype=np.int64).astype(bool)
    queries = np.flatnonzero(is_query)

    def of_queries(name: str, dtype: Any) -> NDArray[Any]:
        return np.array([columns[name][row] or "nan" for row in queries.tolist()], dtype=dtype)

    has_cameras = all(columns["camera"])
    return Retrieval(
        image_ids=tuple(columns["image_id"]),
        identities=about.identities,
        camera_names=about.camera_names,
        match_rule=about.match_rule,
        distance=about.distance,
        labels=_places(columns["identity"], about.identities),
        cameras=_places(columns["camera"], about.camera_names) if has_cameras else None,
        removal_keys=np.array(columns["removal_key"], dtype=np.int64),
        is_query=is_query,
        features=np.zeros((len(is_query), 0), dtype=np.float32),
        ranked_rows=np.zeros((len(queries), 0), dtype=np.int64),
        average_precision=of_queries("average_precision", np.float64),
        inverse_negative_penalty=of_queries("inverse_negative_penalty", np.float64),
        first_match=of_queries("first_match", np.int64),
    )


def _places(names: Sequence[str], known: Sequence[str]) -> NDArray[np.int64]:
    """(N,) where each name stands among the known ones."""
    place_of = {name: place for place, name in enumerate(known)}
    return np.array([place_of[name] for name in names], dtype=np.int64)


def _require_fit(paths: ArchivePaths, retrieval: Retrieval) -> None:
    """Refuses arrays of another number of images or queries than the CSV has, and ranks beyond its rows."""
    n_images, n_queries = len(retrieval.image_ids), int(retrieval.is_query.sum())
    features, ranks = retrieval.features, retrieval.ranked_rows
    if features.ndim != 2 or len(features) != n_images or features.dtype != np.float32:
        raise StoreError(
            f"{paths.features} must hold float32 features of {n_images} images, got {features.dtype} "
            f"{list(features.shape)}, {_FIX}"
        )
    if ranks.ndim != 2 or len(ranks) != n_queries or ranks.min(initial=-1) < -1 or ranks.max(initial=-1) >= n_images:
        raise StoreError(f"{paths.ranks} must hold rows of {n_images} images for {n_queries} queries, {_FIX}")


def n_explained(archived: AttentionArchive) -> int:
    """How many archived images have maps that can be scored: all, or the queries that have a match."""
    retrieval = archived.retrieval
    if retrieval is None:
        return len(archived.image_ids)
    has_match = np.zeros(len(retrieval.image_ids), dtype=bool)
    has_match[retrieval.is_query] = retrieval.first_match > 0
    return int(has_match[_places(archived.image_ids, retrieval.image_ids)].sum())


def answered(part: AttentionArchive, retrieval: Retrieval) -> AttentionArchive:
    """A part of an archive whose predictions are those of the retrieval, see `AttentionArchive.retrieval`."""
    rows = _places(part.image_ids, retrieval.image_ids)
    query_of = np.cumsum(retrieval.is_query) - 1  # (N,)
    predictions, confidences = retrieval.labels[rows].copy(), np.full(len(rows), np.nan, dtype=np.float32)
    for place, row in enumerate(rows):
        if not retrieval.is_query[row]:
            continue
        nearest = retrieval.ranked_rows[query_of[row], 0]
        if nearest >= 0:
            own, other = retrieval.features[row], retrieval.features[nearest]
            predictions[place] = retrieval.labels[nearest]
            confidences[place] = own @ other / (np.linalg.norm(own) * np.linalg.norm(other))
    return replace(part, predictions=predictions, confidences=confidences)
