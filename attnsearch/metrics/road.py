"""ROAD: removal by imputation, which leaves no outline of what was removed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import spsolve
from torch import Tensor

from attnsearch.metrics.faithfulness import BATCH_IMAGES, Predict, is_flat, target_scores
from attnsearch.metrics.perturbation import removal_ranks, upscale_cells

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)
NOISE = 0.01  # deviation, in normalised units
_STRAIGHT, _DIAGONAL = 1 / 6, 1 / 12
_NEIGHBOURS = [
    (dy, dx, _STRAIGHT if 0 in (dy, dx) else _DIAGONAL) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)
]


@torch.no_grad()
def road(
    predict: Predict,
    images: Tensor,
    saliency: Tensor,
    target: Tensor,
    *,
    seeds: Tensor,
    shares: Sequence[float] = SHARES,
    batch_images: int = BATCH_IMAGES,
) -> Tensor:
    """Half the difference of the class probability between removing the least and the most salient cells: (B,).

    The mean over the shares of cells that are removed; higher is better, 0 for a map without information, NaN for a
    flat one. A removed cell gets one colour, which is that of its neighbours' weighted mean, and noise.

    Args:
        images: (B, 3, H, W), normalised.
        saliency: (B, h, w).
        target: (B,) int64.
        seeds: (B,) int64, of each image's noise.
        shares: of the cells, each in (0, 1).
    Raises:
        ValueError: saliency has NaN.
    Source: Rong, Leemann et al. 2022 (arXiv 2202.00449), noisy linear imputation. Differences: imputed at the map's
        resolution, probability instead of accuracy, shares up to a half.
    """
    found = []
    for reverse in (False, True):
        ranks = removal_ranks(saliency, reverse=reverse)
        scores = [
            target_scores(predict, impute(images, ranks, share, seeds=seeds), target, batch_images=batch_images)
            for share in shares
        ]
        found.append(torch.stack(scores, dim=1).mean(dim=1))
    most_first, least_first = found
    return torch.where(is_flat(saliency).to(most_first.device), torch.nan, (least_first - most_first) / 2)


def impute(images: Tensor, ranks: Tensor, share: float, *, seeds: Tensor, noise: float = NOISE) -> Tensor:
    """Images (B, 3, H, W) without the cells of the first ranks, a share of all, at least one and never all."""
    n_cells = ranks[0].numel()
    n_removed = min(max(1, round(share * n_cells)), n_cells - 1)
    is_gone = ranks < n_removed  # (B, h, w)
    colours = F.adaptive_avg_pool2d(images.float(), (ranks.shape[1], ranks.shape[2])).cpu().numpy()  # (B, 3, h, w)
    gone = is_gone.cpu().numpy()
    filled = np.stack([_solve(colour, mask) for colour, mask in zip(colours, gone, strict=True)])
    size_hw = (images.shape[2], images.shape[3])
    blocks = upscale_cells(torch.from_numpy(filled).to(images), size_hw)
    noises = [
        noise * torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(int(seed))) for seed in seeds
    ]
    gone_px = upscale_cells(is_gone.to(images.device), size_hw)[:, None]
    return torch.where(gone_px, blocks + torch.stack(noises).to(images), images)


def _solve(colours: NDArray[np.float32], is_gone: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Every removed cell as the weighted mean of its up to eight neighbours, all at once: (3, h, w)."""
    height, width = is_gone.shape
    index = np.cumsum(is_gone).reshape(height, width) - 1
    n_gone = int(is_gone.sum())
    y, x = np.nonzero(is_gone)
    own = index[y, x]
    total, known = np.zeros(n_gone), np.zeros((n_gone, len(colours)))
    rows, columns, values = [own], [own], [np.ones(n_gone)]
    found = []
    for dy, dx, weight in _NEIGHBOURS:
        inside = (y + dy >= 0) & (y + dy < height) & (x + dx >= 0) & (x + dx < width)
        found.append((own[inside], y[inside] + dy, x[inside] + dx, weight))
        total[own[inside]] += weight
    for cells, ny, nx, weight in found:
        share = weight / total[cells]
        removed = is_gone[ny, nx]
        rows.append(cells[removed])
        columns.append(index[ny, nx][removed])
        values.append(-share[removed])
        np.add.at(known, cells[~removed], share[~removed, None] * colours[:, ny[~removed], nx[~removed]].T)
    system = sparse.csc_matrix(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=(n_gone, n_gone)
    )
    solved = np.asarray(spsolve(system, known)).reshape(n_gone, -1)
    filled = colours.copy()
    filled[:, y, x] = solved[own].T
    return filled
