"""Batches of P identities with K images each."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from attnsearch.data.tables import ImageTable
from attnsearch.errors import DataError
from attnsearch.tasks.sampling import batches_per_epoch, identity_batches


def table_of(n_images: list[int]) -> ImageTable:
    """Identity i has n_images[i] images."""
    labels = np.repeat(np.arange(len(n_images)), n_images)
    ids = tuple(f"{row}.jpg" for row in range(len(labels)))
    return ImageTable("train", tuple(map(str, range(len(n_images)))), ids, tuple(map(Path, ids)), labels)


def batches_of(table: ImageTable, *, p: int, k: int, seed: int = 3, epoch: int = 1) -> NDArray[np.int64]:
    rows = identity_batches(table, batch_size=p * k, images_per_identity=k, seed=seed, epoch=epoch)
    return rows.reshape(-1, p, k)


@pytest.mark.parametrize("n_images", [[4] * 6, [9, 1, 3, 4, 17, 8], [100, 4, 4, 4], [2, 2, 2], [5, 40, 40, 41, 7, 7]])
@pytest.mark.parametrize(("p", "k"), [(2, 4), (3, 2)])
def test_each_batch_has_k_images_of_p_different_identities(n_images: list[int], p: int, k: int) -> None:
    table = table_of(n_images)
    batches = batches_of(table, p=p, k=k)
    labels = table.labels[batches]  # (n, P, K)
    assert (labels == labels[:, :, :1]).all()
    assert all(len(set(batch)) == p for batch in labels[:, :, 0].tolist())
    assert len(batches) == batches_per_epoch(n_images, p, k)


def test_images_come_once_unless_an_identity_has_too_few() -> None:
    table = table_of([9, 1, 3, 4, 17, 8])
    times = Counter(batches_of(table, p=2, k=4).ravel().tolist())
    few = set(np.flatnonzero(np.isin(table.labels, (1, 2))).tolist())
    assert all(count == 1 for row, count in times.items() if row not in few)
    for label, n_images in ((1, 1), (2, 3)):
        of_identity = [times[row] for row in np.flatnonzero(table.labels == label).tolist()]
        assert sum(of_identity) in (0, 4)
        assert min(of_identity) >= 1 or n_images > sum(of_identity)


def test_nearly_all_images_of_equal_identities_are_visited() -> None:
    table = table_of([17] * 20)
    assert len(set(batches_of(table, p=4, k=4).ravel().tolist())) == 20 * 16


@pytest.mark.parametrize("n_images", [[4, 4, 4], [40, 4, 4], [1, 50, 50, 50], [8, 12, 16, 20, 3]])
@pytest.mark.parametrize("p", [2, 3])
def test_the_number_of_batches_is_the_largest(n_images: list[int], p: int) -> None:
    groups = [max(1, count // 4) for count in n_images]
    possible = [n for n in range(1, sum(groups) + 1) if sum(min(count, n) for count in groups) >= p * n]
    assert batches_per_epoch(n_images, p, 4) == max(possible)


def test_an_epoch_depends_on_seed_and_number_alone() -> None:
    table = table_of([9, 6, 13, 4, 17, 8])
    first = batches_of(table, p=2, k=2)
    assert (first == batches_of(table, p=2, k=2)).all()
    np.random.default_rng().random(5)
    assert first.shape == batches_of(table, p=2, k=2, epoch=2).shape
    assert (first != batches_of(table, p=2, k=2, epoch=2)).any()
    assert (first != batches_of(table, p=2, k=2, seed=4)).any()


def test_identities_of_a_batch_change_from_epoch_to_epoch() -> None:
    table = table_of([8] * 12)
    together = Counter(
        frozenset(batch)
        for epoch in range(40)
        for batch in table.labels[batches_of(table, p=2, k=4, epoch=epoch)][:, :, 0].tolist()
    )
    assert len(together) > 60  # of the 66 pairs


def pairs_of(batches: list[list[int]]) -> set[tuple[int, int]]:
    """The pairs of identities that meet in a batch."""
    return {pair for batch in batches for pair in combinations(sorted(batch), 2)}


@pytest.mark.parametrize("n_images", [[16] * 48, [4 * (1 + i % 9) for i in range(60)], [8] * 20 + [40] * 40])
def test_as_many_identities_meet_in_an_epoch_as_in_random_draws(n_images: list[int]) -> None:
    table = table_of(n_images)
    batches = table.labels[batches_of(table, p=16, k=4)][:, :, 0].tolist()
    times, rng = Counter(label for batch in batches for label in batch), np.random.default_rng(5)
    chances = np.array([times[label] for label in range(len(n_images))]) / sum(times.values())
    drawn = [rng.choice(len(n_images), 16, replace=False, p=chances).tolist() for _ in batches]
    assert len(pairs_of(batches)) > 0.95 * len(pairs_of(drawn))


def test_halves_of_a_batch_hold_any_identities() -> None:
    table = table_of([16] * 12)
    halves = [
        half.tolist()
        for epoch in range(12)
        for batch in table.labels[batches_of(table, p=6, k=4, epoch=epoch)][:, :, 0]
        for half in (batch[:3], batch[3:])
    ]
    assert len(pairs_of(halves)) == 12 * 11 // 2


def test_fewer_identities_than_a_batch_needs_are_named() -> None:
    message = (
        r"^train\.batch_size 16 with task\.images_per_identity 4 needs 4 identities in each batch, and train has 3; "
        r"set train\.batch_size=12 or less, or raise task\.images_per_identity$"
    )
    with pytest.raises(DataError, match=message):
        batches_of(table_of([9, 9, 9]), p=4, k=4)
