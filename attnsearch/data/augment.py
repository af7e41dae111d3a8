"""From cached bytes to normalised model inputs, a batch at a time on the training device."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import RandAugment

from attnsearch.config.images import DataSettings
from attnsearch.data.views import CropWindows, Views, repeated_size
from attnsearch.types import IMAGENET_MEAN, IMAGENET_STD

_GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # as torchvision's rgb_to_grayscale
_FILL = tuple(round(255 * value) for value in IMAGENET_MEAN)  # where RandAugment moves an image away


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


def resample(images: Tensor, views: Views, cfg: DataSettings) -> Tensor:
    """Crops and flips by antialiased bilinear interpolation, where a view is not a copy of cached pixels.

    Args:
        images: (B, C, cached height, cached width) float, whole cached images.

    Returns:
        (B, C, H, W) float; for windows of several sizes H and W are the largest, and what lies beyond a window is 0,
        as is what lies beyond the resized image under `pad_px`.
        What becomes of an image does not depend on the others of its batch.

    Source: Pillow `Image.resize(BILINEAR)`. As in torchvision's `resized_crop` a window reads no pixels outside of it.
    """
    windows = views.windows or _windows_of_crops(views, cfg)
    height, width = (int(side) for side in windows.sizes_hw.max(axis=0))
    ends = windows.boxes.reshape(-1, 2, 2) * images.shape[:1:-1]  # (B, first and last, x and y) cached pixels
    whole = np.array([(0, 0), images.shape[:1:-1]], dtype=np.float64)
    limits = np.broadcast_to(whole, ends.shape) if views.windows is None else ends
    ends_x = np.where(views.is_mirrored[:, None], ends[:, ::-1, 0], ends[..., 0])
    sizes, device = windows.sizes_hw, images.device
    from_x = _filter_weights(ends_x, limits[..., 0], sizes[:, 1], (width, images.shape[3]), device=device)
    from_y = _filter_weights(ends[..., 1], limits[..., 1], sizes[:, 0], (height, images.shape[2]), device=device)
    narrowed = (images.flatten(1, 2) @ from_x.mT).unflatten(1, images.shape[1:3])  # (B, C, cached height, W)
    shown = from_y[:, None] @ narrowed  # (B, C, H, W)
    if cfg.pad_px:
        beyond: Tensor | None = torch.as_tensor(_beyond_resized(views, cfg), device=images.device)
    else:
        beyond = padding_mask(windows.sizes_hw, (height, width), device=images.device)
    return shown if beyond is None else shown.masked_fill_(beyond[:, None], 0.0)


def _filter_weights(
    ends: NDArray[np.float64],
    limits: NDArray[np.float64],
    sizes: NDArray[np.int64],
    shape: tuple[int, int],
    *,
    device: torch.device,
) -> Tensor:
    """How much each read pixel of one axis counts in each shown one: (B, shown, read) float32, rows that sum to 1.

    A triangle as wide as two shown pixels, and as two read ones where these are larger, around the place of each.

    Args:
        ends: (B, 2) where the first shown pixel begins and the last one ends, in read pixels; falls if mirrored.
        limits: (B, 2) between which pixels are read.
        sizes: (B,) shown pixels between the ends; those behind them continue.
        shape: shown and read pixels.
    """
    n_shown, n_read = shape
    first = np.clip(np.ceil(limits[:, :1] - 0.5), 0, n_read - 1) + 0.5  # (B, 1) centre of a pixel
    last = np.clip(np.ceil(limits[:, 1:] - 0.5) - 1, first - 0.5, n_read - 1) + 0.5
    step = (ends[:, 1:] - ends[:, :1]) / sizes[:, None]  # (B, 1) read pixels per shown one
    places = np.clip(ends[:, :1] + (np.arange(n_shown) + 0.5) * step, first, last)  # (B, shown)
    low, high, reach, centres = (
        torch.as_tensor(values, dtype=torch.float32, device=device)[..., None]
        for values in (first, last, np.maximum(1, np.abs(step)), places)
    )
    pixels = torch.arange(n_read, device=device) + 0.5
    weights = (1 - (pixels - centres).abs_().div_(reach)).clamp_(min=0)
    weights.masked_fill_((pixels < low) | (pixels > high), 0.0)
    return weights.div_(weights.sum(dim=2, keepdim=True))


def _windows_of_crops(views: Views, cfg: DataSettings) -> CropWindows:
    resized_wh, image_wh = np.array(cfg.resized_hw[::-1]), np.array(cfg.image_hw[::-1])
    left_top = np.stack([views.x, views.y], axis=1) / resized_wh  # (B, 2)
    boxes = np.concatenate([left_top, left_top + image_wh / resized_wh], axis=1)
    return CropWindows(boxes, repeated_size(cfg.image_hw, len(boxes)))


def _beyond_resized(views: Views, cfg: DataSettings) -> NDArray[np.bool_]:
    """(B, H, W), True where a crop shows none of the resized image."""
    (height, width), (resized_height, resized_width) = cfg.image_hw, cfg.resized_hw
    y = views.y[:, None] + np.arange(height)  # (B, H)
    x = views.x[:, None] + np.arange(width)  # (B, W)
    x = np.where(views.is_mirrored[:, None], x[:, ::-1], x)
    return ((y < 0) | (y >= resized_height))[:, :, None] | ((x < 0) | (x >= resized_width))[:, None, :]


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


def erase(images: Tensor, erased: NDArray[np.int64], seeds: NDArray[np.int64]) -> Tensor:
    """Fills a rectangle of each normalised image (B, C, H, W) with standard normal noise, in place.

    Args:
        erased, seeds: as of `Views`.
    """
    for image, (left, top, right, bottom), seed in zip(images, erased, seeds, strict=True):
        shape = (len(image), bottom - top, right - left)
        noise = np.random.default_rng((seed, 1)).standard_normal(shape, dtype=np.float32)
        image[:, top:bottom, left:right] = torch.from_numpy(noise)
    return images


def erased_mask(erased: NDArray[np.int64], canvas_hw: tuple[int, int], *, device: torch.device | str) -> Tensor:
    """(B, H, W) bool, True inside the rectangles (B, 4)."""
    left, top, right, bottom = torch.as_tensor(erased, device=device)[:, :, None].unbind(dim=1)  # (B, 1) each
    rows, columns = (torch.arange(side, device=device) for side in canvas_hw)
    is_row, is_column = (top <= rows) & (rows < bottom), (left <= columns) & (columns < right)  # (B, H), (B, W)
    return is_row[:, :, None] & is_column[:, None, :]


def _column(factors: NDArray[np.float32], images: Tensor) -> Tensor:
    return torch.as_tensor(factors, device=images.device).view(-1, 1, 1, 1)
