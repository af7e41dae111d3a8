"""Which images come when: the order of an epoch, and the parts of a batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, replace

import numpy as np
from numpy.typing import NDArray

from attnsearch.data.tables import ImageTable
from attnsearch.types import Batch


def shuffled(table: ImageTable, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """(N,) the rows of a split in a random order that depends on seed and epoch alone."""
    return np.argsort(np.random.default_rng((seed, epoch, 0)).random(len(table)), kind="stable")


def equal_parts(batch: Batch, part_images: int) -> Iterator[Batch]:
    """Parts of at most `part_images` images, as equal as can be, so that none has one image alone if it can be avoided.

    Where `part_images` is 2 and the number of images is odd, one part has three.
    """
    n_images = len(batch.labels)
    n_parts = math.ceil(n_images / part_images)
    if part_images > 1:
        n_parts = max(1, min(n_parts, n_images // 2))
    if n_parts == 1:
        yield batch
        return
    for index in range(n_parts):
        rows = slice(index * n_images // n_parts, (index + 1) * n_images // n_parts)
        columns = {column.name: getattr(batch, column.name) for column in fields(batch)}
        yield replace(batch, **{name: column[rows] for name, column in columns.items() if column is not None})
