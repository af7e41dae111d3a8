"""One trial, from its settings to its best checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.device import describe_device, device_errors, pick_device, release_memory
from attnsearch.errors import OutOfMemory, TrialError, TrialPaused, TrialPruned
from attnsearch.files import Check, disk_errors, make_folder
from attnsearch.progress import logging_to
from attnsearch.training.batch_norm import share_batch_norms
from attnsearch.training.film import FilmFrame, film_rows, start_film
from attnsearch.training.loop import TrainingSetup, train_epoch, validate_epoch
from attnsearch.training.parallel import ALONE, Ranks
from attnsearch.training.setup import build_run
from attnsearch.training.state import (
    Checkpoints,
    ResumeCheckpoint,
    TrainingState,
    copy_checkpoints,
    flatten,
    look_up,
    read_resume,
    repair_best,
    reread_resume,
)
from attnsearch.training.step_progress import StepProgress
from attnsearch.training.writer import BackgroundWriter
from attnsearch.types import EpochRecord, TrialContext, TrialResult

if TYPE_CHECKING:
    from attnsearch.data.loader import DataSource

logger = logging.getLogger(__name__)


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Appends what the package logs from INFO on to `path` during the block; other loggers are left alone.

    Raises:
        StoreError: the disk refuses.
    """
    make_folder(path.parent)
    with disk_errors(path):
        handler = logging.FileHandler(path, encoding="utf-8")
    try:
        with logging_to(handler):
            yield
    finally:
        handler.close()


def fit(config: ExperimentConfig, context: TrialContext, *, data: DataSource, ranks: Ranks = ALONE) -> TrialResult:
    """Trains one model, or continues where an earlier attempt of the same trial stopped.

    Writes into `context.directory`: log, resume and best checkpoint, per-epoch CSV. Everything random derives from
    `config.seed`, so the config alone repeats the run. Resuming equals not stopping: on a CPU, bit for bit.

    Args:
        context: gets each epoch and decides whether to stop; after a resume, `report` gets all epochs again.
        data: opened from `config.data`, or a source that serves it.
        ranks: of which this is rank 0; all others are in `follow_epochs`.
    Returns:
        The result of the best epoch, "complete" or, where the context ended the trial, "pruned", or "paused" where it
        continues in a later call. Its metrics have `train/accumulation` where a batch was worked on in other parts than
        the config says, because of the memory or of several devices.
    Raises:
        ConfigError, DataError, StoreError: the settings, the images or the disk cannot be used.
        NonFiniteLoss, OutOfMemory: the setting does not work.
        DeviceError: the device failed, or other processes fill it.
        RankLost: the process of another rank has ended.
        TrialError: the monitor was undefined in all epochs.
        TrialInterrupted, LeaseLost: from the context.
    """
    trial = TrainingState(config, context, data, accumulation=config.train.accumulation * ranks.n_ranks, ranks=ranks)
    with ranks.together(), log_to(trial.layout.log):
        try:
            while not _fits(trial, run_epochs):
                _halve_parts(trial)
        except TrialPruned:
            return trial.result("pruned")
        except TrialPaused:
            return trial.result("paused")
        return trial.result("complete")


def follow_epochs(config: ExperimentConfig, *, data: DataSource, ranks: Ranks) -> None:
    """Trains along with rank 0, which alone writes, records and decides.

    Raises:
        As `fit`; what ends the training of rank 0 ends this one too, but for what it calls pruned or paused.
    """
    accumulation = config.train.accumulation * ranks.n_ranks
    trial = TrainingState(config, _Unheard(), data, accumulation=accumulation, ranks=ranks)
    with ranks.together(), suppress(TrialPruned, TrialPaused):
        while not _fits(trial, _train_along):
            _halve_parts(trial)


class _Unheard:
    """The `TrialContext` of all ranks but the first, which write nothing and decide nothing."""

    number = attempt = seed = 0
    directory = Path()

    def check(self) -> None: ...

    def record(self, records: list[EpochRecord]) -> None: ...

    def report(self, value: float, epoch: int) -> None: ...

    def should_prune(self) -> bool:
        return False

    def should_pause(self, epoch: int) -> bool:
        return False


def _fits(trial: TrainingState, train: Callable[[TrainingState], None]) -> bool:
    """Trains to the end; returns whether the memory was enough, on all ranks."""
    try:
        with trial.ranks.together(), device_errors():
            trial.ranks.place(pick_device(trial.config.runtime.device))
            train(trial)
        return True
    except OutOfMemory:
        pass
    finally:
        release_memory()
    return False  # outside of `except`, so that the error no longer holds on to the tensors of the failed step


def run_epochs(trial: TrainingState) -> None:
    """All epochs from the last finished one on, until the last one or the end of patience.

    The checkpoints of an epoch are written while the next one trains; all are on the disk at the end. The database may
    know one epoch more than the disk: after a kill that epoch is trained again.

    Raises:
        TrialPruned, TrialPaused: the context ended the trial, or has it wait; all is written.
    """
    run = _resume(trial)
    start_film(trial.layout, trial.data.under(trial.config.data), check=trial.context.check)
    shown = film_rows(run.val.table)
    _publish(trial, range(1, trial.epoch + 1))
    with BackgroundWriter(trial.context.check) as writer:
        steps = StepProgress(trial.layout.progress, writer.check)
        while trial.is_unfinished():
            epoch = trial.epoch + 1
            with steps.epoch(epoch, n_steps=len(run.train), batch_size=run.config.train.batch_size) as check:
                train = train_epoch(run, epoch, accumulation=trial.accumulation, check=check)
            film = FilmFrame(shown)
            val = validate_epoch(run, epoch, check=writer.check, film=film)
            is_best = trial.add(_with_changes(trial, train), val)
            line = _epoch_line(trial, train, val, is_best=is_best)
            # no name here keeps the copies longer than it takes to write them
            checkpoints = partial(copy_checkpoints, run, trial, is_best=is_best)
            writer.write(partial(_write, film.writer(trial.layout, epoch), checkpoints(), trial.context, line))
            _publish(trial, range(epoch, epoch + 1))
    if not trial.best_epoch:
        raise TrialError(f"monitor {trial.config.monitor!r} was undefined (NaN) in all {trial.epoch} epochs")


def _train_along(trial: TrainingState) -> None:
    """The same on another rank than 0: nothing is written, and what ends the trial early comes from rank 0."""
    run = _join(trial)
    shown = film_rows(run.val.table)
    while trial.is_unfinished():
        epoch = trial.epoch + 1
        train = train_epoch(run, epoch, accumulation=trial.accumulation, check=trial.context.check)
        val = validate_epoch(run, epoch, check=trial.context.check, film=FilmFrame(shown))
        trial.add(_with_changes(trial, train), val)


def _resume(trial: TrainingState) -> TrainingSetup:
    """The run at the state of the resume checkpoint, or at its beginning where there is none, on all ranks."""
    resume = read_resume(trial)
    run = _start(trial, resume)
    device = describe_device(run.arithmetic.device)
    n_ranks = trial.ranks.n_ranks
    logger.info(
        "trial %d, attempt %d on %s%s, %s",
        *(trial.context.number, trial.context.attempt, f"{n_ranks} x " if n_ranks > 1 else "", device),
        run.arithmetic.precision,
    )
    if resume is not None and repair_best(run, trial):
        logger.info("resumes after epoch %d from %s", trial.epoch, resume.path.name)
    elif resume is not None:
        logger.warning("%s of epoch %d is lost, training starts again", trial.layout.best, trial.best_epoch)
        resume = None
        run = _start(trial, None)
    started = {key: getattr(trial, key) for key in _DECIDED_AT_START}
    trial.ranks.exchange({"resume": None if resume is None else str(resume.path), **started})
    _check_monitor(run, trial)
    return run


#: What rank 0 knows of a trial that the resume checkpoint alone does not tell.
_DECIDED_AT_START = ("accumulation", "best_epoch", "patient_from")


def _join(trial: TrainingState) -> TrainingSetup:
    """The run as rank 0 starts it."""
    started = trial.ranks.exchange()[0]
    resume = None if started["resume"] is None else reread_resume(Path(started["resume"]))
    trial.accumulation = started["accumulation"]
    run = _start(trial, resume)
    for key in _DECIDED_AT_START:
        setattr(trial, key, started[key])
    _check_monitor(run, trial)
    return run


def _start(trial: TrainingState, resume: ResumeCheckpoint | None) -> TrainingSetup:
    """The run at the state of a resume checkpoint, or at its beginning."""
    trial.records, trial.best_epoch = [], 0
    if resume is not None:
        trial.accumulation = max(trial.accumulation, resume.accumulation)
    run = build_run(trial)
    if trial.config.train.shared_batch_norm:
        share_batch_norms(run.model, trial.ranks)
    if resume is not None:
        resume.load_into(run, trial)
    return run


def _check_monitor(run: TrainingSetup, trial: TrainingState) -> None:
    """Validates a batch where the monitor is none that all models of the task have.

    Raises:
        ConfigError: it is not measured.
    """
    if trial.epoch == 0 and trial.config.monitor not in {
        f"val/{name}" for name in ("loss", *run.task.metrics(run.val.table))
    }:
        probe = validate_epoch(run, 1, check=trial.context.check, n_batches=1)
        look_up(flatten([probe]), trial.config.monitor)


def _publish(trial: TrainingState, new_epochs: range) -> None:
    """Writes all epochs to the database and the CSV and reports the new ones; after a resume, all are new."""
    if not trial.records:
        return
    trial.context.record(trial.records)
    trial.write_csv()
    for epoch in new_epochs:
        trial.context.report(trial.monitored(epoch), epoch)
    if trial.context.should_prune():
        raise TrialPruned(f"pruned after epoch {trial.epoch}")
    if trial.context.should_pause(trial.epoch) and trial.is_unfinished():
        raise TrialPaused(f"paused after epoch {trial.epoch}")


def _with_changes(trial: TrainingState, train: EpochRecord) -> EpochRecord:
    """Notes a setting that is no longer the one that was asked for."""
    if trial.accumulation == trial.config.train.accumulation:
        return train
    return replace(train, metrics={**train.metrics, "accumulation": float(trial.accumulation)})


def _halve_parts(trial: TrainingState) -> None:
    """Doubles the accumulation after memory ran out, if that is allowed and divides the batch.

    Raises:
        OutOfMemory: it is not.
    """
    batch_size, (height, width) = trial.config.train.batch_size, trial.config.data.image_hw
    said = (
        f"out of memory with {batch_size // trial.accumulation} images of {height} x {width} px at once "
        f"(train.batch_size {batch_size}, accumulation {trial.accumulation})"
    )
    if not trial.config.train.halve_on_oom:
        raise OutOfMemory(f"{said}; set train.halve_on_oom=true or a larger train.accumulation")
    if not trial.config.can_train_in(2 * trial.accumulation):
        raise OutOfMemory(f"{said}, and these cannot be halved; use a smaller data.image_size_px or model")
    trial.accumulation *= 2
    logger.warning("%s; the epoch starts again with accumulation %d", said, trial.accumulation)


def _write(write_frame: Callable[[Check], None], checkpoints: Checkpoints, context: TrialContext, line: str) -> None:
    """Writes the files of an epoch, then its line of the log: a line says that the epoch is safe.

    The frame of the film comes first: an epoch that training does not repeat has one.
    """
    write_frame(context.check)
    checkpoints.write(context)
    logger.info(line)


def _epoch_line(trial: TrainingState, train: EpochRecord, val: EpochRecord, *, is_best: bool) -> str:
    """The epoch that has just ended, as the log shows it."""
    return (
        f"epoch {trial.epoch}/{trial.config.train.epochs}: train loss {train.loss:.4f}, val loss {val.loss:.4f}, "
        f"{trial.config.monitor} {trial.monitored(trial.epoch):.4f}{' (best)' if is_best else ''}, lr {train.lr:.3g}, "
        f"{train.seconds + val.seconds:.1f} s, {train.images_per_s:.0f} images/s, "
        f"{max(train.peak_memory_mb, val.peak_memory_mb):.0f} MB"
    )
