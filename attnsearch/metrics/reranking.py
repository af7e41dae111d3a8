"""k-reciprocal re-ranking with sparse neighbour lists; importing this file imports neither torch nor scipy.

Source: Zhong et al. 2017 (arXiv 1701.08398), section 3, on plain Euclidean distances that are squared once. For the
cosine, normalise the features first. `A` is the number of samples: queries, then gallery images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attnsearch.device import free_memory_bytes
from attnsearch.errors import UsageError
from attnsearch.metrics.feature_distances import BLOCK_ROWS, AnyArray, FeatureDistances, nearest_entries

if TYPE_CHECKING:
    from scipy import sparse
    from torch import Tensor

#: Samples whose neighbours are expanded at once.
_CHUNK_ROWS = 64
#: Bytes for each entry of the neighbour lists, with the graphs and encodings that are made of it.
_BYTES_PER_NEIGHBOUR = 200
_GB = 1e9


def rerank(query: AnyArray, gallery: AnyArray, *, k1: int, k2: int, lambda_value: float) -> AnyArray:
    """Re-ranked distances of each query to each gallery image: (Q, G) float32, an array for arrays, else a tensor.

    Args:
        query: (Q, D).
        gallery: (G, D).
        k1: neighbours among which those are looked for that are neighbours in both directions.
        k2: neighbours, itself included, over which a sample's encoding is averaged; 1 leaves it.
        lambda_value: weight of the plain distance, in [0, 1]; the rest is that of the Jaccard distance.
    Raises:
        UsageError: arguments that do not fit, or more memory needed than there is; `rerank_blocks` needs less.
    """
    import torch

    shape = (len(query), len(gallery))
    blocks = rerank_blocks(
        query, gallery, k1=k1, k2=k2, lambda_value=lambda_value, result_bytes=4 * shape[0] * shape[1]
    )
    found = np.empty(shape, dtype=np.float32)
    start = 0
    for block in blocks:
        found[start : start + len(block)] = block
        start += len(block)
    return torch.from_numpy(found).to(query.device) if isinstance(query, torch.Tensor) else found


def rerank_blocks(
    query: NDArray[Any] | Tensor,
    gallery: NDArray[Any] | Tensor,
    *,
    k1: int,
    k2: int,
    lambda_value: float,
    result_bytes: int = 0,
) -> Iterator[NDArray[np.float32]]:
    """The distances of `rerank` in blocks of queries, (B, G) each, for `rank_distances`; the whole is never held.

    Args:
        query: (Q, D).
        gallery: (G, D).
        k1, k2, lambda_value: as for `rerank`.
        result_bytes: what the caller holds of the result.
    Raises:
        UsageError: as `rerank`.
    """
    _check(k1, k2, lambda_value)
    plain = FeatureDistances(query, gallery, metric="euclidean")
    _require_memory(sum(plain.shape), query.shape[1], max(k1 + 1, k2), result_bytes)
    samples = _join(query, gallery)
    return _blocks(plain, _encode(FeatureDistances(samples, samples, metric="euclidean"), k1, k2), lambda_value)


@dataclass(frozen=True, eq=False)
class _Neighbours:
    """The surroundings of each sample.

    Attributes:
        lists: (A, k) int32 nearest samples, itself first.
        maxima: (A,) float32, the largest squared distance to another sample.
    """

    lists: NDArray[np.int32]
    maxima: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Encoding:
    """What the Jaccard distance compares.

    Attributes:
        weights: sparse (A, A) float32, rows sum to 1.
        maxima: as of `_Neighbours`, (A,).
    """

    weights: sparse.csr_array
    maxima: NDArray[np.float32]


def _encode(pairs: FeatureDistances, k1: int, k2: int) -> _Encoding:
    """The averaged encodings of all samples, whose distances (A, A) are `pairs`."""
    from scipy import sparse

    neighbours = _find_neighbours(pairs, max(k1 + 1, k2))
    reciprocal = _reciprocal(neighbours.lists[:, : k1 + 1])
    close = _reciprocal(neighbours.lists[:, : round(k1 / 2) + 1])  # round is half to even
    chunks = range(0, reciprocal.shape[0], _CHUNK_ROWS)
    rows = (_weigh(pairs, start, _expand(reciprocal, close, start), neighbours.maxima) for start in chunks)
    weights = sparse.vstack(list(rows), format="csr")
    if k2 > 1:
        nearest = _membership(neighbours.lists[:, :k2]).astype(np.float32)
        weights = (nearest @ weights) / np.float32(min(k2, nearest.shape[0]))
    return _Encoding(weights.tocsr(), neighbours.maxima)


def _find_neighbours(pairs: FeatureDistances, k: int) -> _Neighbours:
    """The k nearest samples of each one, from distances (A, A) in blocks."""
    n_samples = pairs.shape[0]
    lists = np.empty((n_samples, min(k, n_samples)), dtype=np.int32)
    maxima = np.empty(n_samples, dtype=np.float32)
    start = 0
    for block in pairs.blocks():
        for index, row in enumerate(block, start):
            lists[index] = nearest_entries(row, k)
        maxima[start : start + len(block)] = block.max(axis=1) ** 2
        start += len(block)
    return _Neighbours(lists, np.maximum(maxima, np.finfo(np.float32).tiny))


def _membership(lists: NDArray[np.int32]) -> sparse.csr_array:
    """1 at (i, j) where the list (A, k) of i names j: sparse (A, A) int32."""
    from scipy import sparse

    n_samples, k = lists.shape
    starts = np.arange(n_samples + 1) * k
    return sparse.csr_array((np.ones(lists.size, np.int32), lists.ravel(), starts), shape=(n_samples, n_samples))


def _reciprocal(lists: NDArray[np.int32]) -> sparse.csr_array:
    """1 at (i, j) where each is in the list (A, k) of the other: sparse (A, A) int32."""
    members = _membership(lists)
    return members.multiply(members.T.tocsr()).tocsr()


def _expand(reciprocal: sparse.csr_array, close: sparse.csr_array, start: int) -> sparse.csr_array:
    """The reciprocal neighbours of some samples, and the close ones of those which have most of them in common.

    Args:
        reciprocal, close: sparse (A, A), of the lists of k1 and of half of k1.
    Returns:
        Sparse (chunk, A); what is stored is a neighbour, whatever the number.
    """
    from scipy import sparse

    own = reciprocal[start : start + _CHUNK_ROWS]
    common = (own @ close.T).multiply(own).tocoo()  # with the original list, not with the growing one
    sizes = np.diff(close.indptr)
    is_alike = 3 * common.data > 2 * sizes[common.col]
    places = (common.row[is_alike], common.col[is_alike])
    alike = sparse.csr_array((common.data[is_alike], places), shape=own.shape)
    return (own + alike @ close).tocsr()


def _weigh(
    pairs: FeatureDistances, start: int, lists: sparse.csr_array, maxima: NDArray[np.float32]
) -> sparse.csr_array:
    """Weights exp(-D) of neighbours, in the places of `lists` (chunk, A), rows scaled to sum 1.

    Args:
        start: the first sample of the chunk.
        maxima: (A,).
    """
    from scipy import sparse

    weights = np.empty(lists.nnz, dtype=np.float32)
    for index in range(lists.shape[0]):
        places = slice(lists.indptr[index], lists.indptr[index + 1])
        squared = pairs.squared(start + index, lists.indices[places].astype(np.int64))
        raw = np.exp(-squared / maxima[start + index])
        weights[places] = raw / raw.sum()
    return sparse.csr_array((weights, lists.indices, lists.indptr), shape=lists.shape)


def _blocks(plain: FeatureDistances, encoding: _Encoding, lambda_value: float) -> Iterator[NDArray[np.float32]]:
    """The final distances, (B, G) each."""
    n_queries = plain.shape[0]
    by_member = encoding.weights[n_queries:].T.tocsr()  # (A, G)
    start = 0
    for block in plain.blocks():
        final = lambda_value * block**2 / encoding.maxima[start : start + len(block), None]
        for index, row in enumerate(final, start):
            row += (1 - lambda_value) * _jaccard(encoding.weights[[index]], by_member)
        yield final
        start += len(block)


def _jaccard(weights: sparse.csr_array, by_member: sparse.csr_array) -> NDArray[np.float64]:
    """Distances of one encoding, sparse (1, A), to those of the gallery, sparse (A, G): (G,)."""
    columns = by_member[weights.indices]  # one row for each weight
    smaller = np.minimum(columns.data, np.repeat(weights.data, np.diff(columns.indptr)))
    overlap = np.bincount(columns.indices, smaller, minlength=columns.shape[1])
    return 1 - overlap / (2 - overlap)


def _join(query: NDArray[Any] | Tensor, gallery: NDArray[Any] | Tensor) -> NDArray[Any] | Tensor:
    """(Q, D) and (G, D) -> (A, D)."""
    import torch

    if isinstance(query, torch.Tensor) and isinstance(gallery, torch.Tensor):
        return torch.cat([query.detach(), gallery.detach()])
    return np.concatenate([np.asarray(query), np.asarray(gallery)])


def _check(k1: int, k2: int, lambda_value: float) -> None:
    for name, value in (("k1", k1), ("k2", k2)):
        if value < 1:
            raise UsageError(f"{name} must be >= 1, got {value}")
    if not 0 <= lambda_value <= 1:
        raise UsageError(f"lambda_value must be in [0, 1], got {lambda_value}")


def _require_memory(n_samples: int, n_features: int, k: int, result_bytes: int) -> None:
    """Refuses what does not fit into the free memory."""
    lists = _BYTES_PER_NEIGHBOUR * n_samples * k
    needed = result_bytes + lists + 4 * n_samples * (n_features + 2 * BLOCK_ROWS)
    free = free_memory_bytes()
    if free is not None and needed > free:
        raise UsageError(
            f"re-ranking {n_samples} samples needs about {needed / _GB:.1f} GB ({result_bytes / _GB:.1f} of the "
            f"result, {lists / _GB:.1f} of neighbour lists) and {free / _GB:.1f} GB are free; rank the blocks of "
            "rerank_blocks, lower k1, or leave re-ranking out"
        )
