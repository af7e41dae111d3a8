"""The link between a running trial and its study: lease, records, pruning, stop requests.

What a trial tells the store is written by one background thread, in order. Training waits for it after each epoch, but
not while a database server is away: then it continues, and what has gathered is written when the server is back.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import optuna
from optuna.trial import FrozenTrial, TrialState

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.yaml_layers import to_yaml
from attnsearch.errors import TrialInterrupted
from attnsearch.files import atomic_write
from attnsearch.search.handle import StudyHandle
from attnsearch.search.logs import TrialLog
from attnsearch.search.study import build_pruner
from attnsearch.training.parallel import ALONE, Ranks
from attnsearch.types import Direction, EpochRecord

CURVE = "monitor_curve"
"""The user attribute of a trial that Optuna cannot prune by itself, see `should_prune`."""
SLOWEST_EPOCHS_PER_LEASE = 3
VERIFY_EVERY_S = 10.0
_ASK_WHETHER_AWAY_S = 0.2


def boot_clock() -> float:
    """Seconds that also pass while the machine is suspended, unlike those of `time.monotonic` on Linux."""
    clock: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


@dataclass
class Worker:
    """One worker process: its name in the leases, the parent it belongs to, and whether it was asked to stop.

    Attributes:
        ranks: the processes that train its trials, of which it is the first.
    """

    name: str
    parent_pid: int | None
    stop: threading.Event = field(default_factory=threading.Event)
    ranks: Ranks = ALONE

    def is_orphan(self) -> bool:
        """Whether the supervisor that started this worker is gone."""
        return self.parent_pid is not None and os.getppid() != self.parent_pid


@dataclass(frozen=True)
class ClaimedTrial:
    """A trial that this worker owns until its lease runs out.

    Attributes:
        pause_at: the epoch, from 1, of the rung at which it waits for others; None where it is trained to its end.
        n_rungs: rungs that it has reached before.
    """

    trial: optuna.Trial
    attempt: int
    pause_at: int | None = None
    n_rungs: int = 0


class SearchContext:
    """`TrialContext` of a trial in a study."""

    def __init__(
        self,
        handle: StudyHandle,
        worker: Worker,
        claim: ClaimedTrial,
        *,
        seed: int,
        log: TrialLog | None = None,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        self.number = claim.trial.number
        self.attempt = claim.attempt
        self.seed = seed
        self.directory = handle.layout.trial(self.number).directory
        self._pause_at = claim.pause_at
        self._handle, self._worker, self._trial, self._clock = handle, worker, claim.trial, clock
        self._log, self._records = log, list[EpochRecord]()
        self._lease_s = handle.loaded.study.lease_s
        self._verified_at = clock()
        self._curve = self._stored_curve()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix=f"trial {self.number}")
        self._pending: list[Future[None]] = []
        self._taking = threading.Lock()

    def begin(self, config: ExperimentConfig) -> None:
        """Writes the settings of the trial, and starts its loggers."""
        path = self._handle.layout.trial(self.number).config
        atomic_write(path, to_yaml(config.model_dump(mode="json")), check=self.check)
        if self._log is not None:
            self._log.start(config)

    def close(self) -> None:
        """Drops what is not written yet."""
        self._writer.shutdown(wait=False, cancel_futures=True)

    def check(self) -> None:
        """Raises `TrialInterrupted`, or what the store answered: `LeaseLost` or `StoreError`.

        Renews the lease now and then in the background. After a pause as long as the lease (a stopped process, a
        suspended machine) the answer is awaited, so that an attempt that lost its trial writes nothing more.
        """
        if self._worker.stop.is_set():
            raise TrialInterrupted
        self._raise_errors()
        age_s = self._clock() - self._verified_at
        if age_s > self._lease_s:
            self._submit(self._renew)
            self.flush()
        elif age_s > min(VERIFY_EVERY_S, self._lease_s / 10) and not self._pending:
            self._submit(self._renew)

    def record(self, records: list[EpochRecord]) -> None:
        """Puts all epochs so far into the database, and renews the lease for at least three of the slowest of them."""
        seconds: dict[int, float] = {}
        for record in records:
            seconds[record.epoch] = seconds.get(record.epoch, 0.0) + record.seconds
        self._lease_s = max(
            self._handle.loaded.study.lease_s, SLOWEST_EPOCHS_PER_LEASE * max(seconds.values(), default=0.0)
        )
        self._records = so_far = list(records)
        self._submit(lambda: self._write(so_far))
        self._settle()
        if self._worker.is_orphan():
            self._worker.stop.set()

    def report(self, value: float, epoch: int) -> None:
        """Tells the study the monitor after an epoch; a resumed trial repeats nothing.

        A study with several objectives is told nothing: Optuna keeps no curves of those. Loggers hear of the epoch now
        that the database and the CSV have it.
        """
        self._tell_loggers()
        step = epoch - 1
        if step in self._curve or len(self._handle.loaded.study.objectives) > 1:
            return
        self._curve[step] = value
        curve = dict(self._curve)
        if self._is_shadowed():
            self._submit(lambda: write_curve(self._trial, curve))
        else:
            self._submit(lambda: self._trial.report(value, step))
        self._settle()

    def _tell_loggers(self) -> None:
        log, so_far = self._log, self._records
        if log is not None:
            self._submit(lambda: log.hear(so_far))  # after the database, also where that is away
            self._settle()

    def should_prune(self) -> bool:
        """Whether the pruner would end the trial now; not while the server is away, where it cannot be asked."""
        config = self._handle.loaded.study
        if config.pruner is None or config.halving or self._pending:
            return False
        if not self._is_shadowed():
            return self._trial.should_prune()
        return should_prune(
            self._handle.trials(), self._trial, pruner=build_pruner(config), direction=config.monitor_direction
        )

    def should_pause(self, epoch: int) -> bool:
        """Whether the leg of the trial that this worker has claimed ends with this epoch, or an earlier one."""
        return self._pause_at is not None and epoch >= self._pause_at

    def flush(self) -> None:
        """Waits until everything is written, however long the server may be away.

        Raises:
            LeaseLost, StoreError: what the store answered.
        """
        wait(self._pending)
        self._raise_errors()

    def _settle(self) -> None:
        """As `flush`, but returns at once while the server is away."""
        while wait(self._pending, timeout=_ASK_WHETHER_AWAY_S).not_done and not self._handle.store.is_away:
            pass
        self._raise_errors()

    def _submit(self, write: Callable[[], None]) -> None:
        self._pending.append(self._writer.submit(write))

    def _raise_errors(self) -> None:
        with self._taking:  # what writes files beside the training checks too
            while self._pending and self._pending[0].done():
                self._pending.pop(0).result()

    def _renew(self) -> None:
        self._handle.store.leases.renew(self.number, self.attempt, duration_s=self._lease_s)
        self._verified_at = self._clock()

    def _write(self, records: list[EpochRecord]) -> None:
        self._handle.store.write_epochs(self.number, records, attempt=self.attempt)
        last = max((record.epoch for record in records), default=0)
        self._handle.store.leases.renew(self.number, self.attempt, epoch=last, duration_s=self._lease_s)
        self._verified_at = self._clock()

    def _is_shadowed(self) -> bool:
        """Whether what is reported, the monitor, is another metric than the one objective that Optuna prunes by."""
        config = self._handle.loaded.study
        return list(config.objectives) != [config.monitor]

    def _stored_curve(self) -> dict[int, float]:
        frozen = self._handle.database.storage.get_trial(self._trial._trial_id)
        return read_curve(frozen) if self._is_shadowed() else dict(frozen.intermediate_values)


def write_curve(trial: optuna.Trial, curve: dict[int, float]) -> None:
    """Keeps a curve (step from 0 -> value) with its trial."""
    trial.set_user_attr(CURVE, json.dumps(curve))


def read_curve(trial: FrozenTrial) -> dict[int, float]:
    """The curve that a trial keeps; empty before its first epoch."""
    return {int(step): float(value) for step, value in json.loads(trial.user_attrs.get(CURVE, "{}")).items()}


def should_prune(
    trials: Sequence[FrozenTrial], trial: optuna.Trial, *, pruner: optuna.pruners.BasePruner, direction: Direction
) -> bool:
    """What `pruner` says of a running trial, judged by the monitored curves of all trials.

    For a study whose one objective is not the monitor: Optuna judges reports by the direction of the objective. So the
    curve of each trial is kept in a user attribute, and the pruner is asked on a study in memory, whose objective is
    the monitor, that is rebuilt from those.
    """
    shadow = optuna.create_study(direction=direction)
    storage, asked_id = shadow._storage, None
    for other in trials:
        if read_curve(other) and other.state not in (TrialState.WAITING, TrialState.FAIL):
            shadow_id = storage.create_new_trial(shadow._study_id, template_trial=_shadow_trial(other))
            asked_id = shadow_id if other.number == trial.number else asked_id
    if asked_id is None:
        return False
    return pruner.prune(shadow, storage.get_trial(asked_id))


def _shadow_trial(trial: FrozenTrial) -> FrozenTrial:
    curve = read_curve(trial)
    return optuna.create_trial(
        state=trial.state,
        value=curve[max(curve)] if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) else None,
        intermediate_values=curve,
    )
