"""Who works on a study at this moment, on which machines, how fast, and what is left: for all machines together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from attnsearch.processes import ProcessName
from attnsearch.results.forecast import outlook
from attnsearch.results.progress import TrialProgress, state_of
from attnsearch.results.study import StudyReader
from attnsearch.store.evaluation_log import read_test_evaluations
from attnsearch.store.leases import PUBLICATION, Lease, held_leases


@dataclass(frozen=True)
class WorkerStatus:
    """A worker that holds a trial.

    Attributes:
        machine: host name.
        pid: process id there; None in a name of version 0.1.
        gpu: that it has for itself, as its driver names it; None where it has none.
        trial: that it runs, None for one that publishes the study.
        epoch, n_epochs: the last finished epoch of the trial, and how many it is trained for.
        lease_s: seconds until another worker takes the trial over, unless this one is heard of; negative from then on.
    """

    machine: str
    pid: int | None
    gpu: str | None
    trial: int | None
    epoch: int
    n_epochs: int
    lease_s: float


@dataclass(frozen=True)
class StudyStatus:
    """A study on all its machines.

    Attributes:
        state: as in `StudySummary`.
        n_waiting: trials that were interrupted or enqueued.
        epochs_per_hour: of all workers together, at the speed of the trials so far, else of the dry run; None where
            nobody works, or neither is known.
        seconds_left: at that speed, with as many workers as now.
        worker_seconds: that trials have taken so far, of all workers together.
        processor_seconds: likewise, by the last dry run; None without one.
        correction: seconds of an epoch by those of the dry run; None without one, or before the first epoch.
        n_test_evaluations: how often trials were evaluated on the test split.
    """

    study: str
    state: str
    n_done: int
    n_trials: int
    n_paused: int
    n_waiting: int
    workers: tuple[WorkerStatus, ...]
    epochs_per_hour: float | None
    seconds_left: float | None
    worker_seconds: float
    processor_seconds: float | None
    correction: float | None
    n_test_evaluations: int

    @property
    def machines(self) -> tuple[str, ...]:
        """Host names, sorted."""
        return tuple(sorted({worker.machine for worker in self.workers}))


def status_of(study: StudyReader) -> StudyStatus:
    """The status at this moment.

    Raises:
        ConfigError, StoreError: the study cannot be read.
    """
    rest = outlook(study)
    progress, rows = rest.progress, study.rows
    workers = workers_of(study, progress.trials)
    n_training = sum(worker.trial is not None and worker.lease_s > 0 for worker in workers)
    rest = replace(rest, n_workers=max(1, n_training))
    is_stopped = rows.stop is not None and rows.stop.holds(study.settings)
    return StudyStatus(
        study=study.name,
        state=state_of(rows.trials, progress.n_trials, is_stopped=is_stopped),
        n_done=progress.n_done,
        n_trials=progress.n_trials,
        n_paused=progress.n_paused,
        n_waiting=[trial.state for trial in progress.trials].count("waiting"),
        workers=workers,
        epochs_per_hour=n_training * 3600 / rest.epoch_s if rest.epoch_s and n_training else None,
        seconds_left=rest.seconds_left if n_training else None,
        worker_seconds=rest.worker_seconds,
        processor_seconds=rest.processor_seconds,
        correction=rest.correction,
        n_test_evaluations=sum(one.split == "test" for one in read_test_evaluations(study.layout)),
    )


def workers_of(study: StudyReader, trials: Sequence[TrialProgress]) -> tuple[WorkerStatus, ...]:
    """Who holds a trial of a study at this moment, by name.

    Raises:
        StoreError: the database cannot be read.
    """
    of_number = {trial.number: trial for trial in trials}
    held = held_leases(study.shared.databases.url(study.layout), study.rows.uuid)
    return tuple(_worker(lease, lease_s, of_number.get(lease.number)) for lease, lease_s in held)


def _worker(lease: Lease, lease_s: float, trial: TrialProgress | None) -> WorkerStatus:
    name, _, gpu = lease.worker.partition("@")
    process = ProcessName.of_worker(name)
    return WorkerStatus(
        machine=name.rsplit(":", 2)[0],
        pid=None if process is None else process.pid,
        gpu=gpu or None,
        trial=None if lease.number == PUBLICATION else lease.number,
        epoch=lease.epoch,
        n_epochs=0 if trial is None else trial.n_epochs,
        lease_s=lease_s,
    )
