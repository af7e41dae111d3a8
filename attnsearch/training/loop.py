"""The two loops of training: one epoch of updates, one pass over validation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.data.transfer import HostCopy
from attnsearch.device import Arithmetic, peak_mb, seed_torch, start_peak
from attnsearch.errors import ConfigError, NonFiniteLoss
from attnsearch.models.base import AttentionModel
from attnsearch.tasks.base import Meter, PassMetrics, Task
from attnsearch.training.distillation import Teacher
from attnsearch.training.parallel import ALONE, Ranks
from attnsearch.training.updates import UpdateSum
from attnsearch.types import AttentionOutput, Batch, EpochRecord, Split

if TYPE_CHECKING:
    from attnsearch.data.loader import BatchLoader
    from attnsearch.training.film import FilmFrame

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
    ranks: Ranks = ALONE


def train_epoch(run: TrainingSetup, epoch: int, *, accumulation: int, check: Callable[[], None]) -> EpochRecord:
    """One pass over the training images, one update per batch.

    A batch is worked on in `accumulation` parts, whose gradients add up, weighted by their images, to that of the
    whole batch. The ranks take the parts in turn. All randomness depends on (seed, epoch), that of a part also on its
    batch and its number in it, so that it does not matter which rank works on it.

    Args:
        epoch: from 1.
        check: called before each update; what it raises ends the epoch.
    Returns:
        The record of the whole pass, the same on all ranks; times and memory are those of rank 0.
    Raises:
        NonFiniteLoss: the mean loss became NaN or infinite.
    """
    set_training_mode(run)
    watch = Stopwatch(run.arithmetic.device)
    meter = run.task.meter(run.train.table, run.arithmetic.device, in_training=True)
    lr = learning_rate(run.optimizer)
    watch_loss = LossWatch(run, epoch)
    update_sum = UpdateSum(run.model, run.ranks)
    for index, shared in enumerate(_shared_batches(run, epoch, accumulation)):
        check()
        run.optimizer.zero_grad(set_to_none=True)
        update_sum.begin()
        for part in shared.parts:
            update_sum.skip_to(part.number)
            seed_torch(run.config.seed, epoch, "train", index, part.number)
            output, terms = forward(run, part.batch)
            torch.autograd.backward(torch.stack(list(terms.values())).sum() * part.fraction)
            meter.add(part.batch, output, terms)
        update_sum.finish(shared.n_parts)
        if run.config.train.clip_norm is not None:
            clip_grad_norm_(run.model.parameters(), run.config.train.clip_norm)
        run.optimizer.step()
        run.schedule.step_update((epoch - 1) * len(run.train) + index + 1)
        if (index + 1) % CHECK_LOSS_EVERY == 0:
            watch_loss.look(meter.mean_loss())
    run.ranks.merge(meter, run.arithmetic.device)
    record = _record(run, meter, watch, split="train", epoch=epoch, lr=lr)
    watch_loss.end(record.loss)
    return record


@dataclass(frozen=True)
class _Part:
    """A part of a batch: its number from 0, its images, and which fraction of the batch these are."""

    number: int
    batch: Batch
    fraction: float


@dataclass(frozen=True)
class _SharedBatch:
    """The parts of a batch that this rank works on, and how many there are on all ranks."""

    parts: list[_Part]
    n_parts: int


def _shared_batches(run: TrainingSetup, epoch: int, accumulation: int) -> Iterator[_SharedBatch]:
    """The batches of an epoch of training; images of other ranks are not read."""
    parts_of = partial(_parts_of, run, accumulation)

    def own(_index: int, n_images: int) -> NDArray[np.int64]:
        places = np.arange(n_images)
        return np.concatenate([places[:0], *(places[part] for part in parts_of(n_images)[turns])])

    turns = slice(run.ranks.rank, None, run.ranks.n_ranks)
    batches = run.train.epoch(epoch, own)
    for n_images in run.train.sizes():
        parts = list(enumerate(parts_of(n_images)))
        yield _SharedBatch(_cut(next(batches), parts[turns], n_images) if parts[turns] else [], len(parts))


def _parts_of(run: TrainingSetup, accumulation: int, n_images: int) -> list[slice]:
    """The parts of a batch of so many images; where batch norms are shared, as many on each rank.

    Raises:
        ConfigError: a short batch has too few images for that.
    """
    train = run.config.train
    if not train.shared_batch_norm or run.ranks.n_ranks == 1:
        return run.task.parts(n_images, train.batch_size // accumulation)
    if n_images < accumulation:
        raise ConfigError(
            f"train.shared_batch_norm needs images for all {accumulation} parts of each batch, and the last one has "
            f"{n_images}; change train.batch_size {train.batch_size}"
        )
    return [
        slice(part * n_images // accumulation, (part + 1) * n_images // accumulation) for part in range(accumulation)
    ]


def _cut(batch: Batch, parts: list[tuple[int, slice]], n_images: int) -> list[_Part]:
    """Numbered parts of a batch of so many images, cut from those images of it that are in one of them."""
    sizes = [part.stop - part.start for _, part in parts]
    ends = np.cumsum(sizes).tolist()
    return [
        _Part(number, batch.take(slice(end - size, end)), size / n_images)
        for (number, _), size, end in zip(parts, sizes, ends, strict=True)
    ]


@torch.no_grad()
def validate_epoch(
    run: TrainingSetup,
    epoch: int,
    *,
    check: Callable[[], None],
    n_batches: int | None = None,
    film: FilmFrame | None = None,
) -> EpochRecord:
    """One pass over the validation images in the arithmetic of training, so that evaluation can repeat its numbers.

    Metrics are those of the task's meter, the leading one also on two fixed halves of the images. The ranks take the
    batches in turn.

    Args:
        epoch: from 1; validation after it.
        n_batches: only so many on each rank, to see what is measured.
        film: gets the saliency of its images.
    Returns:
        As `train_epoch`.
    Raises:
        NonFiniteLoss: the mean loss is NaN or infinite, though batches have a loss, or an embedding is.
    """
    run.model.eval()
    watch = Stopwatch(run.arithmetic.device)
    meter = run.task.meter(run.val.table, run.arithmetic.device, in_halves=True)
    for batch in islice(run.val.epoch(epoch, partial(_whole_batches, run.ranks)), n_batches):
        check()
        output, terms = _forward_in_validation(run, batch)
        meter.add(batch, output, terms)
        if film is not None:
            film.add(batch, output, run.model)
    for summed in (meter, film):
        if summed is not None:
            run.ranks.merge(summed, run.arithmetic.device)
    lr = learning_rate(run.optimizer)
    if meter.has_loss:
        _require_finite(meter.loss(), split="val", epoch=epoch, lr=lr)
    return _record(run, meter, watch, split="val", epoch=epoch, lr=lr)


def _whole_batches(ranks: Ranks, index: int, n_images: int) -> NDArray[np.int64]:
    """All images of the batches that are this rank's turn."""
    return np.arange(n_images if index % ranks.n_ranks == ranks.rank else 0)


def _record(run: TrainingSetup, meter: Meter, watch: Stopwatch, *, split: Split, epoch: int, lr: float) -> EpochRecord:
    """The record of a pass whose meters are merged, made by rank 0 for all ranks."""
    return EpochRecord(**run.ranks.first(lambda: asdict(watch.record(meter.scores(), split=split, epoch=epoch, lr=lr))))


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
