"""What is made of short trials: whole ones."""

from __future__ import annotations

import numpy as np
import torch

from attnsearch.search.costs import Cost
from attnsearch.search.footprint import Sizes
from attnsearch.search.measure import _first_of_a_process, memory_watched
from attnsearch.search.rehearsal import Performance, Steps
from tests.search.faults import wait_for

SIZES = Sizes(
    weights=1,
    resume=1,
    arrays=1,
    index=1,
    scores=1,
    journal=1,
    per_epoch=1,
    fixed=1,
    published=1,
    thumbnails=1,
    database=1,
)


def performance(*, n_batches: int, extra: Cost) -> Performance:
    """Each batch takes 1 s, each validation batch 2 s and each chunk of scores 3 s, with 1 s around every loop."""
    end = Cost(1, 1) + n_batches * Cost(2, 2) + n_batches * Cost(3, 3)
    epoch = Cost(1, 1) + n_batches * Cost(1, 1) + n_batches * Cost(2, 2)
    return Performance(
        n_epochs=1,
        opening=Cost(),
        begin=epoch + extra,
        epoch=epoch,
        finish=Cost(),
        train=Steps(n_batches, Cost(1, 1)),
        val=Steps(n_batches, Cost(2, 2)),
        recorded=(float(n_batches), 2.0 * n_batches),
        end=end,
        archive=Steps(n_batches, Cost(2, 2)),
        score=Steps(n_batches, Cost(3, 3)),
        publication=Cost(),
        sizes=SIZES,
    )


def test_first_trial_of_a_process_pays_for_what_others_find() -> None:
    """What both have in common, and what lies in their numbers of batches, is left out."""
    first = performance(n_batches=2, extra=Cost(9, 8))
    second = performance(n_batches=7, extra=Cost(4, 4))
    assert _first_of_a_process(first, second) == Cost(5, 4)
    assert _first_of_a_process(first, first) == Cost()


def test_peak_of_memory_is_seen_after_it_has_gone() -> None:
    n_bytes = 2 * 10**8
    with memory_watched(torch.device("cpu")) as peak:
        before = wait_for(lambda: peak.memory_bytes or None)
        block = np.ones(n_bytes, dtype=np.uint8)
        wait_for(lambda: True if peak.memory_bytes - before > 0.9 * n_bytes else None)
        del block
    assert peak.memory_bytes - before > 0.9 * n_bytes
    assert (peak.gpu_bytes, peak.gpu_total_bytes) == (0, 0)
