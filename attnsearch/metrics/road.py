"""ROAD: removal by imputation, which leaves no outline of what was removed."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import spsolve
from torch import Tensor

from attnsearch.metrics.perturbation import SaliencyCase
from attnsearch.metrics.removal import removal_ranks, upscale_cells

FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5)
NOISE = 0.01  # deviation, in normalised units
_STRAIGHT, _DIAGONAL = 1 / 6, 1 / 12
_NEIGHBOURS = [
    (dy, dx, _STRAIGHT if 0 in (dy, dx) else _DIAGONAL) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)
]


def road_of(case: SaliencyCase) -> Tensor:
    """Half the difference of the score between removing the least and the most salient cells: (B,).

    The mean over the fractions of cells that are removed; higher is better, 0 for a map without information, NaN for a
    flat one. A removed cell gets one colour, which is that of its neighbours' weighted mean, and noise.

    Source: Rong, Leemann et al. 2022 (arXiv 2202.00449), noisy linear imputation. Differences: imputed at the map's
        resolution, probability instead of accuracy, fractions up to a half.
    """
    seeds = case.seeds("noise")
    means = []
    for reverse in (False, True):
        ranks = removal_ranks(case.saliency, reverse=reverse)
        scores = [case.scores(impute(case.images, ranks, fraction, seeds=seeds)) for fraction in FRACTIONS]
        means.append(torch.stack(scores, dim=1).mean(dim=1))
    most_first, least_first = means  # (B,) each
    return case.unless_flat((least_first - most_first) / 2)


def impute(images: Tensor, ranks: Tensor, fraction: float, *, seeds: Tensor, noise: float = NOISE) -> Tensor:
    """Images (B, 3, H, W) whose cells of the first ranks (B, h, w) are imputed: at least one, and never all.

    Args:
        fraction: of the cells.
        seeds: (B,) int64.
        noise: deviation of what is added to imputed pixels.
    """
    n_cells = ranks[0].numel()
    n_removed = min(max(1, round(fraction * n_cells)), n_cells - 1)
    is_gone = ranks < n_removed  # (B, h, w)
    colours = F.adaptive_avg_pool2d(images.float(), (ranks.shape[1], ranks.shape[2])).cpu().numpy()  # (B, 3, h, w)
    gone = is_gone.cpu().numpy()
    filled = np.stack([_solve(colour, mask) for colour, mask in zip(colours, gone, strict=True)])  # (B, 3, h, w)
    size_hw = (images.shape[2], images.shape[3])
    blocks = upscale_cells(torch.from_numpy(filled).to(images), size_hw)  # (B, 3, H, W)
    noises = [
        noise * torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(int(seed))) for seed in seeds
    ]
    gone_px = upscale_cells(is_gone.to(images.device), size_hw)[:, None]  # (B, 1, H, W)
    return torch.where(gone_px, blocks + torch.stack(noises).to(images), images)


def _solve(colours: NDArray[np.float32], is_gone: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Every removed cell as the weighted mean of its up to eight neighbours, all at once: (3, h, w).

    For a removed cell i with neighbours j and weights w_ij (1/6 beside, 1/12 across a corner; divided by their sum, as
    a cell at the border has fewer), the colour x_i obeys

        x_i - sum over removed j of w_ij x_j = sum over other j of w_ij c_j

    with the known colours c_j. That is one sparse linear system A x = b for the G removed cells, the same A for the
    three channels: the discrete Laplace equation with the other cells as its border. A is diagonally dominant, and
    strictly so next to a known cell; as at least one cell is known, and the grid is connected, there is one solution.

    Args:
        colours: (3, h, w) of all cells.
        is_gone: (h, w), at least one cell False.
    """
    if not is_gone.any():  # a map of one cell, which is never removed
        return colours
    height, width = is_gone.shape
    n_gone = int(is_gone.sum())
    index = np.cumsum(is_gone).reshape(height, width) - 1  # (h, w): row of A of each removed cell
    y, x = np.nonzero(is_gone)  # (G,) each, in row-major order, so that cell g has row g
    total, right = np.zeros(n_gone), np.zeros((n_gone, len(colours)))
    rows, columns, values = [np.arange(n_gone)], [np.arange(n_gone)], [np.ones(n_gone)]  # the diagonal of A
    pairs = []
    for dy, dx, weight in _NEIGHBOURS:
        inside = (y + dy >= 0) & (y + dy < height) & (x + dx >= 0) & (x + dx < width)
        cells = np.flatnonzero(inside)
        pairs.append((cells, y[inside] + dy, x[inside] + dx, weight))
        total[cells] += weight
    for cells, ny, nx, weight in pairs:
        scaled = weight / total[cells]
        removed = is_gone[ny, nx]
        rows.append(cells[removed])
        columns.append(index[ny, nx][removed])
        values.append(-scaled[removed])
        right[cells[~removed]] += scaled[~removed, None] * colours[:, ny[~removed], nx[~removed]].T
    system = sparse.csc_matrix(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=(n_gone, n_gone)
    )
    filled = colours.copy()
    filled[:, y, x] = np.asarray(spsolve(system, right)).reshape(n_gone, -1).T
    return filled
