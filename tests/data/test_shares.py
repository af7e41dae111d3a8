"""What a process reads of each batch."""

from __future__ import annotations

import numpy as np

from attnsearch.data.shares import split_epoch


def test_all_is_read_without_a_share() -> None:
    places, wholes, chunks = split_epoch([4, 4, 2], None)
    assert places.tolist() == list(range(10))
    assert wholes == chunks == [slice(0, 4), slice(4, 8), slice(8, 10)]


def test_batches_of_which_nothing_is_read_are_left_out() -> None:
    places, wholes, chunks = split_epoch(
        [4, 4, 2], lambda index, n_images: np.arange(1, n_images, 2) if index != 1 else np.arange(0)
    )
    assert places.tolist() == [1, 3, 9]
    assert wholes == [slice(0, 4), slice(8, 10)]
    assert chunks == [slice(0, 2), slice(2, 3)]


def test_a_share_may_be_empty() -> None:
    places, wholes, chunks = split_epoch([4], lambda _index, _n_images: np.arange(0))
    assert (places.tolist(), wholes, chunks) == ([], [], [])
