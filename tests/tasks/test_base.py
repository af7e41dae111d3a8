"""The order of an epoch and the parts of a batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from attnsearch.data.tables import ImageTable
from attnsearch.tasks.base import equal_parts, shuffled
from attnsearch.types import Batch


@pytest.mark.parametrize(
    ("n_images", "part_images", "sizes"),
    [(8, 8, [8]), (8, 4, [4, 4]), (5, 4, [2, 3]), (3, 1, [1, 1, 1]), (5, 2, [2, 3]), (3, 2, [3]), (1, 2, [1])],
)
def test_parts_are_as_equal_as_can_be(n_images: int, part_images: int, sizes: list[int]) -> None:
    images = torch.arange(n_images * 3.0).view(n_images, 3, 1, 1)
    padding = torch.zeros(n_images, 1, 1, dtype=torch.bool)
    ids = tuple(map(str, range(n_images)))
    whole = Batch(images, torch.arange(n_images) % 2, ids, torch.arange(n_images), padding)
    parts = [whole.take(part) for part in equal_parts(n_images, part_images)]
    assert [len(part.labels) for part in parts] == sizes
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert torch.equal(torch.cat([part.rows for part in parts]), whole.rows)
    assert sum((part.image_ids for part in parts), ()) == whole.image_ids
    assert all(part.padding is not None and len(part.padding) == len(part.labels) for part in parts)
    assert all(part.part_masks is None for part in parts)


def test_the_epoch_order_does_not_depend_on_numpys_shuffle() -> None:
    ids = tuple(map(str, range(6)))
    table = ImageTable("train", ("a", "b"), ids, tuple(map(Path, ids)), np.arange(6) % 2)
    keys = np.random.default_rng((7, 3, 0)).random(6)
    assert shuffled(table, seed=7, epoch=3).tolist() == sorted(range(6), key=lambda row: keys[row])
