"""What loggers hear of a trial, after its database and its CSV. Needs no torch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import optuna
from optuna.artifacts import get_all_artifact_meta
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.loggers.base import LoggedRun, flat_settings
from attnsearch.loggers.process import LoggerProcess
from attnsearch.search.study import UUID
from attnsearch.search.trials import TrialRow, rows_of_trials
from attnsearch.store.epochs import epoch_rows
from attnsearch.store.layout import ExperimentLayout, StudyLayout
from attnsearch.types import EpochRecord

if TYPE_CHECKING:
    from attnsearch.search.handle import StudyHandle

logger = logging.getLogger(__name__)

PATIENCE_S = 60.0
"""Seconds that a worker waits for a logger after a trial has ended."""
IMAGES = ("overlays.png",)
"""The files attached to a trial that loggers show."""


class TrialLog:
    """The loggers of a running trial. Whatever fails in them becomes one warning for each, and never an error.

    Args:
        patience_s: that `close` waits for a logger at most.
    """

    def __init__(self, handle: StudyHandle, trial: optuna.Trial, *, patience_s: float = PATIENCE_S) -> None:
        self._handle, self._trial, self._patience_s = handle, trial, patience_s
        self._processes: dict[str, LoggerProcess] = {}
        self._last_epoch = 0
        self._has_failed = False

    def start(self, config: ExperimentConfig) -> None:
        """Starts the loggers that the settings of the trial name."""

        def start() -> None:
            run = logged_run(self._handle.layout, self._handle.study, self._trial.number, config)
            for name in dict.fromkeys(config.runtime.loggers):
                self._processes[name] = LoggerProcess(name, self._handle.layout.logged(name))
                self._processes[name].start_run(run)

        self._warned("start", start)

    def hear(self, records: Sequence[EpochRecord]) -> None:
        """Passes on the epochs that are new among all so far; nobody waits for that."""

        def log() -> None:
            new = [record for record in records if record.epoch > self._last_epoch]
            for epoch, values in _epoch_values(new).items():
                for process in self._processes.values():
                    process.log_epoch(epoch, values)
                self._last_epoch = epoch

        if self._processes:
            self._warned("hear of an epoch", log)

    def close(self) -> None:
        """Passes on how the trial ended, if it did, and ends the loggers."""
        if self._processes:
            self._warned("hear of the end", self._end)
        for name, process in self._processes.items():
            problem = process.close(patience_s=self._patience_s)
            if problem:
                logger.warning("trial %d: not all of it was logged by %s: %s", self._trial.number, name, problem)

    def _end(self) -> None:
        storage = self._handle.database.storage
        trial = storage.get_trial(self._trial._trial_id)
        if trial.state.is_finished():
            (row,) = rows_of_trials([trial], tuple(self._handle.loaded.study.objectives), {})
            images = attached_images(trial, storage, self._handle.layout.shared)
            for process in self._processes.values():
                log_end(process, row, images)

    def _warned(self, what: str, step: Callable[[], None]) -> None:
        """Makes a step, and a warning of the first one that fails."""
        try:
            step()
        except Exception as error:
            level = logging.DEBUG if self._has_failed else logging.WARNING
            logger.log(level, "trial %d: loggers cannot %s: %s", self._trial.number, what, error)
            self._has_failed = True


def logged_run(layout: StudyLayout, study: optuna.Study, number: int, config: ExperimentConfig) -> LoggedRun:
    """A trial as loggers know it, under a name that is the same in each attempt."""
    key = f"{str(study.user_attrs[UUID])[:13]}-{number:05d}"
    settings = flat_settings(config.model_dump(mode="json"))
    return LoggedRun(layout.experiment, layout.study, number, key, settings)


def _epoch_values(records: Sequence[EpochRecord]) -> dict[int, dict[str, float]]:
    """Epoch -> `split/metric` -> value, as the database has them; undefined ones are left out."""
    epochs: dict[int, dict[str, float]] = {}
    for row in epoch_rows(records):
        if row["value"] is not None:
            epochs.setdefault(row["epoch"], {})[f"{row['split']}/{row['metric']}"] = row["value"]
    return epochs


def log_end(process: LoggerProcess, row: TrialRow, images: Mapping[str, bytes]) -> None:
    """Passes on how a trial ended and what was measured at its best epoch."""
    process.end_run(row.state, row.metrics, epoch=row.best_epoch, images=images)


def attached_images(trial: FrozenTrial, storage: BaseStorage, layout: ExperimentLayout) -> dict[str, bytes]:
    """Name -> PNG of the overlays that are attached to a trial; none where they were deleted."""
    attached = get_all_artifact_meta(trial, storage=storage)
    paths = {one.filename: layout.artifacts / one.artifact_id for one in attached if one.filename in IMAGES}
    return {name.removesuffix(".png"): path.read_bytes() for name, path in paths.items() if path.is_file()}
