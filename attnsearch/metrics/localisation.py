"""Localisation: maps against regions (masks or boxes) and against the points of parts, image by image.

Maps are (B, h, w) and not negative; regions are (B, H, W) bool in the pixels of the model's input, which the map covers
evenly. A number is NaN where the region is empty, or where a flat map points nowhere.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from attnsearch.metrics.base import BestSetting, WholeArchive
from attnsearch.metrics.perturbation import SaliencyCase
from attnsearch.metrics.removal import is_flat, removal_ranks, upscale_cells
from attnsearch.types import Region

THRESHOLDS = tuple(tenth / 10 for tenth in range(1, 10))
"""Fractions of the map's maximum that the best IoU is chosen from; 0.5 is the fixed one."""
PART_HALF_SIDE = 36 / 224  # of the image's side, as Huang et al. 2023 place their boxes
PART_FRACTION = 0.8


def pointing_game(saliency: Tensor, regions: Tensor) -> Tensor:
    """1 where the most salient cell, the first of equals, touches the region, else 0: (B,) float32.

    Source: Zhang et al. 2018 (IJCV, pointing game). Difference: the point is a whole cell of the map, and not a circle
        of 15 pixels.
    """
    is_peak = upscale_cells(removal_ranks(saliency) == 0, _size(regions))  # (B, H, W)
    hit = (is_peak & regions).flatten(1).any(dim=1).float()
    return torch.where(_is_undefined(saliency, regions), torch.nan, hit)


def energy_in_region(saliency: Tensor, regions: Tensor) -> Tensor:
    """The fraction of all saliency that lies inside the region: (B,). A uniform map scores the region's relative area.

    Source: Wang et al. 2020 (Score-CAM), energy-based pointing game.
    """
    pixels = upscale_cells(saliency.double(), _size(regions))
    total = pixels.sum(dim=(1, 2))
    inside = (pixels * regions).sum(dim=(1, 2))
    is_empty = ~regions.flatten(1).any(dim=1)
    return torch.where(is_empty | (total <= 0), torch.nan, inside / total).float()


def rank_in_region(saliency: Tensor, regions: Tensor) -> Tensor:
    """Of the k most salient cells, the fraction that touches the region, which touches k cells: (B,).

    Source: Arras et al. 2022 (CLEVR-XAI), relevance rank accuracy, on cells.
    """
    touched = touched_cells(saliency, regions)  # (B, h, w)
    n_touched = touched.sum(dim=(1, 2))
    is_top = removal_ranks(saliency) < n_touched[:, None, None]
    fraction = (is_top & touched).sum(dim=(1, 2)) / n_touched.clamp_min(1)
    return torch.where(_is_undefined(saliency, regions), torch.nan, fraction)


def iou(saliency: Tensor, regions: Tensor, *, threshold: float = 0.5) -> Tensor:
    """Intersection over union of the region and the pixels of at least `threshold` of the map's maximum: (B,)."""
    pixels = upscale_cells(saliency, _size(regions))
    is_salient = pixels >= threshold * saliency.amax(dim=(1, 2), keepdim=True)
    both = (is_salient & regions).sum(dim=(1, 2))
    either = (is_salient | regions).sum(dim=(1, 2))
    return torch.where(_is_undefined(saliency, regions), torch.nan, both / either.clamp_min(1))


def iou_by_threshold(saliency: Tensor, regions: Tensor) -> Tensor:
    """`iou` at each of `THRESHOLDS`: (B, M)."""
    return torch.stack([iou(saliency, regions, threshold=threshold) for threshold in THRESHOLDS], dim=1)


def parts_in_box(saliency: Tensor, points: Tensor, *, size_hw: tuple[int, int]) -> Tensor:
    """Which part points lie in a square around the most salient cell's middle: (B, P) float32, NaN where hidden.

    Args:
        points: (B, P, 2) x, y in input pixels, NaN where a part is hidden.
        size_hw: of the input; the square reaches 36 / 224 of each side in each direction.
    Source: Huang et al. 2023 (arXiv 2212.05946), section on consistency. Difference: the middle of the cell, not the
        maximum of a cubic interpolation.
    """
    rows, columns = saliency.shape[1:]
    peak = saliency.flatten(1).argmax(dim=1)
    middle = torch.stack([(peak % columns + 0.5) / columns, (peak // columns + 0.5) / rows], dim=1).double()
    sides = torch.tensor(size_hw[::-1], dtype=torch.float64, device=saliency.device)
    away = (points.to(saliency.device).double() / sides - middle[:, None]).abs()  # (B, P, 2)
    inside = (away <= PART_HALF_SIDE).all(dim=2).float()
    is_hidden = torch.isnan(away).any(dim=2) | is_flat(saliency)[:, None]
    return torch.where(is_hidden, torch.nan, inside)


def pointing_at_part(saliency: Tensor, points: Tensor, *, size_hw: tuple[int, int]) -> Tensor:
    """1 where a visible part lies in the square of `parts_in_box`, else 0: (B,); NaN without visible parts."""
    inside = parts_in_box(saliency, points, size_hw=size_hw)
    hit = inside.nan_to_num(0.0).amax(dim=1)
    return torch.where(torch.isnan(inside).all(dim=1), torch.nan, hit)


def part_consistency(inside: Tensor, labels: Tensor) -> float:
    """The fraction of classes whose map keeps to one part: one is in the square in 80 % of the images that show it.

    Args:
        inside: (N, P), from `parts_in_box`, of one map of every image.
        labels: (N,) int64.
    Returns:
        In [0, 1]; NaN without a class that shows a part.
    Source: Huang et al. 2023 (arXiv 2212.05946), consistency score.
    """
    keeps = []
    for label in sorted(set(labels.tolist())):
        of_class = inside[labels == label]
        rates = of_class.nanmean(dim=0)  # (P,)
        if not torch.isnan(rates).all():
            keeps.append(float((rates.nan_to_num(0.0) >= PART_FRACTION).any()))
    return sum(keeps) / len(keeps) if keeps else float("nan")


def touched_cells(saliency: Tensor, regions: Tensor) -> Tensor:
    """(B, h, w) bool: cells of the grid of maps (B, h, w) with at least one pixel of the region (B, H, W)."""
    rows, columns = saliency.shape[1:]
    cells = torch.arange(rows * columns, device=regions.device).view(1, rows, columns)
    cell_of = upscale_cells(cells, _size(regions)).flatten()  # (H * W,)
    touched = torch.zeros(len(regions), rows * columns, device=regions.device)
    touched.index_add_(1, cell_of, regions.flatten(1).float())
    return (touched > 0).view_as(saliency)


def _is_undefined(saliency: Tensor, regions: Tensor) -> Tensor:
    """(B,) bool: a map without order, or an empty region."""
    return is_flat(saliency) | ~regions.flatten(1).any(dim=1)


def _size(regions: Tensor) -> tuple[int, int]:
    """(H, W) of regions (B, H, W)."""
    return regions.shape[1], regions.shape[2]


Metric = Callable[[SaliencyCase], Tensor]


def _in(region: Region, measure: Callable[[Tensor, Tensor], Tensor]) -> Metric:
    """A function of maps (B, h, w) and regions as one of a case."""
    return lambda case: measure(case.saliency, case.region(region))


pointing_in_mask_of, pointing_in_box_of = _in("masks", pointing_game), _in("boxes", pointing_game)
energy_in_mask_of, energy_in_box_of = _in("masks", energy_in_region), _in("boxes", energy_in_region)
rank_in_mask_of = _in("masks", rank_in_region)
iou_in_mask_of, iou_in_box_of = _in("masks", iou), _in("boxes", iou)
best_iou_in_mask = BestSetting("iou_in_mask", THRESHOLDS, _in("masks", iou_by_threshold))
best_iou_in_box = BestSetting("iou_in_box", THRESHOLDS, _in("boxes", iou_by_threshold))


def pointing_at_part_of(case: SaliencyCase) -> Tensor:
    """(B,), see `pointing_at_part`."""
    return pointing_at_part(case.saliency, case.region("points"), size_hw=case.regions.size_hw)


def _part_consistency_of(case: SaliencyCase, labels: Tensor) -> float:
    inside = parts_in_box(case.saliency, case.region("points"), size_hw=case.regions.size_hw)  # (N, P)
    return part_consistency(inside, labels)


whole_part_consistency = WholeArchive(_part_consistency_of, has_floors=True)
