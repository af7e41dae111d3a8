"""Images that show nearly the same, found by the correlation of their thumbnails."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attnsearch.data.built_folders import build_once, digest_of_files
from attnsearch.data.images import decode_resized
from attnsearch.data.listing import ListedImage
from attnsearch.errors import DataError
from attnsearch.geometry import Resizing
from attnsearch.progress import with_bar

logger = logging.getLogger(__name__)

THUMBNAIL_PX = 32
MIN_CORRELATION = 0.98
"""Re-compressed, scaled and brightened copies lie above it, and few other pairs; crops and mirror images lie below."""
LOOK_CORRELATION = 0.95
"""Pairs between the two are worth a look: some are one scene or one object, most are not one photograph."""
_CELL_PX = 4
_BLOCK = 512
_TILE = 4096
_CHUNK = 64
_ROUNDING = 1e-4
_PAIRS = "pairs.npy"
_VERSION = 1
"""Raised when the same files would give other pairs."""
Thumbnails = NDArray[np.uint8]


def thumbnail(image: Path | Image.Image) -> Thumbnails:
    """(32 * 32 * 3,) of an image, whatever its aspect.

    Raises:
        DataError: as `decode_resized`.
    """
    return decode_resized(image, Resizing((THUMBNAIL_PX, THUMBNAIL_PX), "squash"))[0].reshape(-1)


def correlations(first: Thumbnails, second: Thumbnails) -> NDArray[np.float32]:
    """(N, M) of thumbnails (N, D) and (M, D); 0 where an image has one colour everywhere."""
    return _normalised(first) @ _normalised(second).T


def near_duplicates(images: Thumbnails, others: Thumbnails) -> Iterator[tuple[int, int, float]]:
    """The rows of images (N, D) that nearly equal one of the others (M, D), that one, and the correlation.

    A correlation is at most that of the coarser thumbnails, completed by the length of what they leave out to length 1
    (Cauchy-Schwarz): few pairs are compared in full, and no pair above the limit is missed. Of several others, the one
    that is found first counts.
    """
    if not len(others):
        return
    blocks = [_bounds(_normalised(others[start : start + _BLOCK])) for start in range(0, len(others), _BLOCK)]
    bounds = np.concatenate(blocks)
    for start in range(0, len(images), _BLOCK):
        block = _normalised(images[start : start + _BLOCK])
        at_most = _bounds(block) @ bounds.T
        for row in np.flatnonzero((at_most > MIN_CORRELATION - _ROUNDING).any(axis=1)):
            found = _first_near(block[row], at_most[row], others)
            if found is not None:
                yield start + int(row), *found


def near_pairs(images: Thumbnails, *, above: float = MIN_CORRELATION) -> Iterator[tuple[int, int, float]]:
    """All rows i < j of images (N, D) that correlate by more than a limit, and their correlation; bounded as above.

    Products are made of 512 x 4096 images at a time, whatever N is.
    """
    blocks = [_bounds(_normalised(images[start : start + _BLOCK])) for start in range(0, len(images), _BLOCK)]
    bounds = np.concatenate(blocks) if blocks else np.zeros((0, 1), dtype=np.float32)
    for start in range(0, len(images), _BLOCK):
        for other in range(start, len(images), _TILE):
            at_most = bounds[start : start + _BLOCK] @ bounds[other : other + _TILE].T
            is_candidate = np.triu(at_most > above - _ROUNDING, k=1 + start - other)
            rows, columns = (start + np.flatnonzero(is_candidate.any(axis=1)), np.flatnonzero(is_candidate.any(axis=0)))
            yield from _pairs_of(images, rows, other + columns, above)


def _pairs_of(
    images: Thumbnails, rows: NDArray[np.int64], columns: NDArray[np.int64], above: float
) -> Iterator[tuple[int, int, float]]:
    """Those of some rows (n,) and columns (m,), both ascending, whose images correlate by more than a limit."""
    for first in range(0, len(columns), _BLOCK):
        some = columns[first : first + _BLOCK]
        values = correlations(images[rows], images[some])
        for row, column in np.argwhere((values > above) & (rows[:, None] < some)).tolist():
            yield int(rows[row]), int(some[column]), float(values[row, column])


def groups_of(n_images: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) a number for each image, equal for those that a chain of pairs (P, 2) connects."""
    from scipy.sparse import coo_array  # what only reads tables has no images to group
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(pairs), dtype=bool)
    graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(n_images, n_images))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def near_groups(root: Path, images: Sequence[ListedImage]) -> dict[str, int]:
    """Image id -> a number that is equal for images that show nearly the same; they are decoded the first time.

    An image that cannot be read equals no other: `open_cache` and `data check` name it.

    Raises:
        StoreError: the cache cannot be written.
    """
    files = sorted((image.image_id, image.path) for image in images)
    key, _ = digest_of_files(f"{_VERSION}\n{root}\n{MIN_CORRELATION}\n", files)

    def build(folder: Path) -> dict[str, str | int | float]:
        pairs = [(first, second) for first, second, _ in near_pairs(_thumbnails([path for _, path in files]))]
        np.save(folder / _PAIRS, np.array(pairs, dtype=np.int64).reshape(-1, 2))
        if pairs:
            logger.info("%d pairs of images of %s show nearly the same", len(pairs), root)
        return {"root": str(root), "n_images": len(files), "n_pairs": len(pairs)}

    folder = build_once("near_duplicates", key[:32], build, is_whole=lambda folder: _read(folder) is not None)
    pairs = _read(folder)
    assert pairs is not None  # build_once has just tried it
    groups = groups_of(len(files), pairs).tolist()
    return {image_id: group for (image_id, _), group in zip(files, groups, strict=True)}


def _read(folder: Path) -> NDArray[np.int64] | None:
    """(P, 2) pairs, or None where they are damaged."""
    try:
        return np.asarray(np.load(folder / _PAIRS), dtype=np.int64)
    except (OSError, ValueError, EOFError):
        return None


def _thumbnails(paths: Sequence[Path]) -> Thumbnails:
    """(N, D) of files; zeros, which nearly equal nothing, of those that cannot be read."""

    def read(path: Path) -> Thumbnails:
        try:
            return thumbnail(path)
        except DataError:
            return np.zeros(THUMBNAIL_PX * THUMBNAIL_PX * 3, dtype=np.uint8)

    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="attnsearch-thumbnails") as pool:
        rows = list(with_bar(pool.map(read, paths), "Comparing images", n_steps=len(paths), force=False))
    return np.stack(rows) if rows else np.zeros((0, THUMBNAIL_PX * THUMBNAIL_PX * 3), dtype=np.uint8)


def _first_near(
    image: NDArray[np.float32], at_most: NDArray[np.float32], others: Thumbnails
) -> tuple[int, float] | None:
    """One of the others (M, D) that nearly equals an image (D,), those of the highest bounds (M,) first."""
    candidates = np.flatnonzero(at_most > MIN_CORRELATION - _ROUNDING)
    candidates = candidates[np.argsort(-at_most[candidates], kind="stable")]
    for start in range(0, len(candidates), _CHUNK):
        chunk = candidates[start : start + _CHUNK]
        values = _normalised(others[chunk]) @ image
        best = int(values.argmax())
        if values[best] > MIN_CORRELATION:
            return int(chunk[best]), float(values[best])
    return None


def _normalised(thumbnails: Thumbnails) -> NDArray[np.float32]:
    """(N, D) with mean 0 and length 1 per row; zeros where an image has one colour everywhere."""
    values = thumbnails.astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    lengths[lengths < 1e-3] = np.inf
    return np.asarray(values / lengths, dtype=np.float32)


def _bounds(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 8 * 8 * 3 + 1) of rows of length 1 or 0 (N, D), so that the product of two is at least that of their rows.

    They are the means of cells of 4 x 4, scaled to be a projection, and the length of what that leaves out.
    """
    n_cells = THUMBNAIL_PX // _CELL_PX
    cells = values.reshape(len(values), n_cells, _CELL_PX, n_cells, _CELL_PX, 3)
    projected = cells.mean(axis=(2, 4)).reshape(len(values), -1) * _CELL_PX
    rest = np.square(values).sum(axis=1, keepdims=True) - np.square(projected).sum(axis=1, keepdims=True)
    return np.concatenate([projected, np.sqrt(np.maximum(rest, 0))], axis=1)
