"""Images that show nearly the same, found by the correlation of their thumbnails."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

THUMBNAIL_PX = 32
MIN_CORRELATION = 0.98
"""Re-compressed, scaled and brightened copies lie above it, and few other pairs; crops and mirror images lie below."""
_CELL_PX = 4
_BLOCK = 512
_CHUNK = 64
_ROUNDING = 1e-4
Thumbnails = NDArray[np.uint8]


def thumbnail(pixels: NDArray[np.uint8]) -> Thumbnails:
    """(32 * 32 * 3,) of an image (H, W, 3): the mean colour of each part of it."""
    image = Image.fromarray(pixels).resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
    return np.asarray(image, dtype=np.uint8).reshape(-1)


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
