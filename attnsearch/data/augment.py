"""From cached bytes to normalised model inputs, a batch at a time on the training device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from attnsearch import geometry
from attnsearch.config.datasets import DataSettings

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # as torchvision's rgb_to_grayscale
_N_DRAWS = 5


@dataclass(frozen=True, eq=False)
class Views:
    """How each image of a batch is shown; all arrays are (B,).

    Attributes:
        x, y: int64 left and top edge of the crop in *resized* pixels.
        is_mirrored: bool.
        brightness, saturation: float32 factors, 1 leaves the image as it is.
    """

    x: NDArray[np.int64]
    y: NDArray[np.int64]
    is_mirrored: NDArray[np.bool_]
    brightness: NDArray[np.float32]
    saturation: NDArray[np.float32]

    def take(self, rows: NDArray[np.int64]) -> Views:
        """The views of some images."""
        return Views(self.x[rows], self.y[rows], self.is_mirrored[rows], self.brightness[rows], self.saturation[rows])


def centre_views(n_images: int, cfg: DataSettings) -> Views:
    """The centre crop, unchanged, of every image."""
    offset = np.full(n_images, geometry.centre_offset_px(cfg.resized_px, cfg.image_size_px))
    one = np.ones(n_images, dtype=np.float32)
    return Views(offset, offset, np.zeros(n_images, dtype=bool), one, one)


def random_views(n_images: int, cfg: DataSettings, *, seed: int, epoch: int) -> Views:
    """Random crop, flip, brightness and saturation; an image's draw depends on seed, epoch and its row alone."""
    draws = np.random.default_rng((seed, epoch, 1)).random((n_images, _N_DRAWS))
    room = cfg.resized_px - cfg.image_size_px + 1
    x, y = (draws[:, :2] * room).astype(np.int64).T
    return Views(
        x,
        y,
        draws[:, 2] < cfg.flip,
        (1 + cfg.brightness * (2 * draws[:, 3] - 1)).astype(np.float32),
        (1 + cfg.saturation * (2 * draws[:, 4] - 1)).astype(np.float32),
    )


def shuffled_rows(n_images: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """(N,) a random order that depends on seed and epoch alone."""
    return np.argsort(np.random.default_rng((seed, epoch, 0)).random(n_images), kind="stable")


def cut(pixels: NDArray[np.uint8], rows: NDArray[np.int64], views: Views, side_px: int) -> NDArray[np.uint8]:
    """Crops and flips by copying bytes, where cached pixels are resized pixels.

    Args:
        pixels: (M, R, R, ...) memory map.

    Returns:
        (B, side_px, side_px, ...) uint8.
    """
    out = np.empty((len(rows), side_px, side_px, *pixels.shape[3:]), dtype=np.uint8)
    for index, (row, x, y, is_mirrored) in enumerate(zip(rows, views.x, views.y, views.is_mirrored, strict=True)):
        window = pixels[row, y : y + side_px, x : x + side_px]
        out[index] = window[:, ::-1] if is_mirrored else window
    return out


def resample(images: Tensor, views: Views, cfg: DataSettings) -> Tensor:
    """Crops and flips by bilinear interpolation, where the cache is larger than the resized picture.

    Args:
        images: (B, C, R, R) float, whole cached pictures.

    Returns:
        (B, C, S, S) float; each output pixel is the mean over its footprint, so that shrinking does not alias.
    """
    side = cfg.image_size_px
    n_taps = max(1, int(images.shape[-1] / cfg.resized_px))
    n_samples = side * n_taps
    steps = (torch.arange(n_samples, device=images.device, dtype=torch.float32) + 0.5) / n_taps

    def places(start: NDArray[np.int64]) -> Tensor:
        resized = torch.as_tensor(start, device=images.device, dtype=torch.float32)[:, None] + steps
        return resized * (2 / cfg.resized_px) - 1  # (B, n_samples), -1 and 1 are the picture's edges

    is_mirrored = torch.as_tensor(views.is_mirrored, device=images.device)[:, None]
    x = places(views.x)
    x = torch.where(is_mirrored, x.flip(1), x)
    y = places(views.y)
    grid = torch.stack(
        [x[:, None, :].expand(-1, n_samples, -1), y[:, :, None].expand(-1, -1, n_samples)], dim=-1
    )  # (B, n_samples, n_samples, 2)
    fine = functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return functional.avg_pool2d(fine, n_taps) if n_taps > 1 else fine


def jitter(images: Tensor, views: Views) -> Tensor:
    """Brightness, then saturation, in place; (B, 3, S, S) float32 in [0, 1] before and after.

    Source: torchvision `ColorJitter`. Difference: the order is fixed.
    """
    images.mul_(_column(views.brightness, images)).clamp_(0, 1)
    factor = _column(views.saturation, images)
    red, green, blue = _GREY_WEIGHTS
    grey = (images[:, :1] * red).add_(images[:, 1:2], alpha=green).add_(images[:, 2:], alpha=blue)  # (B, 1, S, S)
    return images.mul_(factor).add_(grey.mul_(1 - factor)).clamp_(0, 1)


def normalise(images: Tensor) -> Tensor:
    """Images (B, 3, S, S) in [0, 1] with ImageNet's mean and deviation, in place."""
    mean = torch.tensor(IMAGENET_MEAN, device=images.device).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=images.device).view(3, 1, 1)
    return images.sub_(mean).div_(std)


def _column(factors: NDArray[np.float32], images: Tensor) -> Tensor:
    return torch.as_tensor(factors, device=images.device).view(-1, 1, 1, 1)
