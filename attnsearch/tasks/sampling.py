"""Batches of P identities with K images each, for losses that compare images of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from attnsearch.errors import DataError

if TYPE_CHECKING:
    from attnsearch.data.tables import ImageTable


def identity_batches(
    table: ImageTable, *, batch_size: int, images_per_identity: int, seed: int, epoch: int
) -> NDArray[np.int64]:
    """(n_batches · P · K,) the rows of an epoch, batch after batch, K in a row of each of P different identities.

    Each epoch shuffles the images of every identity and cuts them into groups of K; an identity with fewer images is
    one group, which repeats some of them. The number of batches is the largest that the groups allow, the same in
    every epoch; groups that are left over are left out at random. The others are dealt to batches at random, so that
    two identities that meet in one batch need not meet in the next.

    Args:
        batch_size: P · K.
        images_per_identity: K.
    Raises:
        DataError: there are fewer than P identities.
    Source: TransReID's and deep-person-reid's sampler. Difference: they draw the identities of one batch after another
        until fewer than P have a group left, so that the number of their batches changes from epoch to epoch, and
        images of frequent identities remain; here each identity in turn draws its batches, and all of them are filled.
    """
    k, n_identities = images_per_identity, batch_size // images_per_identity
    rng = np.random.default_rng((seed, epoch, 0))
    rows_of = [np.flatnonzero(table.labels == label) for label in range(len(table.class_names))]
    if len(rows_of) < n_identities:
        raise DataError(
            f"train.batch_size {batch_size} with task.images_per_identity {k} needs {n_identities} identities in each "
            f"batch, and train has {len(rows_of)}; set train.batch_size={len(rows_of) * k} or less, or raise "
            "task.images_per_identity"
        )
    n_batches = batches_per_epoch([len(rows) for rows in rows_of], n_identities, k)
    groups = [_groups(rows, k, n_batches, rng) for rows in rows_of]
    owners = np.repeat(np.arange(len(groups)), [len(of_identity) for of_identity in groups])
    kept = rng.permutation(len(owners))[: n_batches * n_identities]
    batch_of = _deal(owners[kept], n_batches, rng)
    order = np.lexsort((rng.random(len(kept)), batch_of))  # at random within a batch, of which parts may be trained on
    return np.concatenate(groups)[kept[order]].reshape(-1)


def batches_per_epoch(n_images: Sequence[int], n_identities: int, images_per_identity: int) -> int:
    """How many batches of P different identities there can be at most.

    Args:
        n_images: of each identity.
        n_identities: P, not more than there are.
    """
    n_groups = np.maximum(1, np.array(n_images) // images_per_identity)
    low, high = 1, int(n_groups.sum()) // n_identities
    while low < high:
        middle = (low + high + 1) // 2
        fits = np.minimum(n_groups, middle).sum() >= n_identities * middle
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def _groups(rows: NDArray[np.int64], k: int, n_batches: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(n_groups, K) the images of one identity, at most one group for each batch."""
    shuffled = rng.permutation(rows)
    if len(rows) < k:
        shuffled = np.concatenate([shuffled, rng.choice(rows, k - len(rows))])
    n_groups = min(len(shuffled) // k, n_batches)
    return shuffled[: n_groups * k].reshape(n_groups, k)


def _deal(owners: NDArray[np.int64], n_batches: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(n_groups,) the batch of each group: equally many in each batch, and at most one of an identity.

    One identity after another, in random order, takes as many of the batches with the most free places as it has
    groups, at random among equals. The free places of two batches never differ by more than one, so that enough batches
    have one.

    Args:
        owners: (n_groups,) the identity of each group, at most `n_batches` groups of each; n_groups is a multiple of
            `n_batches`.
    """
    batch_of, n_taken = np.empty_like(owners), np.zeros(n_batches, dtype=np.int64)
    for owner in rng.permutation(np.unique(owners)):
        own = np.flatnonzero(owners == owner)
        drawn = np.lexsort((rng.random(n_batches), n_taken))[: len(own)]
        batch_of[own] = drawn
        n_taken[drawn] += 1
    return batch_of
