"""The link between a running trial and its study: lease, records, pruning, stop requests."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import optuna

from attnsearch.errors import TrialInterrupted
from attnsearch.search import shadow
from attnsearch.search.session import Session
from attnsearch.search.study import build_pruner
from attnsearch.store.records import write_epochs
from attnsearch.types import EpochRecord

SLOWEST_EPOCHS_PER_LEASE = 3
VERIFY_EVERY_S = 10.0


def boot_clock() -> float:
    """Seconds that also pass while the machine is suspended, unlike those of `time.monotonic` on Linux."""
    clock: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


@dataclass
class Worker:
    """One worker process: its name in the leases, the parent it belongs to, and whether it was asked to stop."""

    name: str
    parent_pid: int | None
    stop: threading.Event = field(default_factory=threading.Event)

    def is_orphan(self) -> bool:
        """Whether the supervisor that started this worker is gone."""
        return self.parent_pid is not None and os.getppid() != self.parent_pid


class SearchContext:
    """`TrialContext` of a trial in a study."""

    def __init__(
        self,
        session: Session,
        worker: Worker,
        trial: optuna.Trial,
        *,
        attempt: int,
        seed: int,
        directory: Path,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        self.number = trial.number
        self.attempt = attempt
        self.seed = seed
        self.directory = directory
        self._session, self._worker, self._trial, self._clock = session, worker, trial, clock
        self._lease_s = session.loaded.study.lease_s
        self._verified_at = clock()
        self._curve = self._stored_curve()

    def check(self) -> None:
        """Raises `TrialInterrupted` or `LeaseLost`; asks the database only when the last answer has aged.

        A lease lasts far longer than an answer, so that a worker that slept through its lease (a paused process, a
        suspended machine) always asks before it writes.
        """
        if self._worker.stop.is_set():
            raise TrialInterrupted
        if self._clock() - self._verified_at > min(VERIFY_EVERY_S, self._lease_s / 10):
            self._session.leases.renew(self.number, self.attempt, duration_s=self._lease_s)
            self._verified_at = self._clock()

    def record(self, records: list[EpochRecord]) -> None:
        """Puts all epochs so far into the database, and renews the lease for at least three of the slowest of them."""
        write_epochs(self._session.database.engine, self._session.uuid, self.number, self.attempt, records)
        seconds: dict[int, float] = {}
        for record in records:
            seconds[record.epoch] = seconds.get(record.epoch, 0.0) + record.seconds
        self._lease_s = max(
            self._session.loaded.study.lease_s, SLOWEST_EPOCHS_PER_LEASE * max(seconds.values(), default=0.0)
        )
        self._session.leases.renew(self.number, self.attempt, epoch=max(seconds, default=0), duration_s=self._lease_s)
        self._verified_at = self._clock()
        if self._worker.is_orphan():
            self._worker.stop.set()

    def report(self, value: float, epoch: int) -> None:
        """Tells the study the monitor after an epoch; a resumed trial repeats nothing."""
        step = epoch - 1
        if step in self._curve:
            return
        self._curve[step] = value
        if self._is_shadowed():
            shadow.write_curve(self._trial, self._curve)
        else:
            self._trial.report(value, step)

    def should_prune(self) -> bool:
        """Whether the pruner would end the trial now."""
        config = self._session.loaded.study
        if config.pruner is None:
            return False
        if not self._is_shadowed():
            return self._trial.should_prune()
        return shadow.should_prune(
            self._session.trials(), self._trial, pruner=build_pruner(config), direction=config.monitor_direction
        )

    def _is_shadowed(self) -> bool:
        """Whether what is reported, the monitor, is anything else than the one objective that Optuna prunes by."""
        config = self._session.loaded.study
        return list(config.objectives) != [config.monitor]

    def _stored_curve(self) -> dict[int, float]:
        frozen = self._session.database.storage.get_trial(self._trial._trial_id)
        return shadow.read_curve(frozen) if self._is_shadowed() else dict(frozen.intermediate_values)
