"""Whether features stay where their part is: how well variants are read at the cells of their own and of other parts.

In shapes, `N` is a number of images, `P` of parts, `V` of variants of a part, and `C` of channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_OWN = 0.1
"""Skill at a part's own cells below which nothing is known there that could leak."""
_N_FOLDS = 5
_MAX_STEPS = 100


def pooled_at_parts(features: Tensor, masks: Tensor) -> Tensor:
    """The mean feature over the cells of each part, weighted by how much of a cell the part covers.

    Args:
        features: (B, C, h, w).
        masks: (B, P, H, W) bool, True on each part.
    Returns:
        (B, P, C) float32; NaN for a part that is not seen.
    """
    covered = F.adaptive_avg_pool2d(masks.float(), (features.shape[2], features.shape[3])).flatten(2)  # (B, P, h·w)
    weights = covered / covered.sum(dim=2, keepdim=True)  # 0 / 0 is NaN
    return torch.bmm(weights, features.float().flatten(2).transpose(1, 2))


def probe_skills(features: Tensor, variants: Tensor, *, n_variants: int) -> Tensor:
    """How well a linear probe reads the variant of each part: (accuracy - chance) / (1 - chance), cross-validated.

    The probe is a multinomial logistic regression on standardised features with the penalty |W|² / 2 of the sum of
    losses; of five folds each is predicted by a probe of the other four.

    Args:
        features: (N, C) finite.
        variants: (N, P) int64 in 0 to n_variants - 1, independent and uniform, so that chance is 1 / n_variants.
    Returns:
        (P,) float64, 1 where all are read and 0 at chance; NaN with fewer images than folds.
    """
    if len(features) < _N_FOLDS:
        return torch.full((variants.shape[1],), torch.nan, dtype=torch.float64)
    fold = torch.arange(len(features)) % _N_FOLDS
    is_right = torch.zeros_like(variants, dtype=torch.bool)  # (N, P)
    for held_out in range(_N_FOLDS):
        is_held = fold == held_out
        train, test = _standardised(features[~is_held].double(), features[is_held].double())
        logits = _fitted_logits(train, variants[~is_held], test, n_variants=n_variants)  # (n, P, V)
        is_right[is_held] = logits.argmax(dim=2) == variants[is_held]
    chance = 1 / n_variants
    return (is_right.double().mean(dim=0) - chance) / (1 - chance)


def _standardised(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Features (n, C) by the mean and deviation of training, in the space (n, at most n) that those of training span.

    Penalised weights of a linear probe lie in that space, so that nothing is lost.
    """
    mean, deviation = train.mean(dim=0), train.std(dim=0, correction=0)
    scale = torch.where(deviation > 0, 1 / deviation, 0.0)
    train, test = (train - mean) * scale, (test - mean) * scale
    if train.shape[1] <= len(train):
        return train, test
    basis = torch.linalg.svd(train, full_matrices=False).Vh.T  # (C, n)
    return train @ basis, test @ basis


def _fitted_logits(train: Tensor, variants: Tensor, test: Tensor, *, n_variants: int) -> Tensor:
    """Logits (n, P, V) of the features test (n, D), of probes fitted to train (N, D) and variants (N, P)."""
    n_parts = variants.shape[1]
    weights = train.new_zeros(train.shape[1] + 1, n_parts * n_variants, requires_grad=True)  # the last row is the bias
    optimizer = torch.optim.LBFGS([weights], max_iter=_MAX_STEPS, line_search_fn="strong_wolfe")

    def logits_of(features: Tensor) -> Tensor:
        return (features @ weights[:-1] + weights[-1]).view(len(features), n_parts, n_variants)

    def loss() -> Tensor:
        optimizer.zero_grad()
        losses = F.cross_entropy(logits_of(train).flatten(0, 1), variants.flatten(), reduction="sum")
        total = (losses + weights[:-1].square().sum() / 2) / len(train)
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    return logits_of(test).detach()


def skill_matrix(features: Tensor, variants: Tensor, *, n_variants: int) -> Tensor:
    """(P, P) float64: how well the variant of each part (row) is read at the cells of each part (column).

    Args:
        features: (N, P, C) of `pooled_at_parts`; images in which a part is not seen are left out of its column.
        variants: (N, P) int64.
    """
    columns = []
    for place in range(features.shape[1]):
        is_seen = features[:, place].isfinite().all(dim=1)
        columns.append(probe_skills(features[is_seen, place], variants[is_seen], n_variants=n_variants))
    return torch.stack(columns, dim=1)


def own_and_leak(skills: Tensor) -> tuple[float, float]:
    """The mean skill at a part's own cells, and at those of other parts, of skills (P, P)."""
    is_own = torch.eye(len(skills), dtype=torch.bool)
    return float(skills[is_own].mean()), float(skills[~is_own].mean())


def locality(skills: Tensor) -> float:
    """1 - leak / own of skills (P, P): 1 where a part is read at its own cells alone, 0 where it is read anywhere.

    NaN where the parts are not read at their own cells either.
    """
    own, leak = own_and_leak(skills)
    return 1 - leak / own if own >= LEAST_OWN else float("nan")


def cells_of_mass(saliency: Tensor, fraction: float) -> Tensor:
    """The fewest cells that hold a fraction of a map's sum, most salient first, ties by row-major position.

    Args:
        saliency: (B, h, w), not negative.
    Returns:
        (B, h, w) bool; no cell of a map without any mass.
    """
    values, order = saliency.double().flatten(1).sort(dim=1, descending=True, stable=True)  # (B, n)
    before = values.cumsum(dim=1) - values
    is_needed = before < fraction * values.sum(dim=1, keepdim=True) * (1 - 1e-12)
    return torch.zeros_like(is_needed).scatter(1, order, is_needed).view_as(saliency)
