"""What one of several processes reads of the batches of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Share = Callable[[int, int], NDArray[np.int64]]
"""Places of the images that a process works on, ascending, in a batch of this number from 0 and so many images."""


@dataclass(frozen=True)
class BatchFrame:
    """What all images of a batch have in common, also those that another process reads.

    Attributes:
        canvas_hw: height and width of the images with their padding.
        is_padded: whether any image is smaller than the canvas.
    """

    canvas_hw: tuple[int, int]
    is_padded: bool


def split_epoch(sizes: Sequence[int], share: Share | None) -> tuple[NDArray[np.int64], list[slice], list[slice]]:
    """The places in an epoch of the images that are read, and of each batch that has any its places twice.

    Args:
        sizes: images of each batch.
        share: None reads all.
    Returns:
        The places; those of whole batches in the epoch; those of what is read of them among all that is read.
    """
    places: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
    wholes: list[slice] = []
    chunks: list[slice] = []
    start = n_read = 0
    for index, n_images in enumerate(sizes):
        own = np.arange(n_images) if share is None else share(index, n_images)
        if len(own):
            places.append(start + own)
            wholes.append(slice(start, start + n_images))
            chunks.append(slice(n_read, n_read + len(own)))
        start, n_read = start + n_images, n_read + len(own)
    return np.concatenate(places), wholes, chunks
