"""How each image of a batch is shown: which part of it, mirrored or not, in which light, and what is erased."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from attnsearch import geometry
from attnsearch.config.images import DataSettings, MultiScale
from attnsearch.types import DELETION_CELLS

D = TypeVar("D", bound=np.generic)
N_TRIES = 10
_N_DRAWS = 5
_RATIO = (3 / 4, 4 / 3)
_ERASED_AREA = (0.02, 1 / 3)  # of the shown image
_ERASED_RATIO = (0.3, 1 / 0.3)  # height / width


@dataclass(frozen=True, eq=False)
class CropWindows:
    """One window per image of the resized image.

    Attributes:
        boxes: (B, 4) float64 left, top, right, bottom as fractions of the resized width and height.
        sizes_hw: (B, 2) int64 pixels that a window becomes.
    """

    boxes: NDArray[np.float64]
    sizes_hw: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64] | slice) -> CropWindows:
        """The windows of some images."""
        return CropWindows(self.boxes[rows], self.sizes_hw[rows])


@dataclass(frozen=True, eq=False)
class ViewDraws:
    """Numbers for the views of an epoch, each of which depends on seed, epoch, row and how often the row came before.

    Attributes:
        rows: (M,) int64 positions in a split, in the order of the epoch; one may come more than once.
        occurrences: (M,) int64, how often each came before.
        n_rows: of the split.
    """

    seed: int
    epoch: int
    rows: NDArray[np.int64]
    occurrences: NDArray[np.int64]
    n_rows: int

    @classmethod
    def of_epoch(cls, rows: NDArray[np.int64], n_rows: int, *, seed: int, epoch: int) -> ViewDraws:
        """The draws of the rows (M,) of an epoch."""
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        occurrences = np.empty(len(rows), dtype=np.int64)
        occurrences[order] = np.arange(len(rows)) - np.searchsorted(ordered, ordered)
        return cls(seed, epoch, rows, occurrences, n_rows)

    def uniform(self, stream: int, n_draws: int) -> NDArray[np.float64]:
        """(M, n_draws) in [0, 1)."""
        return self._draw(lambda generator: generator.random((self.n_rows, n_draws)), stream)

    def seeds(self, stream: int) -> NDArray[np.int64]:
        """(M,) seeds, not negative."""
        return self._draw(lambda generator: generator.integers(2**62, size=self.n_rows), stream)

    def _draw(self, draw: Callable[[np.random.Generator], NDArray[D]], stream: int) -> NDArray[D]:
        """Draws for all rows of the split, and again for those that come again: (M, ...)."""
        drawn = draw(np.random.default_rng((self.seed, self.epoch, stream)))[self.rows]
        for occurrence in range(1, self.occurrences.max(initial=0) + 1):
            again = self.occurrences == occurrence
            key = (self.seed, self.epoch, stream, occurrence)
            drawn[again] = draw(np.random.default_rng(key))[self.rows[again]]
        return drawn


def random_windows(sizes_hw: NDArray[np.int64], cfg: DataSettings, draws: ViewDraws) -> CropWindows | None:
    """Windows as `crop_scale` or `multi_scale` asks, or None.

    Args:
        sizes_hw: (M, 2) original heights and widths.
    """
    if cfg.multi_scale is None and cfg.crop_scale is None:
        return None
    uniform = draws.uniform(2, 2 * N_TRIES + 2)  # (M, ·)
    if cfg.multi_scale is not None:
        return _multi_scale(sizes_hw.astype(np.float64), cfg.multi_scale, uniform, aspect=cfg.aspect)
    assert cfg.crop_scale is not None
    return CropWindows(_random_crops(cfg.crop_scale, uniform), repeated_size(cfg.image_hw, len(uniform)))


def _random_crops(scale: tuple[float, float], draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 4) fractions: area uniform in `scale`, logarithm of the stretch uniform, place uniform.

    Of ten tries the first that fits; if none does, the whole image.

    Source: torchvision `RandomResizedCrop`. Difference: out of the resized image, not out of the original one.
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


def _multi_scale(
    sizes_hw: NDArray[np.float64], cfg: MultiScale, draws: NDArray[np.float64], *, aspect: float
) -> CropWindows:
    """Whole images or random crops of them, the shorter side of either scaled to a random length.

    Source: INTR's released training transform, which is DETR's.
    """
    canvas_hw = geometry.source_box(sizes_hw, "pad", aspect=aspect)[:, :1:-1]  # (N, 2) original pixels
    first_px = _choose(cfg.crop_from_px, draws[:, 0])
    scaled_hw = np.floor(sizes_hw * (first_px / sizes_hw.min(axis=1))[:, None])
    low, high = cfg.crop_px
    largest = np.minimum(high, scaled_hw)
    window_hw = np.minimum(largest, low + np.floor(draws[:, 1:3] * (largest - low + 1)))
    start_yx = np.floor(draws[:, 3:5] * (scaled_hw - window_hw + 1))
    is_cropped = (draws[:, 5] < cfg.crop_probability)[:, None]
    fraction = sizes_hw / scaled_hw / canvas_hw  # (N, 2) of the canvas, per scaled pixel
    top_left = np.where(is_cropped, start_yx * fraction, 0.0)
    bottom_right = np.where(is_cropped, (start_yx + window_hw) * fraction, sizes_hw / canvas_hw)
    seen_hw = np.where(is_cropped, window_hw, sizes_hw)
    wanted_px = _choose(cfg.shorter_px, draws[:, 6])
    longest = seen_hw.max(axis=1) / seen_hw.min(axis=1) * wanted_px
    shorter_px = np.where(longest > cfg.longest_px, np.rint(wanted_px * cfg.longest_px / longest), wanted_px)
    sizes = np.floor(seen_hw / seen_hw.min(axis=1, keepdims=True) * shorter_px[:, None] + 1e-6)
    boxes = np.concatenate([top_left[:, ::-1], bottom_right[:, ::-1]], axis=1)
    return CropWindows(boxes, np.maximum(1, sizes).astype(np.int64))


def repeated_size(size_hw: geometry.Size, n_images: int) -> NDArray[np.int64]:
    """(N, 2), the same size for each."""
    return np.tile(np.array(size_hw, dtype=np.int64), (n_images, 1))


def _choose(values: tuple[int, ...], draws: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)[(draws * len(values)).astype(np.int64)]


@dataclass(frozen=True, eq=False)
class Views:
    """How each image of a batch is shown; arrays are (B,) but for the last.

    Attributes:
        x, y: int64 left and top edge of the crop in *resized* pixels; both may be negative under `pad_px`, and x where
            an image of `resize: pad` is mirrored, whose padding stays on the right.
        is_mirrored: bool.
        brightness, saturation: float32 factors, 1 leaves the image as it is.
        seeds: int64, of operations that draw for themselves.
        windows: what is shown instead of the crop at x, y.
        erased: (B, 4) int64 left, top, right, bottom of a rectangle of the shown pixels, empty where nothing is erased.
        deleted: (B, 4) likewise, of the cell that becomes the mean colour.
    """

    x: NDArray[np.int64]
    y: NDArray[np.int64]
    is_mirrored: NDArray[np.bool_]
    brightness: NDArray[np.float32]
    saturation: NDArray[np.float32]
    seeds: NDArray[np.int64]
    windows: CropWindows | None = None
    erased: NDArray[np.int64] | None = None
    deleted: NDArray[np.int64] | None = None

    def take(self, rows: NDArray[np.int64] | slice) -> Views:
        """The views of some images."""
        return Views(
            self.x[rows],
            self.y[rows],
            self.is_mirrored[rows],
            self.brightness[rows],
            self.saturation[rows],
            self.seeds[rows],
            None if self.windows is None else self.windows.take(rows),
            None if self.erased is None else self.erased[rows],
            None if self.deleted is None else self.deleted[rows],
        )


def centre_views(n_images: int, cfg: DataSettings) -> Views:
    """The centre crop, unchanged, of every image."""
    y, x = (
        np.full(n_images, geometry.centre_offset_px(resized, seen))
        for resized, seen in zip(cfg.resized_hw, cfg.image_hw, strict=True)
    )
    one = np.ones(n_images, dtype=np.float32)
    return Views(x, y, np.zeros(n_images, dtype=bool), one, one, np.zeros(n_images, dtype=np.int64))


def random_views(
    sizes_hw: NDArray[np.int64],
    cfg: DataSettings,
    *,
    seed: int,
    epoch: int,
    rows: NDArray[np.int64] | None = None,
) -> Views:
    """Random crop or window, flip, brightness, saturation, erased rectangle, deleted cell.

    They depend on seed, epoch, the image's row and how often it came before in the epoch, and on nothing else.

    Args:
        sizes_hw: (N, 2) original heights and widths of a split.
        rows: (M,) what is shown, in its order; a row may come more than once and each time gets a view of its own.
            None shows each once.
    """
    rows = np.arange(len(sizes_hw)) if rows is None else rows
    draws = ViewDraws.of_epoch(rows, len(sizes_hw), seed=seed, epoch=epoch)
    sizes_hw = sizes_hw[rows]
    uniform = draws.uniform(1, _N_DRAWS)  # (M, ·)
    room_wh = np.subtract(cfg.resized_hw, cfg.image_hw)[::-1] + 2 * cfg.pad_px + 1
    x, y = (uniform[:, :2] * room_wh).astype(np.int64).T - cfg.pad_px
    is_mirrored = uniform[:, 2] < cfg.flip
    shown_hw = repeated_size(cfg.image_hw, len(rows))
    if cfg.resize == "pad":
        shown_hw = geometry.padded_hw(sizes_hw, cfg.image_hw)
        x = np.where(is_mirrored, shown_hw[:, 1] - cfg.image_hw[1], x)
    windows = random_windows(sizes_hw, cfg, draws)
    shown_hw = shown_hw if windows is None else windows.sizes_hw
    return Views(
        x,
        y,
        is_mirrored,
        (1 + cfg.brightness * (2 * uniform[:, 3] - 1)).astype(np.float32),
        (1 + cfg.saturation * (2 * uniform[:, 4] - 1)).astype(np.float32),
        draws.seeds(3),
        windows,
        None if cfg.erase == 0 else _erased(shown_hw, cfg.erase, draws),
        None if cfg.cell_deletion == 0 else _deleted(shown_hw, cfg.cell_deletion, draws),
    )


def _erased(shown_hw: NDArray[np.int64], probability: float, draws: ViewDraws) -> NDArray[np.int64]:
    """(M, 4) left, top, right, bottom: area uniform, logarithm of the aspect uniform, place uniform.

    Of ten tries the first that fits; if none does, nothing is erased.

    Args:
        shown_hw: (M, 2) heights and widths that are seen.
    Source: Zhong et al. 2020 (arXiv 1708.04896) as timm's `RandomErasing` has it, which TransReID uses. The paper draws
        the aspect itself uniformly.
    """
    uniform = draws.uniform(4, 2 * N_TRIES + 3)
    low, high = _ERASED_AREA
    area = (low + (high - low) * uniform[:, :N_TRIES]) * shown_hw.prod(axis=1)[:, None]  # (M, tries)
    log_low, log_high = np.log(_ERASED_RATIO)
    aspect = np.exp(log_low + (log_high - log_low) * uniform[:, N_TRIES : 2 * N_TRIES])
    sizes = np.rint(np.sqrt(np.stack([area * aspect, area / aspect], axis=-1)))  # (M, tries, 2) height, width
    fits = (sizes < shown_hw[:, None]).all(axis=-1)
    size_hw = sizes[np.arange(len(sizes)), fits.argmax(axis=1)]
    is_erased = fits.any(axis=1) & (uniform[:, -1] < probability)
    size_hw = np.where(is_erased[:, None], size_hw, 0)
    top_left = np.floor(uniform[:, -3:-1] * (shown_hw - size_hw + 1))
    return np.concatenate([top_left[:, ::-1], (top_left + size_hw)[:, ::-1]], axis=1).astype(np.int64)


def _deleted(shown_hw: NDArray[np.int64], probability: float, draws: ViewDraws) -> NDArray[np.int64]:
    """(M, 4) left, top, right, bottom of one cell of the grid, empty where none is deleted; borders are rounded.

    Args:
        shown_hw: (M, 2) heights and widths that are seen.
    Source: Hesse et al. 2024 (arXiv 2407.11910), in-domain training for single deletion.
    """
    uniform, side = draws.uniform(5, 2), DELETION_CELLS
    cell = np.stack(np.divmod((uniform[:, 1] * side**2).astype(np.int64), side), axis=-1)  # (M, 2) row, column
    start, stop = ((2 * edge * shown_hw + side) // (2 * side) for edge in (cell, cell + 1))  # (M, 2) each
    stop = np.where((uniform[:, 0] < probability)[:, None], stop, start)
    return np.concatenate([start[:, ::-1], stop[:, ::-1]], axis=1)
