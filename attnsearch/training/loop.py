"""The two loops of training: one epoch of updates, one pass over validation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.data.transfer import HostCopy
from attnsearch.device import Arithmetic, peak_mb, seed_torch, start_peak
from attnsearch.errors import NonFiniteLoss
from attnsearch.models.base import AttentionModel
from attnsearch.tasks.base import PassMetrics, Task
from attnsearch.training.distillation import Teacher
from attnsearch.types import AttentionOutput, Batch, EpochRecord, Split

if TYPE_CHECKING:
    from attnsearch.data.loader import BatchLoader

#: Updates between two looks at the loss, each of which reads what the look before it has asked for.
CHECK_LOSS_EVERY = 50


class Schedule(Protocol):
    """How the learning rate changes."""

    def step_update(self, num_updates: int) -> None:
        """Sets the rate of the next update, after so many."""


@dataclass(frozen=True)
class TrainingSetup:
    """All that the loops work with."""

    config: ExperimentConfig
    task: Task
    model: AttentionModel
    arithmetic: Arithmetic
    optimizer: Optimizer
    schedule: Schedule
    train: BatchLoader
    val: BatchLoader
    teacher: Teacher | None = None


def train_epoch(run: TrainingSetup, epoch: int, *, accumulation: int, check: Callable[[], None]) -> EpochRecord:
    """One pass over the training images, one update per batch.

    A batch is worked on in `accumulation` parts, whose gradients add up, weighted by their images, to that of the
    whole batch. All randomness depends on (seed, epoch) alone.

    Args:
        epoch: from 1.
        check: called before each update; what it raises ends the epoch.
    Raises:
        NonFiniteLoss: the mean loss became NaN or infinite.
    """
    seed_torch(run.config.seed, epoch, "train")
    set_training_mode(run)
    watch = Stopwatch(run.arithmetic.device)
    meter = run.task.meter(run.train.table, run.arithmetic.device, in_training=True)
    lr = learning_rate(run.optimizer)
    watch_loss = LossWatch(run, epoch)
    for index, batch in enumerate(run.train.epoch(epoch)):
        check()
        run.optimizer.zero_grad(set_to_none=True)
        for part in run.task.split(batch, run.config.train.batch_size // accumulation):
            output, terms = forward(run, part)
            fraction = len(part.labels) / len(batch.labels)
            torch.autograd.backward(torch.stack(list(terms.values())).sum() * fraction)
            meter.add(part, output, terms)
        if run.config.train.clip_norm is not None:
            clip_grad_norm_(run.model.parameters(), run.config.train.clip_norm)
        run.optimizer.step()
        run.schedule.step_update((epoch - 1) * len(run.train) + index + 1)
        if (index + 1) % CHECK_LOSS_EVERY == 0:
            watch_loss.look(meter.mean_loss())
    scores = meter.scores()
    watch_loss.end(scores.loss)
    return watch.record(scores, split="train", epoch=epoch, lr=lr)


@torch.no_grad()
def validate_epoch(
    run: TrainingSetup, epoch: int, *, check: Callable[[], None], n_batches: int | None = None
) -> EpochRecord:
    """One pass over the validation images in the arithmetic of training, so that evaluation can repeat its numbers.

    Metrics are those of the task's meter, the leading one also on two fixed halves of the images.

    Args:
        epoch: from 1; validation after it.
        n_batches: only so many, to see what is measured.
    Raises:
        NonFiniteLoss: the mean loss is NaN or infinite, though batches have a loss, or an embedding is.
    """
    run.model.eval()
    watch = Stopwatch(run.arithmetic.device)
    meter = run.task.meter(run.val.table, run.arithmetic.device, in_halves=True)
    for batch in islice(run.val.epoch(epoch), n_batches):
        check()
        output, terms = _forward_in_validation(run, batch)
        meter.add(batch, output, terms)
    if meter.has_loss:
        _require_finite(meter.loss(), split="val", epoch=epoch, lr=learning_rate(run.optimizer))
    scores = meter.scores()
    return watch.record(scores, split="val", epoch=epoch, lr=learning_rate(run.optimizer))


def forward(run: TrainingSetup, batch: Batch) -> tuple[AttentionOutput, dict[str, Tensor]]:
    """The output in training, its logits in float32, and the terms whose sum is the loss.

    The terms are the task's, weighted by the family.
    """
    batch = run.arithmetic.place_images(batch)
    with run.arithmetic.autocast():
        output: AttentionOutput = run.model(batch)
    output = output.with_float_logits()
    soft_targets = None if run.teacher is None else run.teacher.soft_targets(batch)
    smoothing = run.config.train.label_smoothing
    losses = run.task.losses(output, batch, label_smoothing=smoothing, soft_targets=soft_targets)
    return output, run.model.weigh_losses(losses, output)


def _forward_in_validation(run: TrainingSetup, batch: Batch) -> tuple[AttentionOutput, dict[str, Tensor]]:
    """The output with the family's default maps, and the terms of the loss, without label smoothing."""
    batch = run.arithmetic.place_images(batch)
    with run.arithmetic.autocast():
        output = run.task.predict(run.model, batch, maps=())
    output = output.with_float_logits()
    soft_targets = None if run.teacher is None else run.teacher.soft_targets(batch)
    losses = run.task.losses(output, batch, in_training=False, soft_targets=soft_targets)
    return output, run.model.weigh_losses(losses, output)


def set_training_mode(run: TrainingSetup) -> None:
    """Training mode; a frozen backbone stays in eval mode, so that its batch norms do not drift."""
    run.model.train()
    if run.config.train.optimizer.backbone_lr_factor == 0:
        for name, module in run.model.named_modules():
            if f"{name}.".startswith(run.model.backbone_prefix):
                module.eval()


def learning_rate(optimizer: Optimizer) -> float:
    """The largest rate of any group: that of the classifier where the backbone's is scaled down."""
    return max(float(group["lr"]) for group in optimizer.param_groups)


class LossWatch:
    """Sees that the mean loss of an epoch of training stays finite, without waiting for the device.

    A look asks for the loss of its moment and reads that of the look before it, so that a loss which is not finite ends
    the epoch one look later, at the latest with the epoch.
    """

    def __init__(self, run: TrainingSetup, epoch: int) -> None:
        self._run, self._epoch = run, epoch
        self._asked: tuple[HostCopy, float] | None = None  # with the learning rate of that moment
        self._last_finite = math.nan

    def look(self, loss: Tensor) -> None:
        """Looks at the mean loss so far, a scalar on the device.

        Raises:
            NonFiniteLoss: that of the last look was NaN or infinite.
        """
        asked, self._asked = self._asked, (HostCopy({"loss": loss}), learning_rate(self._run.optimizer))
        self._read(asked)

    def end(self, loss: float) -> None:
        """Looks at the mean loss of the whole epoch, after the device was waited for.

        Raises:
            NonFiniteLoss: it, or that of the last look, is NaN or infinite.
        """
        self._read(self._asked)
        self._check(loss, learning_rate(self._run.optimizer))

    def _read(self, asked: tuple[HostCopy, float] | None) -> None:
        if asked is not None:
            copy, lr = asked
            self._check(copy.read()["loss"].item(), lr)

    def _check(self, loss: float, lr: float) -> None:
        _require_finite(loss, split="train", epoch=self._epoch, lr=lr, last_finite=self._last_finite)
        self._last_finite = loss


class Stopwatch:
    """Measures a pass; started when made."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        start_peak(device)
        self._start = time.perf_counter()

    def record(self, scores: PassMetrics, *, split: Split, epoch: int, lr: float) -> EpochRecord:
        """The record of the pass; the scores have waited for the device."""
        seconds = time.perf_counter() - self._start
        return EpochRecord(
            epoch=epoch,
            split=split,
            n_images=scores.n_images,
            loss=scores.loss,
            terms=scores.terms,
            metrics=scores.metrics,
            lr=lr,
            seconds=seconds,
            images_per_s=scores.n_images / seconds,
            peak_memory_mb=peak_mb(self._device),
        )


def _require_finite(loss: float, *, split: Split, epoch: int, lr: float, last_finite: float = math.nan) -> None:
    if math.isfinite(loss):
        return
    before = "" if math.isnan(last_finite) else f", its last finite mean was {last_finite:.4g}"
    raise NonFiniteLoss(
        f"{split}/loss became {loss} in epoch {epoch} at learning rate {lr:.3g}{before}; "
        "lower train.optimizer.lr, or set train.clip_norm or train.precision=fp32"
    )
