"""A trial in training: its settings, and its epochs so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.errors import ConfigError
from attnsearch.store.epochs import named_values
from attnsearch.store.layout import TrialLayout
from attnsearch.types import EpochRecord, TrialContext, TrialResult

if TYPE_CHECKING:
    from attnsearch.data.loader import DataSource


@dataclass
class TrainingState:
    """The state of a trial between two epochs, but for the weights.

    Attributes:
        accumulation: parts that a batch is worked on in; grows where memory runs out and that is allowed.
        records: of all finished epochs, training before validation.
        best_epoch: whose weights lie in the best checkpoint, from 1; 0 while there is none.
        patient_from: epoch from which early stopping counts, where the best epoch before it was lost.
    """

    config: ExperimentConfig
    context: TrialContext
    data: DataSource
    accumulation: int
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

    def result(self, state: Literal["complete", "pruned"]) -> TrialResult:
        """The row that ends the trial: values of the best epoch, time of all of its epochs in whatever attempt."""
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
