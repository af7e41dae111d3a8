"""How much of the image a map covers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from attnsearch.metrics.perturbation import SaliencyCase

EPSILON = 1e-5  # as in the released code


def sparsity(maps: Tensor | None, norms: Tensor | None) -> Tensor:
    """The mean of each image's maps after scaling each to a maximum of one: lower is sparser, a flat map gives 1.

    With norms r, each map m becomes m · r / max r before it is scaled by its own maximum (plus 1e-5). Every map
    counts, also one that a model makes but never pools. A map of zeros counts as 0, and so does an image whose norm is
    zero everywhere.

    Args:
        maps: (B, K, h, w), not negative, or None for models without maps, where the norm itself is scored.
        norms: (B, 1, h, w), not negative, or None for families without one, whose maps count unweighted.
    Returns:
        (B,) float32 in [0, 1].
    Raises:
        ValueError: both are None.
    Source: BR-NPA (Gomez et al. 2022), released code `TristanGomez44/br_npa` code/metrics.py. Difference: one number
        per image instead of a sum over the batch, and the norm is scored alone for a CNN, where the released code
        multiplies the norms of different images.
    """
    if maps is None and norms is None:
        raise ValueError("sparsity needs maps, norms or both")
    weighted = norms.float() if norms is not None else torch.ones((), device=maps.device)  # type: ignore[union-attr]
    if maps is not None:
        if norms is not None:
            weighted = weighted / _peak(weighted).clamp_min(torch.finfo(torch.float32).tiny)
        weighted = maps.float() * weighted  # (B, K, h, w)
    return (weighted / (_peak(weighted) + EPSILON)).mean(dim=(1, 2, 3))


def _peak(maps: Tensor) -> Tensor:
    """(B, K, 1, 1) of (B, K, h, w)."""
    return maps.amax(dim=(2, 3), keepdim=True)


def gini(saliency: Tensor) -> Tensor:
    """Gini's coefficient of maps (B, h, w), not negative: (B,); 0 if uniform, near 1 if one cell is hot, NaN if none.

    Source: Hurley and Rickard 2009 (arXiv 0811.4706); for maps, Chalasani et al. 2020 (arXiv 1810.06583).
    """
    values = saliency.flatten(1).double().sort(dim=1).values  # (B, n)
    n_cells = values.shape[1]
    weights = 2 * torch.arange(1, n_cells + 1, device=values.device) - n_cells - 1
    total = values.sum(dim=1)
    return torch.where(total > 0, (weights * values).sum(dim=1) / (n_cells * total), torch.nan).float()


def entropy(saliency: Tensor) -> Tensor:
    """Entropy of maps (B, h, w) as distributions, as a fraction of a uniform one's: (B,) in [0, 1], NaN if all zero.

    Source: Bhatt et al. 2020 (arXiv 2005.00631), complexity. Difference: divided by ln n, so that grids compare.
    """
    values = saliency.flatten(1).double()
    weights = values / values.sum(dim=1, keepdim=True)  # (B, n)
    raw = -torch.special.xlogy(weights, weights).sum(dim=1)
    n_cells = values.shape[1]
    fraction: Tensor = raw / max(math.log(n_cells), torch.finfo(torch.float64).tiny)
    return fraction.float()


def effective_area(saliency: Tensor) -> Tensor:
    """The fraction of cells that a uniform map (B, h, w) of the same entropy would cover: (B,) in [1 / n, 1]; NaN if
    all are zero."""
    n_cells = saliency[0].numel()
    return (entropy(saliency).double() * math.log(n_cells)).exp().div(n_cells).float()


def sparsity_of(case: SaliencyCase) -> Tensor:
    """(B,), see `sparsity`; of the saliency as the only map."""
    return sparsity(case.saliency[:, None], None)


def gini_of(case: SaliencyCase) -> Tensor:
    """(B,), see `gini`."""
    return gini(case.saliency)


def entropy_of(case: SaliencyCase) -> Tensor:
    """(B,), see `entropy`."""
    return entropy(case.saliency)


def effective_area_of(case: SaliencyCase) -> Tensor:
    """(B,), see `effective_area`."""
    return effective_area(case.saliency)
