"""From cached bytes to normalised model inputs, a batch at a time on the training device."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
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
    """Crops and flips by bilinear interpolation, where a view is not a copy of cached pixels.

    Args:
        images: (B, C, cached height, cached width) float, whole cached images.

    Returns:
        (B, C, H, W) float; for windows of several sizes H and W are the largest, and what lies beyond a window is 0,
        as is what lies beyond the resized image under `pad_px`.
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
    if cfg.pad_px:
        beyond: Tensor | None = torch.as_tensor(_beyond_resized(views, cfg), device=images.device)
    else:
        beyond = padding_mask(windows.sizes_hw, (height, width), device=images.device)
    return shown if beyond is None else shown.masked_fill_(beyond[:, None], 0.0)


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
