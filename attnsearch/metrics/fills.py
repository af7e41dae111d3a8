"""What stands where cells of an image were removed."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from attnsearch.errors import UsageError
from attnsearch.types import IMAGENET_MEAN, IMAGENET_STD, Fill

BR_NPA_BLUR_PX = 121


def fill_images(images: Tensor, fill: Fill | Literal["box"]) -> Tensor:
    """What is seen where nothing is left of normalised images: (B, 3, H, W) of (B, 3, H, W).

    `mean` is ImageNet's mean colour, which is 0 after normalisation; `black` and `white` are the limits of a pixel;
    `blur` is a Gaussian of a deviation of H / 20; `box` is BR-NPA's blur.
    """
    if fill == "box":
        return box_blur(images)
    if fill == "mean":
        return torch.zeros_like(images)
    if fill == "blur":
        return gaussian_blur(images, sigma_px=images.shape[2] / 20)
    level = 1.0 if fill == "white" else 0.0
    mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((level - mean) / std).expand_as(images).clone()


def box_blur(images: Tensor, side_px: int = BR_NPA_BLUR_PX) -> Tensor:
    """The mean over a square of an odd side around each pixel of (B, 3, H, W), zeros beyond the border.

    Source: BR-NPA (Gomez et al. 2022), released code, with 121 pixels whatever the image's size.
    """
    if side_px % 2 == 0 or side_px < 1:
        raise UsageError(f"side_px must be odd and positive, got {side_px}")
    kernel = torch.full((side_px,), 1 / side_px, device=images.device)
    return _convolve(images, kernel, is_reflected=False)


def gaussian_blur(images: Tensor, *, sigma_px: float) -> Tensor:
    """A Gaussian blur of (B, 3, H, W), cut off at three deviations; the border is reflected."""
    radius = max(1, round(3 * sigma_px))
    steps = torch.arange(-radius, radius + 1, device=images.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (steps / sigma_px) ** 2)
    return _convolve(images, kernel / kernel.sum(), is_reflected=True)


def _convolve(images: Tensor, kernel: Tensor, *, is_reflected: bool) -> Tensor:
    """Images (B, 3, H, W) under one kernel (2 radius + 1,), along the columns and then along the rows."""
    radius, n_channels = len(kernel) // 2, images.shape[1]
    for axis in (2, 3):
        shape = (1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1)
        weights = kernel.to(images.dtype).view(shape).expand(n_channels, -1, -1, -1)
        padding = (0, 0, radius, radius) if axis == 2 else (radius, radius, 0, 0)
        can_reflect = is_reflected and radius < images.shape[axis]
        padded = F.pad(images, padding, mode="reflect" if can_reflect else "replicate" if is_reflected else "constant")
        images = F.conv2d(padded, weights, groups=n_channels)
    return images
