"""Where things are: map cell, model input and original picture, in one place and by one set of formulas.

A picture passes three frames. *Original* pixels, after EXIF rotation. The *resized* square of `resized_px` pixels, by
one of three rules: `squash` scales both sides on their own, `crop` scales the centre square of the shorter side, and
`pad` scales the square of the longer side whose top left corner is the picture's; beyond the picture is padding. The
*model input*, a square of `image_size_px` pixels cut out of the middle of the resized one. A map of h × w cells covers
the model input evenly.

All coordinates are continuous with the origin at the top left corner of the top left pixel. Sizes are (H, W), points
are (x, y), boxes are (left, top, right, bottom).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

ResizeRule = Literal["squash", "crop", "pad"]
Floats = NDArray[np.float64]


def resized_px(image_size_px: int, crop_ratio: float) -> int:
    """The side of the resized square, in pixels, out of which the model input is cut."""
    return int(image_size_px / crop_ratio)


def centre_offset_px(resized: int, image_size_px: int) -> int:
    """Left (and top) edge of the centre crop in resized pixels, rounded as torchvision's `CenterCrop` does."""
    return round((resized - image_size_px) / 2)


def source_box(size_hw: ArrayLike, resize: ResizeRule) -> Floats:
    """The part of the original picture that the resized square shows.

    Args:
        size_hw: (..., 2) original height and width in pixels.

    Returns:
        (..., 4) box in original pixels: the whole picture for `squash`, its centre square for `crop`, and for `pad` the
        square of the longer side, which reaches beyond the picture to the right or below.
    """
    size = np.asarray(size_hw, dtype=np.float64)
    if size.shape[-1] != 2 or not np.all(size > 0):
        raise ValueError(f"size_hw must hold positive heights and widths (..., 2), got {size_hw!r}")
    if resize == "pad":
        side = size.max(axis=-1, keepdims=True)
        return np.concatenate([np.zeros_like(size), side, side], axis=-1)
    side_hw = np.minimum(size, size.min(axis=-1, keepdims=True)) if resize == "crop" else size
    top_left = (size - side_hw) / 2
    return np.concatenate([top_left[..., ::-1], (top_left + side_hw)[..., ::-1]], axis=-1)


def padded_hw(size_hw: ArrayLike, side_px: int) -> NDArray[np.int64]:
    """Height and width, in pixels, of the picture within a square of `side_px` under `pad`: (..., 2), at least 1."""
    size = np.asarray(size_hw, dtype=np.float64)
    whole: NDArray[np.int64] = np.rint(size / size.max(axis=-1, keepdims=True) * side_px).astype(np.int64)
    return np.maximum(1, whole)


def crop_box(size_hw: ArrayLike, *, image_size_px: int, crop_ratio: float, resize: ResizeRule) -> Floats:
    """The part of the original picture that the model sees in evaluation.

    Args:
        size_hw: (..., 2) original height and width in pixels, after EXIF rotation.

    Returns:
        (..., 4) box in original pixels.
    """
    resized = resized_px(image_size_px, crop_ratio)
    offset = centre_offset_px(resized, image_size_px)
    source = source_box(size_hw, resize)
    extent = source[..., 2:] - source[..., :2]
    start = source[..., :2] + extent * (offset / resized)
    stop = source[..., :2] + extent * ((offset + image_size_px) / resized)
    return np.concatenate([start, stop], axis=-1)


def cell_box(crop: ArrayLike, *, map_hw: tuple[int, int], row: ArrayLike, column: ArrayLike) -> Floats:
    """The part of the original picture under one map cell.

    Args:
        crop: (..., 4) what the model sees, from `crop_box`.
        map_hw: h and w of the map.
        row, column: cell indices, from the top left; they broadcast with `crop`.

    Returns:
        (..., 4) box in original pixels.

    Raises:
        ValueError: a cell outside the map.
    """
    cell = np.stack(np.broadcast_arrays(np.asarray(column), np.asarray(row)), axis=-1)
    grid_wh = np.array(map_hw[::-1])
    if np.any(cell < 0) or np.any(cell >= grid_wh):
        raise ValueError(f"cell (row {row!r}, column {column!r}) lies outside a map of {map_hw[0]} x {map_hw[1]} cells")
    box = np.asarray(crop, dtype=np.float64)
    step = (box[..., 2:] - box[..., :2]) / grid_wh
    start = box[..., :2] + cell * step
    return np.concatenate([start, start + step], axis=-1)


def original_to_input(points: ArrayLike, crop: ArrayLike, *, image_size_px: int) -> Floats:
    """Points (..., 2) in original pixels -> points in model input pixels; outside [0, image_size_px] is not seen."""
    box = np.asarray(crop, dtype=np.float64)
    share: Floats = (np.asarray(points, dtype=np.float64) - box[..., :2]) / (box[..., 2:] - box[..., :2])
    return share * image_size_px


def input_to_original(points: ArrayLike, crop: ArrayLike, *, image_size_px: int) -> Floats:
    """Points (..., 2) in model input pixels -> points in original pixels; the inverse of `original_to_input`."""
    box = np.asarray(crop, dtype=np.float64)
    share: Floats = np.asarray(points, dtype=np.float64) / image_size_px
    return box[..., :2] + share * (box[..., 2:] - box[..., :2])


def original_to_cell(points: ArrayLike, crop: ArrayLike, *, map_hw: tuple[int, int]) -> NDArray[np.int64]:
    """The map cell under each point.

    Args:
        points: (..., 2) in original pixels; NaN means that there is no point.

    Returns:
        (..., 2) int64 row and column; (-1, -1) where the model does not see the point.
    """
    grid_wh = np.array(map_hw[::-1])
    cell = np.floor(original_to_input(points, crop, image_size_px=1) * grid_wh)
    is_seen = np.all((cell >= 0) & (cell < grid_wh), axis=-1, keepdims=True)
    return np.where(is_seen, cell, -1).astype(np.int64)[..., ::-1]
