"""Who works on a study at this moment, on which machines, how fast, and what is left: for all machines together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from attnsearch.config.load import load_stored_study
from attnsearch.processes import ProcessName
from attnsearch.results.progress import StudyProgress, TrialProgress, state_of
from attnsearch.results.study import StudyReader
from attnsearch.search.brackets import all_brackets
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
        epochs_per_hour: of all workers together, at the speed of the trials so far; None before the first epoch.
        seconds_left: at that speed, with as many workers as now; None where nobody works, or before the first epoch.
        worker_seconds: that trials have run so far, of all workers together.
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
    progress = _with_brackets(study)
    workers = _workers(study, progress.trials)
    n_training = sum(worker.trial is not None and worker.lease_s > 0 for worker in workers)
    speed = _epochs_per_second(progress.trials) * n_training
    rows = study.rows
    is_stopped = rows.stop is not None and rows.stop.holds(study.settings)
    n_left = progress.epochs_left(study.experiment.train.epochs)
    return StudyStatus(
        study=study.name,
        state=state_of(rows.trials, progress.n_trials, is_stopped=is_stopped),
        n_done=progress.n_done,
        n_trials=progress.n_trials,
        n_paused=progress.n_paused,
        n_waiting=[trial.state for trial in progress.trials].count("waiting"),
        workers=workers,
        epochs_per_hour=3600 * speed or None,
        seconds_left=n_left / speed if speed else None,
        worker_seconds=sum(trial.seconds for trial in progress.trials),
        n_test_evaluations=sum(one.split == "test" for one in read_test_evaluations(study.layout)),
    )


def _with_brackets(study: StudyReader) -> StudyProgress:
    databases, layout = study.shared.databases, study.layout
    stored = databases.study(layout)
    brackets = all_brackets(stored, stored.get_trials(deepcopy=False), load_stored_study(layout.study_yaml))
    return replace(study.progress(), brackets=tuple(brackets))


def _workers(study: StudyReader, trials: Sequence[TrialProgress]) -> tuple[WorkerStatus, ...]:
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


def _epochs_per_second(trials: Sequence[TrialProgress]) -> float:
    """Of one worker, over all trials that have finished an epoch; 0 before the first."""
    begun = [trial for trial in trials if trial.epoch]
    seconds = sum(trial.seconds for trial in begun)
    return sum(trial.epoch for trial in begun) / seconds if seconds else 0.0
