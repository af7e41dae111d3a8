"""Maps as pixels: put on the place of the original image that they belong to, scaled, coloured and laid over it.

Boxes and points are those of `attnsearch.geometry`: continuous, origin at the top left corner of the top left pixel.
All images are RGB. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Literal, get_args

import matplotlib
import numpy as np
from contourpy import contour_generator
from numpy.typing import ArrayLike, NDArray

from attnsearch.errors import UsageError

Line = NDArray[np.float64]
Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Rule = Literal["cubic", "linear", "cells"]
RULES: tuple[Rule, ...] = get_args(Rule)

PERCENTILE = 95.0
COLOUR = "#00ff00"
"""Of outlines, as in the figures of The Loupe."""
PART_COLOURS = ("#ff0000", "#00ff00", "#0000ff")
"""First, second and third map, as in the figures of BR-NPA."""
COLOURS = "inferno"
STRONGEST = 0.8
"""Opacity of the most salient pixel; the least salient one is clear."""
UNSEEN = 0.4
"""Brightness of what lies outside the model's view."""
DIMMED = 0.35
"""Brightness of the grey image under parts and patches."""
FADED = 0.4
"""Contrast of an image that does not count."""
_CUBIC = -0.75  # Keys' parameter, as in OpenCV
_ROUNDING = 4e-6
_REACH = {"cubic": 2, "linear": 1, "cells": 1}
_GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def place(maps: ArrayLike, box: ArrayLike, size_hw: tuple[int, int], rule: Rule = "cubic") -> Floats:
    """Maps on the pixels of the whole image.

    Args:
        maps: (..., h, w), spread evenly over the box.
        box: left, top, right, bottom of what the model saw, in pixels of this image.
        size_hw: H and W of the image.
        rule: `cubic` (a = -0.75) or `linear` between the centres of cells, the border repeated; `cells` without
            smoothing.
    Returns:
        (..., H, W) float32, sampled at the centres of pixels; NaN where the model saw nothing.
    """
    values = np.asarray(maps, dtype=np.float32)
    left, top, right, bottom = (float(edge) for edge in np.asarray(box, dtype=np.float64))
    rows = _weights(size_hw[0], values.shape[-2], top, bottom, rule)  # (H, h)
    columns = _weights(size_hw[1], values.shape[-1], left, right, rule)  # (W, w)
    placed: Floats = (rows @ values @ columns.T).astype(np.float32, copy=False)
    placed[..., ~seen(box, size_hw)] = np.nan
    return placed


def seen(box: ArrayLike, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W) the pixels whose centre lies in the box."""
    left, top, right, bottom = (float(edge) for edge in np.asarray(box, dtype=np.float64))
    y, x = (np.arange(n) + 0.5 for n in size_hw)
    inside: NDArray[np.bool_] = ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))
    return inside


@cache
def _weights(n_pixels: int, n_cells: int, start: float, stop: float, rule: Rule) -> Floats:
    """(n_pixels, n_cells) what each cell adds to each pixel along one axis."""
    at = (np.arange(n_pixels) + 0.5 - start) / (stop - start) * n_cells  # in cells
    weights = np.zeros((n_pixels, n_cells))
    pixels = np.arange(n_pixels)
    if rule == "cells":
        weights[pixels, np.floor(at).clip(0, n_cells - 1).astype(int)] = 1
        return weights.astype(np.float32)
    first = np.floor(at - 0.5)
    for tap in range(1 - _REACH[rule], 1 + _REACH[rule]):
        distance = np.abs(at - 0.5 - first - tap)
        weight = _cubic(distance) if rule == "cubic" else (1 - distance).clip(0)
        np.add.at(weights, (pixels, (first + tap).clip(0, n_cells - 1).astype(int)), weight)
    return weights.astype(np.float32)


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    near = (_CUBIC + 2) * distance**3 - (_CUBIC + 3) * distance**2 + 1
    far = _CUBIC * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def limits(values: ArrayLike) -> tuple[float, float]:
    """The smallest and the largest finite value; (0, 0) where there is none."""
    array = np.asarray(values)
    finite = array[np.isfinite(array)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def from_zero(maps: Iterable[ArrayLike], placed: Iterable[ArrayLike]) -> tuple[float, float]:
    """The scale of maps that are shown together: from 0 to the largest drawn value, so that a flat map looks flat.

    Args:
        maps: the cells; where one is negative, the scale starts at the smallest drawn value.
        placed: the same maps as they are drawn; between cells a cubic rule leaves the range of the cells.
    """
    lows, highs = zip(*map(limits, placed), strict=True)
    is_signed = any(limits(cells)[0] < 0 for cells in maps)
    return min(lows) if is_signed else 0.0, max(highs)


def is_constant(low: float, high: float) -> bool:
    """Whether two bounds differ by no more than what rounding leaves of a constant map."""
    return not high - low > _ROUNDING * max(abs(low), abs(high))


def levels(values: Floats, bounds: tuple[float, float]) -> Pixels:
    """Values as 0 to 255, truncated; 0 where undefined, and everywhere where the bounds are equal but for rounding.

    Args:
        bounds: what becomes 0 and 255. Panels of equal bounds can be compared.
    Source: the published drawing of INTR scales to [0, 1], multiplies by 255 and truncates.
    """
    low, high = bounds
    if is_constant(low, high):
        return np.zeros(values.shape, dtype=np.uint8)
    scaled = (np.nan_to_num(values, nan=low) - np.float32(low)) / (np.float32(high) - np.float32(low))
    return (scaled.clip(0, 1) * np.float32(255)).astype(np.uint8)


@cache
def palette(name: str) -> Pixels:
    """(256, 3) the colours of a matplotlib colour map.

    Raises:
        UsageError: no such colour map.
    """
    if name not in matplotlib.colormaps:
        raise UsageError(f"colours must be a colour map of matplotlib such as inferno, plasma or jet, got {name!r}")
    return (matplotlib.colormaps[name](np.arange(256) / 255)[:, :3] * 255).round().astype(np.uint8)


def lay_over(image: Pixels, level: Pixels, is_seen: NDArray[np.bool_], *, colours: str = COLOURS) -> Pixels:
    """The image under one map; the stronger the map, the less of the image shows, and what was unseen is dark.

    Args:
        image: (H, W, 3).
        level: (H, W), from `levels`.
    """
    table = palette(colours).astype(np.float32)[level]
    opacity = np.float32(STRONGEST / 255) * level[..., None]
    shade = np.where(is_seen, np.float32(1), np.float32(UNSEEN))[..., None]
    mixed: Floats = image * shade * (1 - opacity) + table * opacity
    return (mixed + 0.5).astype(np.uint8)


def lay_parts(image: Pixels, level: Pixels) -> Pixels:
    """The maps of up to three parts as red, green and blue light over a dark grey image.

    Args:
        level: (K, H, W), K of 1 to 3; scale them together, so that a weak part stays weak.
    Raises:
        UsageError: more than three maps.
    """
    if not 1 <= len(level) <= len(PART_COLOURS):
        raise UsageError(f"parts are drawn from 1 to {len(PART_COLOURS)} maps, got {len(level)}")
    light = np.zeros((*level.shape[1:], 3), dtype=np.float32)
    light[..., : len(level)] = np.moveaxis(level, 0, -1)
    strength = level.max(axis=0)[..., None] / np.float32(255)
    mixed: Floats = _dark_grey(image) * (1 - strength) + light
    return (mixed.clip(0, 255) + 0.5).astype(np.uint8)


def lay_patches(image: Pixels, picked: NDArray[np.bool_]) -> Pixels:
    """The picked pixels (H, W) as they are, all others dark and grey."""
    return np.where(picked[..., None], image, _dark_grey(image).astype(np.uint8))


def fade(image: Pixels) -> Pixels:
    """The image (H, W, 3) in grey and close to white, as what does not count."""
    grey = (image.astype(np.float32) @ _GREY)[..., None]
    return np.repeat(255 - (255 - grey) * np.float32(FADED) + 0.5, 3, axis=2).astype(np.uint8)


def _dark_grey(image: Pixels) -> Floats:
    grey: Floats = (image.astype(np.float32) @ _GREY)[..., None] * np.float32(DIMMED)
    return grey


def outlines(placed: Floats, percentile: float = PERCENTILE) -> tuple[Line, ...]:
    """Closed lines around the pixels above a percentile of what the model saw.

    Args:
        placed: (H, W), from `raster.place`; NaN where the model saw nothing.
        percentile: in (0, 100); 95 encloses a twentieth of the model's view.
    Returns:
        One (n, 2) array of x, y per line, in continuous pixels; none for a constant map or one without a value.
    """
    low, high = limits(placed)
    if is_constant(low, high):
        return ()
    threshold = float(np.percentile(placed[np.isfinite(placed)], percentile))
    floor = low - (high - low)
    framed = np.pad(np.nan_to_num(placed, nan=floor), 1, constant_values=floor)  # so that lines close at the edge
    height, width = framed.shape
    generator = contour_generator(np.arange(width) - 0.5, np.arange(height) - 0.5, framed)
    return tuple(np.asarray(line).clip(0, [width - 2, height - 2]) for line in generator.lines(threshold))
