"""A trial in training: its epochs so far, and the checkpoints from which it continues after a kill.

After an epoch the resume checkpoint is written first and the best one second, while the next epoch trains. Killed
between the two, a trial finds that its resume checkpoint names the epoch that it itself holds, and writes the best one
again from there; in any other order the weights of the best epoch could be overwritten by those of an epoch that then
runs differently.
"""

from __future__ import annotations

import errno
import logging
import math
import pickle
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.errors import ConfigError, DataError, StoreError
from attnsearch.files import atomic_path, disk_errors, explain_os_error
from attnsearch.models.checkpoint import ModelCheckpoint, read_model_checkpoint, write_model_checkpoint
from attnsearch.models.weights import check_declared_sizes
from attnsearch.store.epochs import named_values, write_csv
from attnsearch.store.trial_layout import TrialLayout
from attnsearch.training.parallel import ALONE, Ranks
from attnsearch.training.writer import copy_to_cpu
from attnsearch.types import EpochRecord, TrialContext, TrialResult

if TYPE_CHECKING:
    from attnsearch.data.loader import DataSource
    from attnsearch.training.loop import TrainingSetup

logger = logging.getLogger(__name__)

_FORMAT = 2


@dataclass
class TrainingState:
    """The state of a trial between two epochs, but for the weights.

    Attributes:
        accumulation: parts that a batch is worked on in, by all ranks together; grows where memory runs out and that is
            allowed. A trial that continues on another number of devices keeps it, so that it computes the same.
        records: of all finished epochs, training before validation.
        best_epoch: whose weights lie in the best checkpoint, from 1; 0 while there is none.
        patient_from: epoch from which early stopping counts, where the best epoch before it was lost.
    """

    config: ExperimentConfig
    context: TrialContext
    data: DataSource
    accumulation: int
    ranks: Ranks = ALONE
    records: list[EpochRecord] = field(default_factory=list)
    best_epoch: int = 0
    patient_from: int = 0

    @property
    def layout(self) -> TrialLayout:
        return TrialLayout(self.context.directory)

    @property
    def epoch(self) -> int:
        """The last finished epoch, from 1; 0 before the first."""
        return max((record.epoch for record in self.records), default=0)

    def add(self, train: EpochRecord, val: EpochRecord) -> bool:
        """Adds a finished epoch; returns whether it is the best so far.

        Only a strict improvement counts, so the first of equal epochs is the best; NaN is never better.

        Raises:
            ConfigError: the monitor is not measured.
        """
        self.records += [train, val]
        value = self.monitored(val.epoch)
        if math.isnan(value) or (self.best_epoch and not self._is_better(value, self.monitored(self.best_epoch))):
            return False
        self.best_epoch = val.epoch
        return True

    def _is_better(self, value: float, than: float) -> bool:
        return value > than if self.config.monitor_direction == "maximize" else value < than

    def monitored(self, epoch: int) -> float:
        """The monitor's value of one epoch.

        Raises:
            ConfigError: it is not measured.
        """
        return look_up(self.metrics(epoch), self.config.monitor)

    def metrics(self, epoch: int) -> dict[str, float]:
        """`split/name` -> value, for all that was measured in one epoch."""
        return flatten([record for record in self.records if record.epoch == epoch])

    def is_exhausted(self) -> bool:
        """Whether early stopping ends the trial: no better epoch for as long as it was asked to wait."""
        patience = self.config.train.early_stopping_epochs
        return patience is not None and self.epoch - max(self.best_epoch, self.patient_from) >= patience

    def is_unfinished(self) -> bool:
        """Whether epochs are left to train."""
        return self.epoch < self.config.train.epochs and not self.is_exhausted()

    def write_csv(self) -> None:
        """Writes the table of all epochs.

        Raises:
            StoreError: the disk refuses.
        """
        write_csv(self.layout.epochs_csv, self.records, check=self.context.check)

    def result(self, state: Literal["complete", "pruned", "paused"]) -> TrialResult:
        """The row that ends or pauses the trial: values of the best epoch, time of all epochs in whatever attempt."""
        train = [record for record in self.records if record.split == "train"]
        train_seconds = sum(record.seconds for record in train)
        return TrialResult(
            state=state,
            best_epoch=self.best_epoch,
            epochs_run=self.epoch,
            metrics=self.metrics(self.best_epoch),
            seconds=sum(record.seconds for record in self.records),
            images_per_s=sum(record.n_images for record in train) / train_seconds if train_seconds else 0.0,
        )


def flatten(records: Sequence[EpochRecord]) -> dict[str, float]:
    """`split/name` -> value, with the names that the database and the CSV use."""
    return {f"{record.split}/{name}": value for record in records for name, value in named_values(record).items()}


def look_up(metrics: dict[str, float], monitor: str) -> float:
    """The monitor's value.

    Raises:
        ConfigError: it is not measured; the message names what is.
    """
    if monitor not in metrics:
        measured = ", ".join(sorted(name for name in metrics if name.startswith("val/")))
        raise ConfigError(f"monitor {monitor!r} is not measured for this model, use one of {measured}")
    return metrics[monitor]


@dataclass(frozen=True)
class ResumeCheckpoint:
    """A resume checkpoint as read: plain values, and tensors on the CPU."""

    path: Path
    content: dict[str, Any]

    @property
    def accumulation(self) -> int:
        return int(self.content["accumulation"])

    def load_into(self, run: TrainingSetup, trial: TrainingState) -> None:
        """Puts weights, optimizer, schedule, records and best epoch back."""
        run.model.load_state_dict(self.content["model"])
        load_optimizer(run.optimizer, self.content["optimizer"])
        run.schedule.step_update(self.content["n_updates"])
        trial.records = [EpochRecord(**record) for record in self.content["records"]]
        trial.best_epoch = int(self.content["best_epoch"])


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Puts a state back, in the memory format of the parameters.

    A fused kernel walks through memory and does not look at strides, so a state of another format would be mixed up.
    """
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one finished epoch, apart from what trains on.

    Attributes:
        content: of the resume checkpoint.
        best: the model, where the epoch is the best so far.
        wait: returns once a GPU has copied what is in them.
    """

    content: dict[str, Any]
    best: ModelCheckpoint | None
    wait: Callable[[], None]

    def write(self, context: TrialContext) -> None:
        """Writes the resume checkpoint of this attempt, whole or not at all, then removes those of earlier attempts.

        Then the best one, if there is one.

        Raises:
            StoreError: the disk refuses.
        """
        self.wait()
        layout = TrialLayout(context.directory)
        with atomic_path(layout.resume(context.attempt), check=context.check) as temporary:
            _save(self.content, temporary)
        for attempt, path in layout.resumes().items():
            if attempt < context.attempt:
                with disk_errors(path):
                    path.unlink(missing_ok=True)
        if self.best is not None:
            write_model_checkpoint(self.best, check=context.check)


def copy_checkpoints(run: TrainingSetup, trial: TrainingState, *, is_best: bool) -> Checkpoints:
    """The checkpoints of the epoch that has just ended, copied to the CPU.

    A resume checkpoint holds tensors, numbers, strings, dicts and lists only, and no generator states: each epoch seeds
    its own.

    Args:
        is_best: whether the epoch is the best so far.
    """
    state = {"model": run.model.state_dict(), "optimizer": run.optimizer.state_dict()}
    copied, wait = copy_to_cpu(state, run.arithmetic.device)
    content = {
        "format": _FORMAT,
        "digest": trial.config.digest(),
        "val_hash": trial.data.tables.val_hash,
        "accumulation": trial.accumulation,
        "best_epoch": trial.best_epoch,
        "n_updates": trial.epoch * len(run.train),
        "records": [asdict(record) for record in trial.records],
        **copied,
    }
    return Checkpoints(content, _best_checkpoint(trial, copied["model"]) if is_best else None, wait)


def _save(content: dict[str, Any], path: Path) -> None:
    try:
        with path.open("wb") as file:
            torch.save(content, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # torch replaces the error of the disk
            raise error.__context__ from None
        raise


def read_resume(trial: TrainingState) -> ResumeCheckpoint | None:
    """The newest whole resume checkpoint of any attempt, or None; a broken one is passed over with a warning.

    Raises:
        ConfigError: it was written under other settings.
        DataError: it was written on other validation images.
    """
    for path in trial.layout.resumes().values():
        content = _load(path)
        if content is None:
            logger.warning("%s is broken and is passed over", path)
            continue
        _require_same(content, trial, path)
        return ResumeCheckpoint(path, content)
    return None


def resumable_epoch(layout: TrialLayout) -> int:
    """The last epoch of the newest whole resume checkpoint, from 1; 0 where there is none.

    Raises:
        StoreError: the disk or the system refuses.
    """
    for path in layout.resumes().values():
        content = _load(path)
        if content is not None:
            return max((int(record["epoch"]) for record in content["records"]), default=0)
    return 0


def reread_resume(path: Path) -> ResumeCheckpoint:
    """The resume checkpoint that another rank has just read.

    Raises:
        StoreError: it is not there or not whole here.
    """
    content = _load(path)
    if content is None:
        raise StoreError(f"{path} is whole for one process of the trial and broken for another; check the file system")
    return ResumeCheckpoint(path, content)


def _load(path: Path) -> dict[str, Any] | None:
    """The content, or None of a broken file; torch itself does not compare checksums.

    Raises:
        StoreError: the disk or the system refuses; the file may be whole, and its epochs are not trained again.
    """
    try:
        check_declared_sizes(path)
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return None
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        if error.errno in (None, errno.EINVAL):  # an offset that no file has, as damaged archives name them
            return None
        raise explain_os_error(error, path) from error
    except (ConfigError, zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError):
        return None
    if not isinstance(content, dict):
        return None
    if content.get("format") == 1:  # of version 0.1, the same but for this name
        return {**content, "best_epoch": content.pop("kept_epoch")}
    return content if content.get("format") == _FORMAT else None


def _require_same(content: dict[str, Any], trial: TrainingState, path: Path) -> None:
    digest, val_hash = trial.config.digest(), trial.data.tables.val_hash
    if content["digest"] != digest:
        raise ConfigError(
            f"{path} was written under other settings (digest {content['digest'][:12]}, now {digest[:12]}); "
            "use the config.yaml beside it, or another folder"
        )
    if content["val_hash"] != val_hash:
        raise DataError(
            f"{path} was validated on other images (hash {content['val_hash'][:12]}, now {val_hash[:12]}); "
            "restore the data set, or start in another folder"
        )


def _best_checkpoint(trial: TrainingState, state: dict[str, torch.Tensor]) -> ModelCheckpoint:
    """The weights of the best epoch as a checkpoint."""
    return ModelCheckpoint(
        path=trial.layout.best,
        config=trial.config,
        class_names=trial.data.tables.class_names,
        epoch=trial.best_epoch,
        accumulation=trial.accumulation,
        val_hash=trial.data.tables.val_hash,
        camera_names=trial.data.tables.train.camera_names,
        state=state,
    )


def repair_best(run: TrainingSetup, trial: TrainingState) -> bool:
    """Makes the best checkpoint agree with the resume checkpoint that was just loaded.

    Returns:
        Whether training can continue from here; False where the weights of the best epoch are lost for good and only
        the very same training from the start brings them back.
    """
    stored = _best_epoch_on_disk(trial)
    if stored == trial.best_epoch:
        return True
    if trial.best_epoch == trial.epoch:
        write_model_checkpoint(_best_checkpoint(trial, run.model.state_dict()), check=trial.context.check)
        return True
    if stored > trial.epoch:  # the newest resume checkpoint was broken; that later epoch comes again and is better
        logger.warning("%s is of epoch %d and will be written again", trial.layout.best, stored)
        trial.best_epoch, trial.patient_from = 0, trial.epoch
        return True
    return False


def _best_epoch_on_disk(trial: TrainingState) -> int:
    """0 where there is no readable one of these settings."""
    try:
        best = read_model_checkpoint(trial.layout.best)
    except ConfigError:
        return 0
    return best.epoch if best.config.digest() == trial.config.digest() else 0
