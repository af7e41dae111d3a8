"""IDSDS: what each of 16 cells is worth when it alone is deleted, against what the map says of it.

A deleted cell is foreign to a model that never saw one in training: to compare models, train all with
`data.cell_deletion` 0.5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attnsearch.metrics.perturbation import SaliencyCase
from attnsearch.metrics.removal import upscale_cells
from attnsearch.metrics.statistics import rank_correlation
from attnsearch.types import DELETION_CELLS


def idsds_of(case: SaliencyCase) -> Tensor:
    """Spearman's correlation over 16 cells of the drop of the class's logit and what the map holds, (B,); 0 at random.

    NaN where the map, or the drop, is the same in all cells.

    Source: Hesse et al. 2024 (arXiv 2407.11910), in-domain single deletion score. Differences: the class is that of the
        settings, by default the predicted one; a NaN is left out and counted, where the released code keeps it.
    """
    height, width = case.images.shape[2:]
    cells = torch.arange(DELETION_CELLS**2, device=case.images.device).view(DELETION_CELLS, DELETION_CELLS)
    cell_of_pixel = upscale_cells(cells, (height, width))  # (H, W)
    filled, untouched = case.filled("mean"), case.untouched_of("logit")  # (B, 3, H, W), (B,)
    copies = (torch.where(cell_of_pixel == cell, filled, case.images) for cell in range(DELETION_CELLS**2))
    drops = torch.stack([untouched - case.scores(copy, of="logit") for copy in copies], dim=1)  # (B, 16)
    means = _means_of_cells(upscale_cells(case.saliency.double(), (height, width)), cell_of_pixel)  # (B, 16)
    found = rank_correlation(drops.cpu().numpy(), means.cpu().numpy())
    return case.unless_flat(torch.from_numpy(found).to(drops))


def _means_of_cells(pixels: Tensor, cell_of_pixel: Tensor) -> Tensor:
    """(B, 16) the mean of maps (B, H, W) over the pixels of each cell, rounded so that equal cells are ties.

    Means have the order of sums where four divides the sides, and elsewhere do not prefer the larger cells.
    """
    sums = pixels.new_zeros(len(pixels), DELETION_CELLS**2).index_add_(1, cell_of_pixel.flatten(), pixels.flatten(1))
    means = sums / torch.bincount(cell_of_pixel.flatten(), minlength=DELETION_CELLS**2)
    largest = means.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(means.dtype).tiny)
    return (means / largest).round(decimals=9)
