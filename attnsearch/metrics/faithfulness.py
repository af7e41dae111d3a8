"""Faithfulness of a map to its model: scores of removed cells, image by image; undefined numbers are NaN.

Functions whose name ends in `_of` are metrics of a `SaliencyCase`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from attnsearch.metrics.base import RatioOfMeans
from attnsearch.metrics.perturbation import Order, SaliencyCase
from attnsearch.metrics.removal import area, is_flat, removal_ranks, removed_counts
from attnsearch.types import Followed


def _over_deletion(order: Order, *, of: Followed = "score") -> RatioOfMeans:
    """The area under the curve of an order, minus that of removing the most salient cells first."""

    def measure(case: SaliencyCase) -> Tensor:
        other, most_first = (area(case.curve(name, of=of), case.fractions) for name in (order, "deletion"))
        is_ordered = ~is_flat(case.saliency).to(other.device)
        return torch.stack([torch.where(is_ordered, other - most_first, 0.0), *case.ends(of)], dim=1)  # (B, 3)

    return RatioOfMeans(measure)


relevance_gain = _over_deletion("least_first")
"""How much longer the score lasts with the least salient cells removed first than with the most salient, as a fraction
of what all cells together are worth: 0 for a map without information, negative for one that is upside down.

Source: Blücher et al. 2024 (arXiv 2401.06654), symmetric relevance gain. Difference: it is divided by the mean drop, so
that models of different confidence can be compared.
"""
decision_gain = _over_deletion("least_first", of="decision")
"""The same of whether the decision still holds, which no increasing map of an image's logits can change."""
calibrated_gain = _over_deletion("least_first", of="calibrated")
"""The same of the probability under the temperature that calibrates the model on validation."""
deletion_gain = _over_deletion("random_deletion")
"""How much longer the score lasts with cells removed in random order than with the most salient first."""
ap_relevance_gain = _over_deletion("least_first", of="average_precision")
"""As `relevance_gain`, of the average precision with which the masked image ranks the gallery."""
ap_deletion_gain = _over_deletion("random_deletion", of="average_precision")
"""As `deletion_gain`, of the average precision with which the masked image ranks the gallery."""


def deletion_of(case: SaliencyCase) -> Tensor:
    """Raw area with the most salient cells removed first: (B,).

    Source: Petsiuk et al. 2018 (arXiv 1806.07421), section 3.1. Differences: whole cells of the map are removed, and
        ties are broken by row-major position.
    """
    return case.area("deletion")


def insertion_of(case: SaliencyCase) -> Tensor:
    """Raw area with the most salient cells put back first: (B,); source as `deletion_of`."""
    return case.area("insertion")


def random_deletion_of(case: SaliencyCase) -> Tensor:
    """Raw area with cells removed in random order: (B,), also of a flat map."""
    return case.area("random_deletion")


def untouched_score_of(case: SaliencyCase) -> Tensor:
    """The score of the image itself: (B,), also of a flat map."""
    return case.untouched


def masked_score_of(case: SaliencyCase) -> Tensor:
    """The score that is left when all cells are removed: (B,), also of a flat map."""
    return case.masked_score()


def deletion_correlation_of(case: SaliencyCase) -> Tensor:
    """Between the fall of the curve in each step and the mean saliency that the step removes: (B,)."""
    case = case.in_even_steps()
    falls = -case.curve("deletion").diff(dim=1)  # (B, S)
    return correlation(falls, step_saliency(case.saliency, removal_ranks(case.saliency), case.settings.n_steps))


def insertion_correlation_of(case: SaliencyCase) -> Tensor:
    """Between the rise of the curve in each step and the mean saliency that the step puts back: (B,)."""
    case = case.in_even_steps()
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


def step_saliency(saliency: Tensor, ranks: Tensor, n_steps: int | None) -> Tensor:
    """The mean saliency of the cells that each step removes: (B, S)."""
    counts = removed_counts(saliency[0].numel(), n_steps).to(saliency.device)
    sorted_ = torch.empty_like(saliency.flatten(1)).scatter_(1, ranks.flatten(1), saliency.flatten(1))
    sums = F.pad(sorted_.double().cumsum(dim=1), (1, 0))[:, counts]  # (B, S + 1)
    return (sums.diff(dim=1) / counts.diff()).to(saliency.dtype)


def correlation(changes: Tensor, saliency: Tensor) -> Tensor:
    """Pearson's correlation of each image between what steps change and how salient they are: (B,), NaN if constant.

    For deletion, changes are the falls of the score, `-curve.diff(dim=1)`; for insertion its rises. Saliency is
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


def soft_masking(case: SaliencyCase) -> AverageDrop:
    """The three drops with the map itself, scaled to [0, 1], as a soft mask; NaN for flat maps. Made once for a case.

    Source: Chattopadhyay et al. 2018 (arXiv 1710.11063), Jung and Oh 2021 (arXiv 2102.05228).
    """
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
