"""Tells readers how far the running epoch is, by a small file that is replaced every few seconds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from attnsearch.files import replace_passing

EVERY_S = 2.0


class StepProgress:
    """Counts the steps of each epoch by the calls of `check`, of which one stands before each step.

    It waits for neither the device nor the disk: on a GPU the steps are those that were handed to it. A disk that
    refuses the file costs the trial nothing.

    Args:
        path: the file; it is gone when no epoch runs.
        check: of the trial, see `TrialContext`; called first.
        clock: seconds.
    """

    def __init__(self, path: Path, check: Callable[[], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._trial_check, self._clock = path, check, clock
        self._epoch = self._n_steps = self._batch_size = self._n_checks = 0
        self._begun_at = self._written_at = 0.0

    @contextmanager
    def epoch(self, epoch: int, *, n_steps: int, batch_size: int) -> Iterator[Callable[[], None]]:
        """Yields what is to be called before each step of an epoch of training."""
        self._epoch, self._n_steps, self._batch_size, self._n_checks = epoch, n_steps, batch_size, 0
        self._begun_at = self._written_at = self._clock()
        try:
            yield self._check
        finally:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    def _check(self) -> None:
        self._trial_check()
        now = self._clock()
        n_done, self._n_checks = self._n_checks, self._n_checks + 1
        if now - self._written_at >= EVERY_S:
            self._written_at = now
            images_per_s = n_done * self._batch_size / (now - self._begun_at)
            values = {"epoch": self._epoch, "step": n_done, "n_steps": self._n_steps, "images_per_s": images_per_s}
            replace_passing(self._path, json.dumps(values))
