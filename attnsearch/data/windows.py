"""Which part of a resized picture a training view shows, and how large, where it is not simply S of its pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnsearch.config.datasets import DataSettings, MultiScale

N_TRIES = 10
_RATIO = (3 / 4, 4 / 3)


@dataclass(frozen=True, eq=False)
class Windows:
    """One window per image of the resized square.

    Attributes:
        boxes: (B, 4) float64 left, top, right, bottom as shares of the square's side.
        sizes_hw: (B, 2) int64 pixels that a window becomes.
    """

    boxes: NDArray[np.float64]
    sizes_hw: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> Windows:
        """The windows of some images."""
        return Windows(self.boxes[rows], self.sizes_hw[rows])


def random_windows(sizes_hw: NDArray[np.int64], cfg: DataSettings, *, seed: int, epoch: int) -> Windows | None:
    """Windows as `crop_scale` or `multi_scale` asks, or None; an image's draw depends on seed, epoch and its row alone.

    Args:
        sizes_hw: (N, 2) original heights and widths.
    """
    draws = np.random.default_rng((seed, epoch, 2)).random((len(sizes_hw), 2 * N_TRIES + 2))
    if cfg.multi_scale is not None:
        return _multi_scale(sizes_hw.astype(np.float64), cfg.multi_scale, draws)
    if cfg.crop_scale is not None:
        sides = np.full((len(draws), 2), cfg.image_size_px, dtype=np.int64)
        return Windows(_random_crops(cfg.crop_scale, draws), sides)
    return None


def _random_crops(scale: tuple[float, float], draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 4) shares: area uniform in `scale`, logarithm of the aspect ratio uniform, place uniform.

    Of ten tries the first that fits; if none does, the whole square.

    Source: torchvision `RandomResizedCrop`. Difference: out of the resized square, not out of the original picture.
    """
    low, high = scale
    area = low + (high - low) * draws[:, :N_TRIES]
    log_ratio = np.log(_RATIO[0]) + np.log(_RATIO[1] / _RATIO[0]) * draws[:, N_TRIES : 2 * N_TRIES]
    width, height = np.sqrt(area * np.exp(log_ratio)), np.sqrt(area / np.exp(log_ratio))  # (N, tries)
    fits = (width <= 1) & (height <= 1)
    first = (np.arange(len(draws)), fits.argmax(axis=1))
    has_fit = fits.any(axis=1)
    width, height = np.where(has_fit, width[first], 1.0), np.where(has_fit, height[first], 1.0)
    left, top = draws[:, -2] * (1 - width), draws[:, -1] * (1 - height)
    return np.stack([left, top, left + width, top + height], axis=1)


def _multi_scale(sizes_hw: NDArray[np.float64], cfg: MultiScale, draws: NDArray[np.float64]) -> Windows:
    """Whole pictures or random crops of them, the shorter side of either scaled to a random length.

    Source: INTR's released training transform, which is DETR's.
    """
    side = sizes_hw.max(axis=1, keepdims=True)  # of the padded square, in original pixels
    first_px = _choose(cfg.crop_from_px, draws[:, 0])
    scaled_hw = np.floor(sizes_hw * (first_px / sizes_hw.min(axis=1))[:, None])
    low, high = cfg.crop_px
    largest = np.minimum(high, scaled_hw)
    window_hw = np.minimum(largest, low + np.floor(draws[:, 1:3] * (largest - low + 1)))
    start_yx = np.floor(draws[:, 3:5] * (scaled_hw - window_hw + 1))
    is_cropped = (draws[:, 5] < cfg.crop_probability)[:, None]
    share = sizes_hw / scaled_hw / side  # of the square's side, per scaled pixel
    top_left = np.where(is_cropped, start_yx * share, 0.0)
    bottom_right = np.where(is_cropped, (start_yx + window_hw) * share, sizes_hw / side)
    seen_hw = np.where(is_cropped, window_hw, sizes_hw)
    wanted_px = _choose(cfg.shorter_px, draws[:, 6])
    longest = seen_hw.max(axis=1) / seen_hw.min(axis=1) * wanted_px
    shorter_px = np.where(longest > cfg.longest_px, np.rint(wanted_px * cfg.longest_px / longest), wanted_px)
    sizes = np.floor(seen_hw / seen_hw.min(axis=1, keepdims=True) * shorter_px[:, None] + 1e-6)
    boxes = np.concatenate([top_left[:, ::-1], bottom_right[:, ::-1]], axis=1)
    return Windows(boxes, np.maximum(1, sizes).astype(np.int64))


def _choose(values: tuple[int, ...], draws: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)[(draws * len(values)).astype(np.int64)]
