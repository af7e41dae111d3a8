"""From cached bytes to views of them, and to normalised model inputs on the training device, a batch at a time."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from attnsearch.config.images import DataSettings
from attnsearch.data.views import Views
from attnsearch.types import IMAGENET_MEAN, IMAGENET_STD

_GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # as torchvision's rgb_to_grayscale


def cut(pixels: NDArray[np.uint8], rows: NDArray[np.int64], views: Views, cfg: DataSettings) -> NDArray[np.uint8]:
    """Crops and flips by copying bytes, where cached pixels are resized pixels.

    Args:
        pixels: (M, resized height, resized width, ...) memory map. What a crop shows beyond its edges is 0; only under
            `resize: pad` a crop that begins left of it takes its first columns from the right end.

    Returns:
        (B, H, W, ...) uint8.
    """
    height, width = cfg.image_hw
    out = np.zeros((len(rows), height, width, *pixels.shape[3:]), dtype=np.uint8)
    for index, (row, x, y, is_mirrored) in enumerate(zip(rows, views.x, views.y, views.is_mirrored, strict=True)):
        target = out[index, :, ::-1] if is_mirrored else out[index]
        window = pixels[row, max(0, y) : y + height, max(0, x) : x + width]
        if x < 0 and cfg.resize == "pad":
            window = np.concatenate([pixels[row, y : y + height, x:], window], axis=1)
            x = 0
        top, left = max(0, -y), max(0, -x)
        target[top : top + window.shape[0], left : left + window.shape[1]] = window
    return out


def resample(
    pixels: NDArray[np.uint8],
    rows: NDArray[np.int64],
    views: Views,
    cfg: DataSettings,
    *,
    canvas_hw: tuple[int, int],
) -> NDArray[np.uint8]:
    """Crops and flips of resized images, where a view is not a copy of cached pixels.

    Args:
        pixels: (M, cached height, cached width, C) memory map.
        canvas_hw: H and W for windows of several sizes, at least those of the largest.

    Returns:
        (B, H, W, C) uint8; what lies beyond a window is 0. What becomes of an image does not depend on the others of
        its batch.

    Source: Pillow `Image.resize(BILINEAR)`, which is antialiased. As in torchvision's `resized_crop` a window is first
        cut out of whole pixels, and reads none outside of it.
    """
    if views.windows is None:
        return cut(resize(pixels[rows], cfg.resized_hw), np.arange(len(rows)), views, cfg)
    sizes = views.windows.sizes_hw
    out = np.zeros((len(rows), *canvas_hw, pixels.shape[3]), dtype=np.uint8)
    for index, (row, box, (height, width)) in enumerate(zip(rows, views.windows.boxes, sizes, strict=True)):
        (left, right), (top, bottom) = (
            _whole_pixels(ends, side) for ends, side in zip(box.reshape(2, 2).T, pixels.shape[2:0:-1], strict=True)
        )
        shown = resize(pixels[[row], top:bottom, left:right], (height, width))[0]
        out[index, :height, :width] = shown[:, ::-1] if views.is_mirrored[index] else shown
    return out


def resize(pixels: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """(N, ·, ·, C) -> (N, *size_hw, C): bilinear, over the whole area of each new pixel where that is larger."""
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    resized = functional.interpolate(images, size=size_hw, mode="bilinear", antialias=True)
    return resized.permute(0, 2, 3, 1).numpy()


def _whole_pixels(ends: NDArray[np.float64], side: int) -> tuple[int, int]:
    """The nearest pixels to two fractions (2,) of a side, at least one pixel apart."""
    start, stop = (round(end * side) for end in ends.tolist())
    first = min(start, side - 1)
    return first, max(first + 1, stop)


def padding_mask(sizes_hw: Tensor, canvas_hw: tuple[int, int]) -> Tensor:
    """(B, H, W) bool, True beyond each image of `sizes_hw` (B, 2) pixels at the top left."""
    rows, columns = (torch.arange(side, device=sizes_hw.device) for side in canvas_hw)
    is_below = rows[None, :] >= sizes_hw[:, :1]  # (B, H)
    is_right = columns[None, :] >= sizes_hw[:, 1:]  # (B, W)
    return is_below[:, :, None] | is_right[:, None, :]


def as_images(pixels: Tensor, *, memory_format: torch.memory_format) -> Tensor:
    """Bytes (B, H, W, 3) -> float32 (B, 3, H, W) in [0, 1]; into channels-last without an intermediate copy."""
    return pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=memory_format).div_(255)


def jitter(images: Tensor, brightness: Tensor, saturation: Tensor) -> Tensor:
    """Brightness, then saturation, in place; (B, 3, H, W) float32 in [0, 1] before and after.

    Args:
        brightness, saturation: (B,) factors.
    Source: torchvision `ColorJitter`. Difference: the order is fixed.
    """
    images.mul_(brightness.view(-1, 1, 1, 1)).clamp_(0, 1)
    factor = saturation.view(-1, 1, 1, 1)
    red, green, blue = _GREY_WEIGHTS
    grey = (images[:, :1] * red).add_(images[:, 1:2], alpha=green).add_(images[:, 2:], alpha=blue)  # (B, 1, H, W)
    return images.mul_(factor).add_(grey.mul_(1 - factor)).clamp_(0, 1)


def normalise(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] with ImageNet's mean and deviation, in place."""
    mean, std = _mean_and_std(images.device)
    if images.is_contiguous() or not images.is_contiguous(memory_format=torch.channels_last):
        return images.sub_(mean.view(3, 1, 1)).div_(std.view(3, 1, 1))
    width = images.shape[3]
    lines = images.permute(0, 2, 3, 1).flatten(2)  # (B, H, W·3), the same memory
    lines.sub_(mean.repeat(width)).div_(std.repeat(width))
    return images


@lru_cache(maxsize=8)
def _mean_and_std(device: torch.device) -> tuple[Tensor, Tensor]:
    """(3,) each, copied to a device once."""
    return torch.tensor(IMAGENET_MEAN, device=device), torch.tensor(IMAGENET_STD, device=device)


def noise(erased: NDArray[np.int64], seeds: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """(B, C, H, W) standard normal noise of each image inside its rectangle, 0 elsewhere.

    Args:
        erased, seeds: as of `Views`.
        shape: (B, C, H, W).
    """
    out = np.zeros(shape, dtype=np.float32)
    for image, (left, top, right, bottom), seed in zip(out, erased, seeds, strict=True):
        size = (len(image), bottom - top, right - left)
        image[:, top:bottom, left:right] = np.random.default_rng((seed, 1)).standard_normal(size, dtype=np.float32)
    return out


def erase(images: Tensor, erased: Tensor, noise: Tensor) -> Tensor:
    """Puts noise (B, C, H, W) into a rectangle of each normalised image, in place.

    Args:
        erased: (B, 4) left, top, right, bottom.
    """
    is_erased = erased_mask(erased, (images.shape[2], images.shape[3]))[:, None]
    return images.copy_(torch.where(is_erased, noise, images))


def delete(images: Tensor, deleted: Tensor) -> Tensor:
    """Fills a rectangle of each normalised image (B, C, H, W) with the mean colour, in place.

    Args:
        deleted: (B, 4) left, top, right, bottom.
    """
    return images.masked_fill_(erased_mask(deleted, (images.shape[2], images.shape[3]))[:, None], 0.0)


def erased_mask(erased: Tensor, canvas_hw: tuple[int, int]) -> Tensor:
    """(B, H, W) bool, True inside the rectangles (B, 4)."""
    left, top, right, bottom = erased[:, :, None].unbind(dim=1)  # (B, 1) each
    rows, columns = (torch.arange(side, device=erased.device) for side in canvas_hw)
    is_row, is_column = (top <= rows) & (rows < bottom), (left <= columns) & (columns < right)  # (B, H), (B, W)
    return is_row[:, :, None] & is_column[:, None, :]
