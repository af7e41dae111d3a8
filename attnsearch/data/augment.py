"""From cached bytes to normalised model inputs, a batch at a time on the training device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import RandAugment

from attnsearch import geometry
from attnsearch.config.data import DataSettings, MultiScale
from attnsearch.types import IMAGENET_MEAN, IMAGENET_STD

N_TRIES = 10
_RATIO = (3 / 4, 4 / 3)


@dataclass(frozen=True, eq=False)
class CropWindows:
    """One window per image of the resized image.

    Attributes:
        boxes: (B, 4) float64 left, top, right, bottom as fractions of the resized width and height.
        sizes_hw: (B, 2) int64 pixels that a window becomes.
    """

    boxes: NDArray[np.float64]
    sizes_hw: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> CropWindows:
        """The windows of some images."""
        return CropWindows(self.boxes[rows], self.sizes_hw[rows])


def random_windows(sizes_hw: NDArray[np.int64], cfg: DataSettings, *, seed: int, epoch: int) -> CropWindows | None:
    """Windows as `crop_scale` or `multi_scale` asks, or None; an image's draw depends on seed, epoch and its row alone.

    Args:
        sizes_hw: (N, 2) original heights and widths.
    """
    draws = np.random.default_rng((seed, epoch, 2)).random((len(sizes_hw), 2 * N_TRIES + 2))
    if cfg.multi_scale is not None:
        return _multi_scale(sizes_hw.astype(np.float64), cfg.multi_scale, draws, aspect=cfg.aspect)
    if cfg.crop_scale is not None:
        sides = np.tile(np.array(cfg.image_hw, dtype=np.int64), (len(draws), 1))
        return CropWindows(_random_crops(cfg.crop_scale, draws), sides)
    return None


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


def _choose(values: tuple[int, ...], draws: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)[(draws * len(values)).astype(np.int64)]


_GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # as torchvision's rgb_to_grayscale
_N_DRAWS = 5
_FILL = tuple(round(255 * value) for value in IMAGENET_MEAN)  # where RandAugment moves an image away


@dataclass(frozen=True, eq=False)
class Views:
    """How each image of a batch is shown; all arrays are (B,).

    Attributes:
        x, y: int64 left and top edge of the crop in *resized* pixels; x is negative where a padded image is mirrored,
            whose padding stays on the right.
        is_mirrored: bool.
        brightness, saturation: float32 factors, 1 leaves the image as it is.
        seeds: int64, of operations that draw for themselves.
        windows: what is shown instead of the crop at x, y.
    """

    x: NDArray[np.int64]
    y: NDArray[np.int64]
    is_mirrored: NDArray[np.bool_]
    brightness: NDArray[np.float32]
    saturation: NDArray[np.float32]
    seeds: NDArray[np.int64]
    windows: CropWindows | None = None

    def take(self, rows: NDArray[np.int64]) -> Views:
        """The views of some images."""
        return Views(
            self.x[rows],
            self.y[rows],
            self.is_mirrored[rows],
            self.brightness[rows],
            self.saturation[rows],
            self.seeds[rows],
            None if self.windows is None else self.windows.take(rows),
        )


def centre_views(n_images: int, cfg: DataSettings) -> Views:
    """The centre crop, unchanged, of every image."""
    y, x = (
        np.full(n_images, geometry.centre_offset_px(resized, seen))
        for resized, seen in zip(cfg.resized_hw, cfg.image_hw, strict=True)
    )
    one = np.ones(n_images, dtype=np.float32)
    return Views(x, y, np.zeros(n_images, dtype=bool), one, one, np.zeros(n_images, dtype=np.int64))


def random_views(sizes_hw: NDArray[np.int64], cfg: DataSettings, *, seed: int, epoch: int) -> Views:
    """Random crop or window, flip, brightness, saturation; an image's draw depends on seed, epoch and its row alone.

    Args:
        sizes_hw: (N, 2) original heights and widths.
    """
    n_images = len(sizes_hw)
    draws = np.random.default_rng((seed, epoch, 1)).random((n_images, _N_DRAWS))
    room_wh = np.subtract(cfg.resized_hw, cfg.image_hw)[::-1] + 1
    x, y = (draws[:, :2] * room_wh).astype(np.int64).T
    is_mirrored = draws[:, 2] < cfg.flip
    if cfg.resize == "pad":
        width = geometry.padded_hw(sizes_hw, cfg.image_hw)[:, 1]
        x = np.where(is_mirrored, width - cfg.image_hw[1], x)
    return Views(
        x,
        y,
        is_mirrored,
        (1 + cfg.brightness * (2 * draws[:, 3] - 1)).astype(np.float32),
        (1 + cfg.saturation * (2 * draws[:, 4] - 1)).astype(np.float32),
        np.random.default_rng((seed, epoch, 3)).integers(2**62, size=n_images),
        random_windows(sizes_hw, cfg, seed=seed, epoch=epoch),
    )


def cut(pixels: NDArray[np.uint8], rows: NDArray[np.int64], views: Views, image_hw: geometry.Size) -> NDArray[np.uint8]:
    """Crops and flips by copying bytes, where cached pixels are resized pixels.

    Args:
        pixels: (M, resized height, resized width, ...) memory map; a crop that begins left of it takes its first
            columns from the right end.

    Returns:
        (B, H, W, ...) uint8.
    """
    height, width = image_hw
    out = np.empty((len(rows), height, width, *pixels.shape[3:]), dtype=np.uint8)
    for index, (row, x, y, is_mirrored) in enumerate(zip(rows, views.x, views.y, views.is_mirrored, strict=True)):
        window = pixels[row, y : y + height, max(0, x) : x + width]
        if x < 0:
            window = np.concatenate([pixels[row, y : y + height, x:], window], axis=1)
        out[index] = window[:, ::-1] if is_mirrored else window
    return out


def resample(images: Tensor, views: Views, cfg: DataSettings) -> Tensor:
    """Crops and flips by bilinear interpolation, where a view is not a copy of cached pixels.

    Args:
        images: (B, C, cached height, cached width) float, whole cached images.

    Returns:
        (B, C, H, W) float; for windows of several sizes H and W are the largest, and what lies beyond a window is 0.
        Each output pixel is the mean over its footprint, so that shrinking does not alias.
    """
    windows = views.windows or _windows_of_crops(views, cfg)
    boxes = torch.as_tensor(windows.boxes, device=images.device, dtype=torch.float32)  # (B, 4)
    sizes = torch.as_tensor(windows.sizes_hw, device=images.device, dtype=torch.float32)  # (B, 2)
    height, width = (int(side) for side in windows.sizes_hw.max(axis=0))
    seen_hw = (windows.boxes[:, 2:] - windows.boxes[:, :2])[:, ::-1] * images.shape[-2:]  # (B, 2) cached pixels
    # Bilinear interpolation reads 2 x 2 cached pixels. Where an output pixel covers more, it is sampled at
    # n_taps x n_taps places, evenly over what it covers, and these are averaged.
    n_taps = max(1, int((seen_hw / windows.sizes_hw).max() + 1e-6))

    def places(n_px: int, size: Tensor, start: Tensor, stop: Tensor) -> Tensor:
        steps = (torch.arange(n_px * n_taps, device=images.device) + 0.5) / n_taps  # in output pixels
        fraction = start[:, None] + steps / size[:, None] * (stop - start)[:, None]
        return 2 * fraction - 1  # (B, n_px * n_taps), -1 and 1 are the edges of the image

    is_mirrored = torch.as_tensor(views.is_mirrored, device=images.device)
    left, top, right, bottom = boxes.unbind(dim=1)
    x = places(width, sizes[:, 1], torch.where(is_mirrored, right, left), torch.where(is_mirrored, left, right))
    y = places(height, sizes[:, 0], top, bottom)
    grid = torch.stack(
        [x[:, None, :].expand(-1, y.shape[1], -1), y[:, :, None].expand(-1, -1, x.shape[1])], dim=-1
    )  # (B, H * n_taps, W * n_taps, 2)
    fine = functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    shown = functional.avg_pool2d(fine, n_taps) if n_taps > 1 else fine
    beyond = padding_mask(windows.sizes_hw, (height, width), device=images.device)
    return shown if beyond is None else shown.masked_fill_(beyond[:, None], 0.0)


def _windows_of_crops(views: Views, cfg: DataSettings) -> CropWindows:
    resized_wh, image_wh = np.array(cfg.resized_hw[::-1]), np.array(cfg.image_hw[::-1])
    left_top = np.stack([views.x, views.y], axis=1) / resized_wh  # (B, 2)
    sizes_hw = np.tile(np.array(cfg.image_hw, dtype=np.int64), (len(views.x), 1))
    return CropWindows(np.concatenate([left_top, left_top + image_wh / resized_wh], axis=1), sizes_hw)


def padding_mask(
    sizes_hw: NDArray[np.int64], canvas_hw: tuple[int, int], *, device: torch.device | str
) -> Tensor | None:
    """(B, H, W) bool, True beyond each image of `sizes_hw` (B, 2) pixels at the top left; None if all are full."""
    if (sizes_hw == canvas_hw).all():
        return None
    sizes = torch.as_tensor(sizes_hw, device=device)
    rows, columns = (torch.arange(side, device=device) for side in canvas_hw)
    is_below = rows[None, :] >= sizes[:, :1]  # (B, H)
    is_right = columns[None, :] >= sizes[:, 1:]  # (B, W)
    return is_below[:, :, None] | is_right[:, None, :]


def rand_augment(images: Tensor, views: Views, strength: int) -> Tensor:
    """Two random operations on each image (B, 3, H, W) of [0, 1], drawn from the image's own seed.

    Source: torchvision `RandAugment` with a scale of 10. The Loupe uses timm's `rand-m9-mstd0.5`. Difference: every
        operation is applied, at one strength, and there is neither inversion nor additive solarising.
    """
    operate = RandAugment(num_ops=2, magnitude=strength, num_magnitude_bins=11, fill=list(_FILL))
    bytes_ = images.mul(255).round_().to(torch.uint8)
    with torch.random.fork_rng(devices=[]):
        for index, seed in enumerate(views.seeds):
            torch.default_generator.manual_seed(int(seed))  # not that of a GPU, which nothing would put back
            bytes_[index] = operate(bytes_[index])
    return bytes_.to(torch.float32).div_(255)


def jitter(images: Tensor, views: Views) -> Tensor:
    """Brightness, then saturation, in place; (B, 3, H, W) float32 in [0, 1] before and after.

    Source: torchvision `ColorJitter`. Difference: the order is fixed.
    """
    images.mul_(_column(views.brightness, images)).clamp_(0, 1)
    factor = _column(views.saturation, images)
    red, green, blue = _GREY_WEIGHTS
    grey = (images[:, :1] * red).add_(images[:, 1:2], alpha=green).add_(images[:, 2:], alpha=blue)  # (B, 1, H, W)
    return images.mul_(factor).add_(grey.mul_(1 - factor)).clamp_(0, 1)


def normalise(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] with ImageNet's mean and deviation, in place."""
    mean = torch.tensor(IMAGENET_MEAN, device=images.device).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=images.device).view(3, 1, 1)
    return images.sub_(mean).div_(std)


def _column(factors: NDArray[np.float32], images: Tensor) -> Tensor:
    return torch.as_tensor(factors, device=images.device).view(-1, 1, 1, 1)
