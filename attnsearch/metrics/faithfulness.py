"""Does a map say what the model looks at? Class probability while cells are taken away or put back, image by image.

Beside the usual letters, `n` is the number of cells h·w. `predict` maps normalised images (B, 3, H, W) to probabilities
(B, n_classes); it is called on batches of at most `batch_images` masked images, whatever images and steps they belong
to, and a score of one image does not depend on the others. Numbers that are undefined are NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from attnsearch.metrics.perturbation import (
    fill_images,
    removal_ranks,
    removed_counts,
    upscale_cells,
)
from attnsearch.normalisation import Fill

Predict = Callable[[Tensor], Tensor]
Protocol = Literal["standard", "br_npa"]

BATCH_IMAGES = 64
MIN_DROP = 1e-3  # between untouched and filled image; below, the fill removes no evidence and areas mean nothing


def deletion_curve(
    predict: Predict,
    images: Tensor,
    saliency: Tensor,
    target: Tensor,
    *,
    n_steps: int,
    fill: Fill | Tensor = "mean",
    batch_images: int = BATCH_IMAGES,
) -> Tensor:
    """Class probability while the most salient cells are removed.

    Args:
        images: (B, 3, H, W), normalised.
        saliency: (B, h, w), any scale; only its order within one image matters. More steps than cells means one step
            per cell, and h·w need not divide by the steps.
        target: (B,) int64, the class whose probability is followed.
        n_steps: S, number of removals; the curve has S + 1 points, the first is the untouched image.
        fill: what stands where a cell was, by name or as images (B, 3, H, W).
    Returns:
        (B, S + 1) float32 in [0, 1].
    Raises:
        ValueError: saliency has NaN, or more cells than the image has pixels.
    Source: Petsiuk et al. 2018 (arXiv 1806.07421), section 3.1. Differences: whole cells of the map are removed, and
        ties are broken by row-major position.
    """
    orders = {"deletion": removal_ranks(saliency)}
    curves = order_curves(predict, images, orders, target, n_steps=n_steps, fill=fill, batch_images=batch_images)
    return curves["deletion"]


def insertion_curve(
    predict: Predict,
    images: Tensor,
    saliency: Tensor,
    target: Tensor,
    *,
    n_steps: int,
    fill: Fill | Tensor = "mean",
    batch_images: int = BATCH_IMAGES,
) -> Tensor:
    """Class probability while cells are put back onto a filled image, the most salient first.

    It is the deletion of the least salient cells, read backwards, so that either can be had from the other where the
    fill is the same.

    Args, Returns, Raises, Source: as `deletion_curve`; the first point is the filled image, the last the untouched one.
    """
    orders = {"least": removal_ranks(saliency, reverse=True)}
    curves = order_curves(predict, images, orders, target, n_steps=n_steps, fill=fill, batch_images=batch_images)
    return curves["least"].flip(1)


def relevance_gain(
    predict: Predict,
    images: Tensor,
    saliency: Tensor,
    target: Tensor,
    *,
    n_steps: int,
    fill: Fill | Tensor = "mean",
    batch_images: int = BATCH_IMAGES,
) -> Tensor:
    """How much longer the class survives when the least salient cells go first: `symmetric_gain` of both orders.

    Args: as `deletion_curve`.
    Returns:
        (B,) float32; 0 for a map without information, negative for one that is upside down, NaN where undefined.
    Source: Blücher et al. 2024 (arXiv 2401.06654), symmetric relevance gain. Difference: on curves that are normalised
        by their ends, so that models of different confidence can be compared.
    """
    orders = {"most": removal_ranks(saliency), "least": removal_ranks(saliency, reverse=True)}
    curves = order_curves(predict, images, orders, target, n_steps=n_steps, fill=fill, batch_images=batch_images)
    fractions = curve_fractions(saliency, n_steps)
    gain = symmetric_gain(curves["most"], curves["least"], fractions)
    return torch.where(is_flat(saliency), torch.nan, gain)


@torch.no_grad()
def order_curves(
    predict: Predict,
    images: Tensor,
    orders: Mapping[str, Tensor],
    target: Tensor,
    *,
    n_steps: int,
    fill: Fill | Tensor,
    batch_images: int = BATCH_IMAGES,
) -> dict[str, Tensor]:
    """The removal curves of several orders, which share the untouched and the filled image: one pass each.

    Args:
        orders: name -> (B, h, w) ranks as `removal_ranks` gives them.
    Returns:
        name -> (B, S + 1) float32.
    """
    filled = fill if isinstance(fill, Tensor) else fill_images(images, fill)
    first = next(iter(orders.values()))
    counts = removed_counts(first[0].numel(), n_steps).to(images.device)
    n_images, n_points = len(images), len(counts)
    ends = torch.stack(
        [target_scores(predict, whole, target, batch_images=batch_images) for whole in (images, filled)], dim=1
    )  # (B, 2)
    curves: dict[str, Tensor] = {}
    for name, ranks in orders.items():
        ranks_px = upscale_cells(ranks.to(images.device), (images.shape[2], images.shape[3]))  # (B, H, W)
        curve = ends[:, :1].repeat(1, n_points)
        curve[:, -1] = ends[:, 1]
        jobs = [(image, step) for image in range(n_images) for step in range(1, n_points - 1)]
        for part in _parts(jobs, batch_images):
            rows = torch.tensor([image for image, _ in part], device=images.device)
            steps = torch.tensor([step for _, step in part], device=images.device)
            is_gone = (ranks_px[rows] < counts[steps][:, None, None])[:, None]  # (M, 1, H, W)
            masked = torch.where(is_gone, filled[rows], images[rows])
            curve[rows, steps] = _score(predict, masked, target[rows])
        curves[name] = curve
    return curves


def curve_fractions(saliency: Tensor, n_steps: int) -> Tensor:
    """(S + 1,) float32: the share of cells that is gone at each point of a curve, from 0 to 1."""
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


def normalise_curve(curve: Tensor) -> Tensor:
    """Curves (B, S + 1) moved to 1 at their first and 0 at their last point, limited to [-1, 2].

    NaN for an image whose probability does not fall by `MIN_DROP` from the first to the last point.
    """
    first, last = curve[:, :1], curve[:, -1:]
    drop = first - last
    scaled = ((curve - last) / drop.clamp_min(MIN_DROP)).clamp(-1.0, 2.0)
    return torch.where(drop < MIN_DROP, torch.nan, scaled)


def symmetric_gain(most: Tensor, least: Tensor, fractions: Tensor) -> Tensor:
    """Area of the normalised curve with the least salient cells first, minus that with the most salient first: (B,)."""
    return area(normalise_curve(least), fractions) - area(normalise_curve(most), fractions)


def deletion_gain(most: Tensor, random: Tensor, fractions: Tensor) -> Tensor:
    """Area of the normalised curve of a random order (or the mean of several), minus that of the map's order: (B,)."""
    return area(normalise_curve(random), fractions) - area(normalise_curve(most), fractions)


def step_saliency(saliency: Tensor, ranks: Tensor, n_steps: int) -> Tensor:
    """The mean saliency of the cells that each step removes: (B, S)."""
    counts = removed_counts(saliency[0].numel(), n_steps).to(saliency.device)
    sorted_ = torch.empty_like(saliency.flatten(1)).scatter_(1, ranks.flatten(1), saliency.flatten(1))
    sums = F.pad(sorted_.double().cumsum(dim=1), (1, 0))[:, counts]  # (B, S + 1)
    return (sums.diff(dim=1) / counts.diff()).to(saliency.dtype)


def correlation(changes: Tensor, saliency: Tensor) -> Tensor:
    """Pearson's correlation of each image between what steps change and how salient they are: (B,), NaN if constant.

    For deletion, changes are the falls of the probability, `-curve.diff(dim=1)`; for insertion its rises. Saliency is
    that of `step_saliency`.

    Args:
        changes, saliency: (B, S).
    Source: Gomez et al. 2022 (arXiv 2201.13291), DC and IC.
    """
    x, y = (values.double() - values.double().mean(dim=1, keepdim=True) for values in (changes, saliency))
    spread = x.norm(dim=1) * y.norm(dim=1)
    scale = changes.double().abs().amax(dim=1) * saliency.double().abs().amax(dim=1)
    is_constant = spread <= 1e-9 * scale.clamp_min(1e-30)
    return torch.where(is_constant, torch.nan, (x * y).sum(dim=1) / spread).float()


@dataclass(frozen=True)
class AverageDrop:
    """What keeping, or removing, the salient part does to the probability of the class; each (B,) float32.

    Attributes:
        drop: share of the probability that is lost when only the salient part is kept, in [0, 1]; lower is better.
        increase: 1 where it rises instead, else 0; its mean is the increase in confidence.
        deletion_drop: share that is lost when the salient part is removed; higher is better, negative if it rises.
    """

    drop: Tensor
    increase: Tensor
    deletion_drop: Tensor


@torch.no_grad()
def average_drop(
    predict: Predict,
    images: Tensor,
    saliency: Tensor,
    target: Tensor,
    *,
    fill: Fill | Tensor = "mean",
    batch_images: int = BATCH_IMAGES,
) -> AverageDrop:
    """Drop, increase and drop in deletion, with the map itself, scaled to [0, 1], as a soft mask; NaN for flat maps.

    Args: as `deletion_curve`.
    Source: Chattopadhyay et al. 2018 (arXiv 1710.11063), Jung and Oh 2021 (arXiv 2102.05228).
    """
    filled = fill if isinstance(fill, Tensor) else fill_images(images, fill)
    flat = is_flat(saliency)
    low, high = saliency.amin(dim=(1, 2), keepdim=True), saliency.amax(dim=(1, 2), keepdim=True)
    scaled = (saliency - low) / torch.where(flat[:, None, None], 1.0, high - low)
    mask = F.interpolate(scaled[:, None].float(), size=images.shape[2:], mode="bilinear", align_corners=False)
    mask = mask.to(images.device)
    whole, kept, removed = (
        target_scores(predict, shown, target, batch_images=batch_images)
        for shown in (images, mask * images + (1 - mask) * filled, (1 - mask) * images + mask * filled)
    )
    floor = whole.clamp_min(torch.finfo(torch.float32).tiny)
    drops = ((whole - kept).clamp_min(0) / floor, (kept > whole).float(), (whole - removed) / floor)
    return AverageDrop(*(torch.where(flat.to(value.device), torch.nan, value) for value in drops))


def is_flat(saliency: Tensor) -> Tensor:
    """(B,) bool: maps whose cells are all equal, which have no order."""
    return saliency.amax(dim=(1, 2)) == saliency.amin(dim=(1, 2))


def _score(predict: Predict, images: Tensor, target: Tensor) -> Tensor:
    return predict(images).float().gather(1, target[:, None])[:, 0]


def target_scores(predict: Predict, images: Tensor, target: Tensor, *, batch_images: int = BATCH_IMAGES) -> Tensor:
    """The probability of each image's class: (B,)."""
    starts = range(0, len(images), batch_images)
    parts = [slice(start, start + batch_images) for start in starts]
    return torch.cat([_score(predict, images[part], target[part]) for part in parts])


def _parts(jobs: list[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    for start in range(0, len(jobs), size):
        yield jobs[start : start + size]
