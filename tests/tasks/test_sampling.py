"""The order of an epoch and the parts of a batch."""

from __future__ import annotations

import pytest
import torch

from attnsearch.tasks.sampling import equal_parts
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
    parts = list(equal_parts(whole, part_images))
    assert [len(part.labels) for part in parts] == sizes
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert torch.equal(torch.cat([part.rows for part in parts]), whole.rows)
    assert sum((part.image_ids for part in parts), ()) == whole.image_ids
    assert all(part.padding is not None and len(part.padding) == len(part.labels) for part in parts)
    assert all(part.part_masks is None for part in parts)
