"""Does a map say what the model looks at? Scores of removed cells, image by image; undefined numbers are NaN.

Functions whose name ends in `_of` are metrics of a `SaliencyCase`, which the product runs; those that take `predict`
make the case themselves. `predict` maps normalised images (M, 3, H, W) to probabilities (M, n_classes); it is called on
at most `batch_images` masked images at once, whatever images and steps they belong to.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from attnsearch.metrics.perturbation import (
    BATCH_IMAGES,
    Predict,
    RemovalSettings,
    SaliencyCase,
    area,
    is_flat,
    removal_ranks,
    removed_counts,
)
from attnsearch.types import Fill

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
        (B, S + 1) float32 in [0, 1]; NaN for a flat map, which has no order.
    Raises:
        ValueError: saliency has NaN, or more cells than the image has pixels.
    Source: Petsiuk et al. 2018 (arXiv 1806.07421), section 3.1. Differences: whole cells of the map are removed, and
        ties are broken by row-major position.
    """
    settings = RemovalSettings(n_steps=n_steps, fill=fill, batch_images=batch_images)
    return SaliencyCase.of_class(predict, images, saliency, target, settings).curve("deletion")


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
    """Class probability while cells are put back onto a filled image, the most salient first: (B, S + 1).

    Args, Returns, Raises, Source: as `deletion_curve`; the first point is the filled image, the last the untouched one.
    """
    settings = RemovalSettings(n_steps=n_steps, fill=fill, batch_images=batch_images)
    return SaliencyCase.of_class(predict, images, saliency, target, settings).curve("insertion")


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
    """How much longer the class survives when the least salient cells are removed first: `symmetric_gain`.

    Args: as `deletion_curve`.
    Returns:
        (B,) float32; 0 for a map without information, negative for one that is upside down, NaN where undefined.
    Source: Blücher et al. 2024 (arXiv 2401.06654), symmetric relevance gain. Difference: on curves that are normalised
        by their ends, so that models of different confidence can be compared.
    """
    settings = RemovalSettings(n_steps=n_steps, fill=fill, batch_images=batch_images)
    return relevance_gain_of(SaliencyCase.of_class(predict, images, saliency, target, settings))


def relevance_gain_of(case: SaliencyCase) -> Tensor:
    """(B,), see `symmetric_gain`."""
    return symmetric_gain(case.curve("deletion"), case.curve("least_first"), case.fractions)


def deletion_gain_of(case: SaliencyCase) -> Tensor:
    """(B,), see `deletion_gain`."""
    return deletion_gain(case.curve("deletion"), case.curve("random_deletion"), case.fractions)


def deletion_of(case: SaliencyCase) -> Tensor:
    """Raw area with the most salient cells removed first: (B,)."""
    return case.area("deletion")


def insertion_of(case: SaliencyCase) -> Tensor:
    """Raw area with the most salient cells put back first: (B,)."""
    return case.area("insertion")


def random_deletion_of(case: SaliencyCase) -> Tensor:
    """Raw area with cells removed in random order: (B,), also of a flat map."""
    return case.area("random_deletion")


def masked_score_of(case: SaliencyCase) -> Tensor:
    """The score that is left when all cells are removed: (B,), also of a flat map."""
    return case.masked_score()


def deletion_correlation_of(case: SaliencyCase) -> Tensor:
    """Between the fall of the curve in each step and the mean saliency that the step removes: (B,)."""
    falls = -case.curve("deletion").diff(dim=1)  # (B, S)
    return correlation(falls, step_saliency(case.saliency, removal_ranks(case.saliency), case.settings.n_steps))


def insertion_correlation_of(case: SaliencyCase) -> Tensor:
    """Between the rise of the curve in each step and the mean saliency that the step puts back: (B,)."""
    rises = case.curve("insertion").diff(dim=1)  # (B, S)
    ranks = removal_ranks(case.saliency, reverse=True)
    return correlation(rises, step_saliency(case.saliency, ranks, case.settings.n_steps).flip(1))


def average_drop_of(case: SaliencyCase) -> Tensor:
    """Fraction of the score that is lost when only the salient part is kept: (B,)."""
    return soft_masking(case).drop


def average_increase_of(case: SaliencyCase) -> Tensor:
    """1 where the score rises when only the salient part is kept, else 0: (B,)."""
    return soft_masking(case).increase


def average_deletion_drop_of(case: SaliencyCase) -> Tensor:
    """Fraction of the score that is lost when the salient part is removed: (B,)."""
    return soft_masking(case).deletion_drop


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
        drop: fraction of the probability that is lost when only the salient part is kept, in [0, 1]; lower is better.
        increase: 1 where it rises instead, else 0; its mean is the increase in confidence.
        deletion_drop: fraction that is lost when the salient part is removed; higher is better, negative if it rises.
    """

    drop: Tensor
    increase: Tensor
    deletion_drop: Tensor


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

    Args: as `deletion_curve`, images (B, 3, H, W) and saliency (B, h, w).
    Source: Chattopadhyay et al. 2018 (arXiv 1710.11063), Jung and Oh 2021 (arXiv 2102.05228).
    """
    settings = RemovalSettings(fill=fill, batch_images=batch_images)
    return soft_masking(SaliencyCase.of_class(predict, images, saliency, target, settings))


def soft_masking(case: SaliencyCase) -> AverageDrop:
    """The three drops of a case, made once."""
    return case.once(("soft masking", case.settings.fill), lambda: _soft_masking(case))


def _soft_masking(case: SaliencyCase) -> AverageDrop:
    images, saliency, filled = case.images, case.saliency, case.filled()  # (B, 3, H, W), (B, h, w), (B, 3, H, W)
    low, high = saliency.amin(dim=(1, 2), keepdim=True), saliency.amax(dim=(1, 2), keepdim=True)
    scaled = (saliency - low) / torch.where(is_flat(saliency)[:, None, None], 1.0, high - low)
    mask = F.interpolate(scaled[:, None].float(), size=images.shape[2:], mode="bilinear", align_corners=False)
    mask = mask.to(images.device)  # (B, 1, H, W)
    whole = case.untouched  # (B,)
    only_salient = case.scores(mask * images + (1 - mask) * filled)
    without_salient = case.scores((1 - mask) * images + mask * filled)
    floor = whole.clamp_min(torch.finfo(torch.float32).tiny)
    drops = (
        (whole - only_salient).clamp_min(0) / floor,
        (only_salient > whole).float(),
        (whole - without_salient) / floor,
    )
    return AverageDrop(*map(case.unless_flat, drops))
