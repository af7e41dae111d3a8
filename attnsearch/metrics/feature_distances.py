"""Distances between embeddings, whole or in blocks of queries; importing this file does not import torch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from attnsearch.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

Metric = Literal["euclidean", "cosine"]
"""The true Euclidean distance, or 1 minus the cosine."""
AnyArray = TypeVar("AnyArray", NDArray[Any], "Tensor")
BLOCK_ROWS = 512
"""Queries whose distances are held at once; blocks are multiples of it."""

_TILE_COLUMNS = 2048
_GROUP = 16
#: Below this fraction of what two vectors that have nothing in common are apart, float32 loses too many digits.
_NEAR = 1e-3
#: Below this fraction, vectors differ by no more than the rounding of float32 values.
_EQUAL = 1e-14


def distances(query: AnyArray, gallery: AnyArray, *, metric: Metric) -> AnyArray:
    """Distances of each query to each gallery image: (Q, G) float32, an array for arrays, a tensor for tensors.

    No gradient passes through them.

    Args:
        query: (Q, D), of finite numbers.
        gallery: (G, D).
        metric: the cosine of a vector of zeros is 0.
    Raises:
        UsageError: shapes that do not fit, values that are not finite, or an unknown metric.
    """
    import torch

    pairs = FeatureDistances(query, gallery, metric=metric)
    found = pairs.empty(pairs.shape[0])
    pairs.fill(found, 0)
    return found if isinstance(query, torch.Tensor) else found.cpu().numpy()


class FeatureDistances:
    """The distances of queries (Q, D) to a gallery (G, D), made on demand.

    A number is always computed in the same tile of one grid over all pairs. Its last bits therefore do not depend on
    which rows are asked for together. Features may be memory-mapped: they are read in place.

    Attributes:
        shape: Q and G.
    """

    def __init__(self, query: NDArray[Any] | Tensor, gallery: NDArray[Any] | Tensor, *, metric: Metric) -> None:
        """See `distances` for the arguments, (Q, D) and (G, D), and the errors."""
        if metric not in get_args(Metric):
            raise UsageError(f"metric must be one of {', '.join(get_args(Metric))}, got {metric!r}")
        self._metric = metric
        self._query, self._gallery = (
            _load(features, name, metric) for features, name in ((query, "query"), (gallery, "gallery"))
        )
        if self._query.values.shape[1] != self._gallery.values.shape[1]:
            sizes = f"{self._query.values.shape[1]} and {self._gallery.values.shape[1]}"
            raise UsageError(f"query and gallery must have the same number of features, got {sizes}; use one model")
        self.shape = (len(self._query.values), len(self._gallery.values))

    def empty(self, n_rows: int) -> Tensor:
        """Room for the distances of so many queries: (n_rows, G) float32, with any content."""
        import torch

        return torch.empty(n_rows, self.shape[1], device=self._gallery.values.device)

    def blocks(self, block_rows: int = BLOCK_ROWS) -> Iterator[NDArray[np.float32]]:
        """The distances of all queries in their order: (B, G) each, in memory that the next block overwrites.

        Args:
            block_rows: B, rounded up to a multiple of `BLOCK_ROWS`.
        Raises:
            UsageError: no queries in a block.
        """
        if block_rows < 1:
            raise UsageError(f"block_rows must be >= 1, got {block_rows}")
        step = BLOCK_ROWS * math.ceil(block_rows / BLOCK_ROWS)
        room = self.empty(min(step, self.shape[0]))
        for start in range(0, self.shape[0], step):
            block = room[: min(step, self.shape[0] - start)]
            self.fill(block, start)
            yield block.cpu().numpy()

    def fill(self, out: Tensor, start: int) -> None:
        """Writes the distances of the queries from `start` on, a multiple of `BLOCK_ROWS`, into (B, G) float32."""
        import torch

        with torch.no_grad(), torch.autocast(out.device.type, enabled=False):
            for row in range(0, len(out), BLOCK_ROWS):
                a = self._query.part(start + row, min(BLOCK_ROWS, len(out) - row))
                scaled = a.scaled().float()
                for column in range(0, self.shape[1], _TILE_COLUMNS):
                    tile = out[row : row + BLOCK_ROWS, column : column + _TILE_COLUMNS]
                    b = self._gallery.part(column, tile.shape[1])
                    torch.mm(scaled, b.values.float().T, out=tile)
                    _to_halves(tile, a, b)
                    if self._metric == "euclidean":
                        tile.mul_(2).sqrt_()

    def squared(self, row: int, columns: NDArray[np.int64]) -> NDArray[np.float32]:
        """Squared Euclidean distances of one query to some gallery images, whatever the metric: (n,) for (n,)."""
        import torch

        images = self._gallery.values[torch.from_numpy(columns).to(self._gallery.values.device)].float()  # (n, D)
        return (images - self._query.values[row].float()).square().sum(dim=1).cpu().numpy()


def nearest_entries(row: NDArray[np.floating[Any]], k: int) -> NDArray[np.int64]:
    """Positions of the k smallest numbers of (n,), nearest first, equal ones by position; NaN is left out: (<= k,)."""
    if not k:
        return np.empty(0, dtype=np.int64)
    candidates = np.flatnonzero(row <= _upper_limit(row, k))
    return candidates[np.argsort(row[candidates], kind="stable")[:k]]


def _upper_limit(row: NDArray[np.floating[Any]], k: int) -> float:
    """A number that at least k of (n,) do not exceed, or infinity: the k-th smallest of the minima of small groups."""
    n_groups = len(row) // _GROUP
    if n_groups < k:
        return math.inf
    minima = row[: _GROUP * n_groups].reshape(_GROUP, n_groups).min(axis=0)
    limit = np.partition(minima, k - 1)[k - 1]
    return math.inf if np.isnan(limit) else float(limit)


@dataclass(frozen=True)
class _Features:
    """Embeddings and what makes distances out of their products.

    Attributes:
        values: (N, D), as given.
        scales: (N,) float64, by which rows are multiplied.
        halves: (N,) float64, half of the squared norms of the multiplied rows.
    """

    values: Tensor
    scales: Tensor
    halves: Tensor

    def part(self, start: int, n_rows: int) -> _Features:
        """Rows `start` to `start + n_rows`."""
        return self.take(slice(start, start + n_rows))

    def take(self, rows: slice | Tensor) -> _Features:
        """Some rows; a tensor of their numbers is (n,)."""
        return _Features(self.values[rows], self.scales[rows], self.halves[rows])

    def scaled(self) -> Tensor:
        """The multiplied rows: (N, D) float64."""
        return self.values.double() * self.scales[:, None]


def _load(features: NDArray[Any] | Tensor, name: str, metric: Metric) -> _Features:
    """Features (N, D), checked."""
    import torch

    values = _to_tensor(features)
    if values.ndim != 2 or 0 in values.shape:
        raise UsageError(f"{name} must be a matrix (images, features) that is not empty, got {tuple(values.shape)}")
    norms = torch.empty(len(values), dtype=torch.float64, device=values.device)
    for start in range(0, len(values), _TILE_COLUMNS):  # into one array: small ones would keep freed large ones apart
        part = values[start : start + _TILE_COLUMNS]
        norms[start : start + len(part)] = torch.linalg.vector_norm(part.double(), dim=1)
    broken = (~torch.isfinite(norms.square().float())).nonzero().flatten()
    if len(broken):
        raise UsageError(
            f"row {int(broken[0])} of {name} has values that are not finite, or too large for float32; embed it again"
        )
    if metric == "euclidean":
        return _Features(values, torch.ones_like(norms), norms.square() / 2)
    scales = norms.clamp_min(torch.finfo(torch.float32).tiny).reciprocal()
    return _Features(values, scales, torch.full_like(norms, 0.5))


def _to_tensor(features: NDArray[Any] | Tensor) -> Tensor:
    """Features (N, D), without a copy where there need not be one."""
    import torch

    if isinstance(features, torch.Tensor):
        return features.detach()
    array = np.asarray(features, order="C")
    if array.dtype.kind not in "fiu":
        raise UsageError(f"features must be numbers, got an array of {array.dtype}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of files that are mapped for reading; nothing is written here
        return torch.from_numpy(array)


def _to_halves(out: Tensor, a: _Features, b: _Features) -> None:
    """Makes half of the squared distances of rows (n, D) and (m, D), after multiplication, of their products (n, m).

    The products lack the factors of b.
    """
    out.mul_(-b.scales.float()).add_(b.halves.float()).add_(a.halves.float()[:, None])
    near = out <= _NEAR * (a.halves.float()[:, None] + b.halves.float())
    rows, columns = near.any(dim=1).nonzero().flatten(), near.any(dim=0).nonzero().flatten()
    if len(rows):
        out[rows[:, None], columns] = _exact_halves(a.take(rows), b.take(columns)).float()


def _exact_halves(a: _Features, b: _Features) -> Tensor:
    """The same from the rows (n, D) and (m, D) themselves, in float64, and 0 for equal rows."""
    sums = a.halves[:, None] + b.halves
    halves = sums - a.scaled() @ b.scaled().T
    return halves.masked_fill_(halves < _EQUAL * sums, 0.0)
