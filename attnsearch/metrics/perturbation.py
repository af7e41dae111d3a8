"""Pictures with some cells of a map's grid taken away: in which order, how many at a time, what stands there instead.

Beside the usual letters, `n` is the number of cells h·w of a map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from attnsearch.normalisation import IMAGENET_MEAN, IMAGENET_STD, Fill

BR_NPA_BLUR_PX = 121


def removal_ranks(saliency: Tensor, *, reverse: bool = False) -> Tensor:
    """When each cell is removed: 0 is the most salient one, ties go by row-major position.

    Args:
        saliency: (B, h, w), any scale.
        reverse: the least salient cell first; the exact reverse of the other order, ties included.
    Returns:
        (B, h, w) int64, a permutation of 0 to n - 1 for each image.
    Raises:
        ValueError: saliency has NaN.
    """
    if torch.isnan(saliency).any():
        raise ValueError("saliency has NaN; score the other images, and count these")
    order = saliency.flatten(1).argsort(dim=1, descending=True, stable=True)  # (B, n)
    ranks = _inverse(order)
    if reverse:
        ranks = order.shape[1] - 1 - ranks
    return ranks.view_as(saliency)


def random_ranks(saliency: Tensor, seeds: Tensor) -> Tensor:
    """A random order for each image, drawn from its own seed: (B, h, w), like `removal_ranks`.

    Args:
        seeds: (B,) int64, so that an order does not depend on the batch.
    """
    n_cells = saliency[0].numel()
    orders = [torch.randperm(n_cells, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
    return _inverse(torch.stack(orders).to(saliency.device)).view_as(saliency)


def _inverse(order: Tensor) -> Tensor:
    positions = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, positions)


def removed_counts(n_cells: int, n_steps: int) -> Tensor:
    """How many cells are gone at each point of a curve: (S + 1,) int64 from 0 to n_cells, as even as can be.

    Args:
        n_steps: S >= 1; more steps than cells means one step per cell.
    """
    if n_steps < 1 or n_cells < 1:
        raise ValueError(f"a curve needs at least one step and one cell, got {n_steps} and {n_cells}")
    n_steps = min(n_steps, n_cells)
    return (2 * torch.arange(n_steps + 1) * n_cells + n_steps) // (2 * n_steps)


def upscale_cells(cells: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Cells (B, ..., h, w) as squares of pixels (B, ..., H, W); borders lie at rounded multiples of H / h and W / w.

    Raises:
        ValueError: a map with more rows or columns than the image has pixels.
    """
    height, width = size_hw
    rows, columns = cells.shape[-2:]
    if rows > height or columns > width:
        raise ValueError(f"a map of {rows} x {columns} cells is larger than its image of {height} x {width} pixels")
    return cells[..., _cell_of_pixel(rows, height, cells.device)[:, None], _cell_of_pixel(columns, width, cells.device)]


def _cell_of_pixel(n_cells: int, n_px: int, device: torch.device) -> Tensor:
    borders = (2 * torch.arange(1, n_cells, device=device) * n_px + n_cells) // (2 * n_cells)
    return torch.searchsorted(borders, torch.arange(n_px, device=device), right=True)


def fill_images(images: Tensor, fill: Fill) -> Tensor:
    """What is seen where nothing is left of normalised images (B, 3, H, W).

    `mean` is ImageNet's mean colour, which is 0 after normalisation; `black` and `white` are those of the picture;
    `blur` is a Gaussian of a deviation of H / 20.
    """
    if fill == "mean":
        return torch.zeros_like(images)
    if fill == "blur":
        return gaussian_blur(images, sigma_px=images.shape[2] / 20)
    level = 1.0 if fill == "white" else 0.0
    mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((level - mean) / std).expand_as(images).clone()


def box_blur(images: Tensor, side_px: int = BR_NPA_BLUR_PX) -> Tensor:
    """The mean over a square of an odd side around each pixel, zeros beyond the border.

    Source: BR-NPA (Gomez et al. 2022), released code, with 121 pixels whatever the image's size.
    """
    if side_px % 2 == 0 or side_px < 1:
        raise ValueError(f"side_px must be odd and positive, got {side_px}")
    kernel = torch.full((side_px,), 1 / side_px, device=images.device)
    return _convolve(images, kernel, is_reflected=False)


def gaussian_blur(images: Tensor, *, sigma_px: float) -> Tensor:
    """A Gaussian blur cut off at three deviations; the border is reflected."""
    radius = max(1, round(3 * sigma_px))
    steps = torch.arange(-radius, radius + 1, device=images.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (steps / sigma_px) ** 2)
    return _convolve(images, kernel / kernel.sum(), is_reflected=True)


def _convolve(images: Tensor, kernel: Tensor, *, is_reflected: bool) -> Tensor:
    """One kernel along both axes, as one after the other."""
    radius, n_channels = len(kernel) // 2, images.shape[1]
    for axis in (2, 3):
        shape = (1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1)
        weights = kernel.to(images.dtype).view(shape).expand(n_channels, -1, -1, -1)
        padding = (0, 0, radius, radius) if axis == 2 else (radius, radius, 0, 0)
        can_reflect = is_reflected and radius < images.shape[axis]
        padded = F.pad(images, padding, mode="reflect" if can_reflect else "replicate" if is_reflected else "constant")
        images = F.conv2d(padded, weights, groups=n_channels)
    return images
