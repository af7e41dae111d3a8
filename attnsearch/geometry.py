"""Where things are: map cell, model input and original image, in one place and by one set of formulas.

An image passes three frames. *Original* pixels, after EXIF rotation. The *resized* image of `resized_hw` pixels, by one
of three rules: `squash` scales both sides on their own; `crop` scales the largest centred part that has the model
input's aspect; `pad` scales the whole image on the smallest canvas of that aspect, whose top left corner is the
image's; what lies beyond the image is padding. The *model input* of `image_hw` pixels, cut out of the middle of the
resized image. A map of h × w cells covers the model input evenly.

All coordinates are continuous with the origin at the top left corner of the top left pixel. Sizes are (H, W), points
are (x, y), boxes are (left, top, right, bottom), an aspect is H / W.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

ResizeRule = Literal["squash", "crop", "pad"]
Size = tuple[int, int]
"""Height and width in pixels."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Resizing:
    """How originals become images of one size.

    Attributes:
        size_hw: height and width of the images in pixels.
        rule: which part of an original they show.
        aspect: height / width of that part; `squash` has no use for it.
    """

    size_hw: Size
    rule: ResizeRule
    aspect: float = 1.0


def resized_hw(image_hw: Size, crop_ratio: float) -> Size:
    """Height and width in pixels of the resized image out of which the model input is cut."""
    return int(image_hw[0] / crop_ratio), int(image_hw[1] / crop_ratio)


def centre_offset_px(resized: int, image: int) -> int:
    """Where the centre crop begins along one axis, in resized pixels, rounded as torchvision's `CenterCrop` does."""
    return round((resized - image) / 2)


def source_box(size_hw: ArrayLike, resize: ResizeRule, *, aspect: float = 1.0) -> Floats:
    """The part of the original image that the resized image shows.

    Args:
        size_hw: (..., 2) original height and width in pixels.
        aspect: height / width of that part; `squash` has no use for it.

    Returns:
        (..., 4) box in original pixels: the whole image for `squash`, its largest centred part of that aspect for
        `crop`, and for `pad` the smallest part of that aspect that holds it, which reaches beyond the image to the
        right or below.
    """
    size = np.asarray(size_hw, dtype=np.float64)
    if size.shape[-1] != 2 or not np.all(size > 0):
        raise ValueError(f"size_hw must hold positive heights and widths (..., 2), got {size_hw!r}")
    of_other_side = size[..., ::-1] * (aspect, 1 / aspect)  # the height that belongs to the width, and the reverse
    if resize == "pad":
        return np.concatenate([np.zeros_like(size), np.maximum(size, of_other_side)[..., ::-1]], axis=-1)
    side_hw = np.minimum(size, of_other_side) if resize == "crop" else size
    top_left = (size - side_hw) / 2
    return np.concatenate([top_left[..., ::-1], (top_left + side_hw)[..., ::-1]], axis=-1)


def padded_hw(size_hw: ArrayLike, canvas_hw: Size, *, aspect: float | None = None) -> NDArray[np.int64]:
    """Height and width, in pixels, of the image within a canvas under `pad`: (..., 2), at least 1.

    Args:
        size_hw: (..., 2) original height and width in pixels.
        aspect: as of `source_box`; None means that of the canvas.
    """
    size = np.asarray(size_hw, dtype=np.float64)
    aspect = canvas_hw[0] / canvas_hw[1] if aspect is None else aspect
    extent_hw = source_box(size, "pad", aspect=aspect)[..., :1:-1]  # its right and bottom edge, reversed
    whole: NDArray[np.int64] = np.rint(size / extent_hw * canvas_hw).astype(np.int64)
    return np.maximum(1, whole)


def crop_box(size_hw: ArrayLike, *, image_hw: Size, crop_ratio: float, resize: ResizeRule) -> Floats:
    """The part of the original image that the model sees in evaluation.

    Args:
        size_hw: (..., 2) original height and width in pixels, after EXIF rotation.
        image_hw: height and width of the model input in pixels.

    Returns:
        (..., 4) box in original pixels.
    """
    resized = resized_hw(image_hw, crop_ratio)
    resized_wh, image_wh = np.array(resized[::-1]), np.array(image_hw[::-1])
    offset_wh = np.array([centre_offset_px(*axis) for axis in zip(resized, image_hw, strict=True)][::-1])
    source = source_box(size_hw, resize, aspect=image_hw[0] / image_hw[1])
    extent = source[..., 2:] - source[..., :2]
    start = source[..., :2] + extent * (offset_wh / resized_wh)
    stop = source[..., :2] + extent * ((offset_wh + image_wh) / resized_wh)
    return np.concatenate([start, stop], axis=-1)


def cell_box(crop: ArrayLike, *, map_hw: tuple[int, int], row: ArrayLike, column: ArrayLike) -> Floats:
    """The part of the original image under one map cell.

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


def original_to_input(points: ArrayLike, crop: ArrayLike, *, image_hw: Size) -> Floats:
    """Points (..., 2) in original pixels -> points in model input pixels; outside (0, 0) to (W, H) is not seen."""
    box = np.asarray(crop, dtype=np.float64)
    fraction: Floats = (np.asarray(points, dtype=np.float64) - box[..., :2]) / (box[..., 2:] - box[..., :2])
    return fraction * image_hw[::-1]
