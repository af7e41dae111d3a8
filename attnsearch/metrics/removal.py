"""In which order the cells of a map are removed, how many at a time, and the area under what is measured meanwhile.

In shapes, `B` is a batch of images of (H, W) pixels with maps of (h, w) cells, `n` the number h·w of cells, and `S` the
number of steps of a curve.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from attnsearch.errors import UsageError

Protocol = Literal["standard", "br_npa"]

EVEN_STEPS = 16
"""Of a curve whose steps must be alike, where the settings name no number."""


def removal_ranks(saliency: Tensor, *, reverse: bool = False) -> Tensor:
    """When each cell is removed: 0 is the most salient one, ties go by row-major position.

    Args:
        saliency: (B, h, w), any scale.
        reverse: the least salient cell first; the exact reverse of the other order, ties included.
    Returns:
        (B, h, w) int64, a permutation of 0 to n - 1 for each image.
    Raises:
        UsageError: saliency has NaN.
    """
    if torch.isnan(saliency).any():
        raise UsageError("saliency has NaN; score the other images, and count these")
    order = saliency.flatten(1).argsort(dim=1, descending=True, stable=True)  # (B, n)
    ranks = order.argsort(dim=1)  # the inverse of a permutation: when each cell comes
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
    return torch.stack(orders).to(saliency.device).argsort(dim=1).view_as(saliency)


SEVEN_POINTS = (0, 1, 3, 8, 13, 15, 16)
"""Sixteenths of the cells that are removed at the points of a short curve.

They are dense where curves are steep, and symmetric: a set that favours one end would integrate the two orders of a
gain with different weights, and so count the shape of the curves as information of the map.
"""


def removed_counts(n_cells: int, n_steps: int | None) -> Tensor:
    """How many cells are gone at each point of a curve: (S + 1,) int64 from 0 to n_cells.

    Args:
        n_steps: S >= 1, as even as can be; more steps than cells means one step per cell. None means the points of
            `SEVEN_POINTS`, or one step per cell where there are at most 16.
    """
    if (n_steps is not None and n_steps < 1) or n_cells < 1:
        raise UsageError(f"a curve needs at least one step and one cell, got {n_steps} and {n_cells}")
    if n_steps is None and n_cells > SEVEN_POINTS[-1]:
        counts = {(point * n_cells + 8) // 16 for point in SEVEN_POINTS}
        return torch.tensor(sorted(counts | {n_cells - count for count in counts}))
    n_steps = min(n_steps or n_cells, n_cells)
    return (2 * torch.arange(n_steps + 1) * n_cells + n_steps) // (2 * n_steps)


def upscale_cells(cells: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Cells (B, ..., h, w) as squares of pixels (B, ..., H, W); borders lie at rounded multiples of H / h and W / w.

    Raises:
        UsageError: a map with more rows or columns than the image has pixels.
    """
    height, width = size_hw
    rows, columns = cells.shape[-2:]
    if rows > height or columns > width:
        raise UsageError(f"a map of {rows} x {columns} cells is larger than its image of {height} x {width} pixels")
    return cells[..., _cell_of_pixel(rows, height, cells.device)[:, None], _cell_of_pixel(columns, width, cells.device)]


def _cell_of_pixel(n_cells: int, n_px: int, device: torch.device) -> Tensor:
    """(n_px,) int64: the cell that each pixel of a side belongs to."""
    borders = (2 * torch.arange(1, n_cells, device=device) * n_px + n_cells) // (2 * n_cells)
    return torch.searchsorted(borders, torch.arange(n_px, device=device), right=True)


def is_flat(saliency: Tensor) -> Tensor:
    """(B,) bool: maps (B, h, w) whose cells are all equal, which have no order."""
    return saliency.amax(dim=(1, 2)) == saliency.amin(dim=(1, 2))


def curve_fractions(saliency: Tensor, n_steps: int | None) -> Tensor:
    """(S + 1,) float32: the fraction of the cells of (B, h, w) that is removed at each point of a curve, 0 to 1."""
    n_cells = saliency[0].numel()
    return removed_counts(n_cells, n_steps).to(device=saliency.device, dtype=torch.float32) / n_cells


def area(curve: Tensor, fractions: Tensor, *, protocol: Protocol = "standard") -> Tensor:
    """Area under curves (B, S + 1), by the trapezoid rule over the true fractions (S + 1,): (B,).

    Args:
        protocol: `standard` counts all points; `br_npa` leaves the first one out and stretches the rest to [0, 1], as
            BR-NPA's released code does, for comparison with its tables alone.
    """
    if protocol == "br_npa":
        curve, fractions = curve[:, 1:], fractions[1:]
        fractions = (fractions - fractions[0]) / (fractions[-1] - fractions[0])
    return torch.trapezoid(curve, fractions.expand_as(curve), dim=1)
