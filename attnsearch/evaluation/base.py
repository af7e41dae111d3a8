"""A checkpoint's model, ready for inference, alone or on an opened data set; one run of it over a split."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.data.fixed_rows import fixed_subset
from attnsearch.data.loader import BatchLoader, DataSource, crop_boxes
from attnsearch.data.tables import DataTables, ImageTable
from attnsearch.data.transfer import HostCopy, Transfer
from attnsearch.device import (
    Arithmetic,
    device_errors,
    evaluation_batch_size,
    pick_device,
    pick_precision,
    set_threads,
)
from attnsearch.errors import DataError
from attnsearch.metrics.classification import fit_temperature
from attnsearch.models import build_model
from attnsearch.models.base import AttentionModel
from attnsearch.models.checkpoint import ModelCheckpoint, check_camera_names, check_class_names, read_model_checkpoint
from attnsearch.store.archive import ArchiveWriter
from attnsearch.store.trial_layout import ArchivePaths
from attnsearch.tasks.base import Meter, Task, build_task, restore_model
from attnsearch.types import AttentionArchive, AttentionOutput, Batch, Split, Spread

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class InferenceModel:
    """The model of a checkpoint in eval mode on its device, with the arithmetic of its run's validation.

    Attributes:
        config: of the run; its data and runtime settings may differ from those of the checkpoint.
    """

    checkpoint: ModelCheckpoint
    config: ExperimentConfig
    model: AttentionModel
    arithmetic: Arithmetic

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.arithmetic.device

    @cached_property
    def task(self) -> Task:
        """What the model was trained for."""
        return build_task(self.config.task)

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the logits."""
        return self.checkpoint.class_names

    @torch.no_grad()
    def output(self, batch: Batch, *, maps: tuple[str, ...] | None = ()) -> AttentionOutput:
        """What the model makes of a batch (B, 3, H, W), without a graph.

        Args:
            maps: names of maps, an empty tuple for the family's default ones, None for none.
        """
        with self.arithmetic.autocast():
            return self.task.predict(self.model, self.arithmetic.place_images(batch), maps=maps)


@device_errors()
def build_for_inference(checkpoint: ModelCheckpoint, config: ExperimentConfig) -> tuple[AttentionModel, Arithmetic]:
    """The model of a checkpoint in eval mode on its device, and the arithmetic of the run's validation.

    Raises:
        ConfigError: the weights do not fit, or the device does not exist.
        OutOfMemory, DeviceError: the device has too little memory for the model, or it failed.
    """
    set_threads(config.runtime.n_threads)
    model = restore_model(replace(checkpoint, config=config))
    device = pick_device(config.runtime.device)
    arithmetic = Arithmetic(device, pick_precision(config.train.precision, device), model.channels_last)
    return arithmetic.place_model(model).eval(), arithmetic


@dataclass(frozen=True, eq=False)
class ModelOnData(InferenceModel):
    """An inference model on an opened data set of the same classes; it has one loader per split.

    Attributes:
        spread: over which processes the scores of its images are measured; None is this one alone.
    """

    data: DataSource
    spread: Spread | None = None
    _loaders: dict[Split, BatchLoader] = field(default_factory=dict, repr=False)

    @classmethod
    def open(
        cls, checkpoint: ModelCheckpoint | Path | str, data: DataSource, *, config: ExperimentConfig | None = None
    ) -> Self:
        """Reads the checkpoint, compares it with the data and builds its model: each once.

        Args:
            config: None takes that of the checkpoint.
        Raises:
            ConfigError: the checkpoint is missing or does not fit the model, or the device does not exist.
            DataError: the data set has other classes, or cameras that the model does not know.
            OutOfMemory, DeviceError: the device has too little memory for the model, or it failed.
        """
        if not isinstance(checkpoint, ModelCheckpoint):
            checkpoint = read_model_checkpoint(checkpoint)
        config = checkpoint.config if config is None else config
        _check_data(checkpoint, config, data)
        return cls(checkpoint, config, *build_for_inference(checkpoint, config), data)

    @classmethod
    def of(cls, inference: InferenceModel, data: DataSource) -> Self:
        """A model that is built already.

        Raises:
            DataError: the data set has other classes, or cameras that the model does not know.
        """
        _check_data(inference.checkpoint, inference.config, data)
        return cls(inference.checkpoint, inference.config, inference.model, inference.arithmetic, data)

    def table(self, split: Split) -> ImageTable:
        """The images of a split.

        Raises:
            DataError: there is no such split.
        """
        return self.data.tables.of(split)

    def loader(self, split: Split) -> BatchLoader:
        """The batches of a split in file order, of the size of the run's validation.

        Raises:
            DataError: there is no such split.
        """
        if split not in self._loaders:
            self._loaders[split] = BatchLoader(
                self.data.under(self.config.data),
                split,
                batch_size=evaluation_batch_size(
                    self.config.train.batch_size,
                    accumulation=self.checkpoint.accumulation,
                    image_hw=self.config.data.image_hw,
                    device=self.device,
                ),
                device=self.device,
                with_masks=self.model.needs_masks and self.table(split).mask_paths is not None,
            )
            self._loaders[split].memory_format = self.arithmetic.memory_format
        return self._loaders[split]

    def batches(self, split: Split) -> Iterator[Batch]:
        """All images of a split, in file order."""
        return self.loader(split).epoch(self.checkpoint.epoch)


def untrained(opened: ModelOnData, *, seed: int | None = None) -> ModelOnData:
    """The same model with the random weights that a training from scratch starts from, by default of its own seed."""
    config = opened.config
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(
            config.seed if seed is None else seed
        )  # not that of a GPU, which nothing would put back
        model = build_model(config.model, build_task(config.task).heads(len(opened.class_names)), load_weights=False)
    return replace(opened, model=opened.arithmetic.place_model(model).eval())


def _check_data(checkpoint: ModelCheckpoint, config: ExperimentConfig, data: DataSource) -> None:
    """Compares the data with that of the training: classes, where the task predicts them, and cameras of the model.

    Raises:
        DataError: they differ.
    """
    if build_task(config.task).predicts_classes:
        check_class_names(data.tables.class_names, checkpoint.class_names, str(checkpoint.path))
    if config.model.n_known_cameras is not None:
        _check_cameras(checkpoint, config.model.n_known_cameras, data.tables)


def _check_cameras(checkpoint: ModelCheckpoint, n_known: int, tables: DataTables) -> None:
    """Compares the cameras of the data with those that the model has vectors of, which it takes by position.

    Raises:
        DataError: they differ, or cannot be compared.
    """
    names, is_other = tables.train.camera_names, not is_trained_on(checkpoint, tables)
    if not names:
        raise DataError(
            f"{tables.root} names no cameras, and the model of {checkpoint.path} has a vector for each; use data with "
            "cameras, or train with model.n_cameras=null"
        )
    if checkpoint.camera_names:
        check_camera_names(names, checkpoint.camera_names, str(checkpoint.path))
        if is_other:
            logger.warning(
                "%s was trained on other data than %s: a camera takes the vector of the camera of its name",
                *(checkpoint.path, tables.root),
            )
    elif is_other or len(names) > n_known:
        raise DataError(
            f"{checkpoint.path} has vectors of {n_known} cameras and no names of them, so that the {len(names)} "
            f"cameras of {tables.root} cannot be compared; use the data it was trained on, or train it again"
        )


def is_trained_on(checkpoint: ModelCheckpoint, tables: DataTables) -> bool:
    """Whether the data set is that of the training, by its validation images; imported weights name none."""
    return checkpoint.val_hash in ("", tables.val_hash)


@device_errors()
@torch.no_grad()
def run_split(
    opened: ModelOnData, split: Split, *, archive: ArchivePaths | None = None, check: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Measures a split in file order, and archives maps, norms, saliency and predictions.

    It computes in the precision and the batch size of the run's validation, so that the validation split gives the
    numbers of the best epoch's record again. The loss is the family's own: a teacher, if there was one, is not used.
    What is archived is as the model made it, in float32; saliency explains the predicted class. Memory does not grow
    with the maps of more images.

    Args:
        archive: where the maps go, or None to only measure. On validation `evaluation.n_images` limits them to
            `fixed_subset`; metrics always use all images.
        check: called between batches and before each file gets its name.
    Returns:
        `split/loss`, the metrics of the task, such as `split/accuracy` or `split/mAP`, and `split/sparsity` where the
        model has maps or norms.
    Raises:
        DataError: there is no such split.
        StoreError: the disk refuses.
        OutOfMemory, DeviceError: the device has too little memory for the setting, or it failed.
    """
    meter = opened.task.meter(opened.table(split), opened.device)
    parts = _ArchiveParts.of_split(opened, split)
    answers, part = _Answers(), None
    with ExitStack() as stack:
        writer = None
        if archive is not None:
            writer = stack.enter_context(ArchiveWriter(archive, len(parts.rows), check=check))
        for batch in opened.batches(split):
            check()
            output = _measure(opened, batch, meter)
            if writer is None:
                continue
            if opened.task.predicts_classes:
                answers.add(output, parts.table.labels[batch.rows])
            before, part = part, parts.of(batch, output, opened.model)
            if before is not None:  # written while the device works on the next batch
                writer.append(before.read())
        metrics = meter.scores()
        if writer is not None:
            if part is not None:
                writer.append(part.read())
            writer.finish(meter.retrieval, answers.temperature() if opened.task.predicts_classes else None)
    return {f"{split}/{name}": value for name, value in {"loss": metrics.loss, **metrics.metrics}.items()}


def _measure(opened: ModelOnData, batch: Batch, meter: Meter) -> AttentionOutput:
    """The output of a batch, which the meter takes in."""
    batch = opened.arithmetic.place_images(batch)
    output = opened.output(batch).with_float_logits()
    losses = opened.task.losses(output, batch, in_training=False)
    meter.add(batch, output, opened.model.weigh_losses(losses, output))
    return output


class _Answers:
    """The logits of a split and the labels that they should give, batch by batch on the CPU."""

    def __init__(self) -> None:
        self._logits: list[NDArray[np.float32]] = []
        self._labels: list[NDArray[np.int64]] = []
        self._coming: HostCopy | None = None

    def add(self, output: AttentionOutput, labels: NDArray[np.int64]) -> None:
        """Adds a batch, whose logits are read when the next one is added."""
        self._take()
        self._coming = HostCopy({"logits": output.logits.float()})
        self._labels.append(labels)

    def _take(self) -> None:
        if self._coming is not None:
            self._logits.append(self._coming.read()["logits"].numpy())
        self._coming = None

    def temperature(self) -> float | None:
        """See `fit_temperature`."""
        self._take()
        return fit_temperature(np.concatenate(self._logits), np.concatenate(self._labels))


@dataclass(frozen=True, eq=False)
class _ArchiveParts:
    """Cuts batches into the pieces of an archive.

    Attributes:
        rows: (n,) of the split, those that are archived.
        sizes_hw, crop_boxes: (N, 2) and (N, 4), of all images of the split.
    """

    checkpoint: ModelCheckpoint
    table: ImageTable
    rows: NDArray[np.int64]
    sizes_hw: NDArray[np.int64]
    crop_boxes: NDArray[np.float64]
    transfer: Transfer

    @classmethod
    def of_split(cls, opened: ModelOnData, split: Split) -> _ArchiveParts:
        """For the archive of a split, on validation of some of its images."""
        table, data = opened.table(split), opened.data
        rows = fixed_subset(table, opened.config.evaluation.n_images if split == "val" else None)
        boxes = crop_boxes(data, split, opened.config.data)
        return cls(opened.checkpoint, table, rows, data.sizes_hw(split), boxes, Transfer(opened.device))

    def of(self, batch: Batch, output: AttentionOutput, model: AttentionModel) -> _ArchivePart | None:
        """The archived images of a batch, or None; they are chosen on the device."""
        rows = batch.rows.numpy()
        is_archived = np.isin(rows, self.rows)
        if not is_archived.any():
            return None
        confidences, predictions = output.logits.softmax(dim=1).max(dim=1)
        saliency = None if output.maps is None else model.saliency(output, predictions)
        floats = {"maps": output.maps, "norms": output.norms, "saliency": saliency}
        shown = {name: tensor.float() for name, tensor in floats.items() if tensor is not None}
        tensors = {"predictions": predictions, "confidences": confidences, **shown}
        if not is_archived.all():
            places = self.transfer.send(np.flatnonzero(is_archived)).receive()
            tensors = {name: tensor.index_select(0, places) for name, tensor in tensors.items()}
        return _ArchivePart(self, rows[is_archived], output.map_names, HostCopy(tensors))


@dataclass(frozen=True, eq=False)
class _ArchivePart:
    """Archived images of one batch, on their way from the device.

    Attributes:
        rows: (n,) of the split.
    """

    parts: _ArchiveParts
    rows: NDArray[np.int64]
    map_names: tuple[str, ...]
    copy: HostCopy

    def read(self) -> AttentionArchive:
        """The piece of the archive."""
        arrays = {name: tensor.numpy() for name, tensor in self.copy.read().items()}
        table, checkpoint = self.parts.table, self.parts.checkpoint
        return AttentionArchive(
            image_ids=tuple(table.image_ids[row] for row in self.rows),
            labels=table.labels[self.rows],
            predictions=arrays["predictions"],
            confidences=arrays["confidences"],
            sizes_hw=self.parts.sizes_hw[self.rows],
            crop_boxes=self.parts.crop_boxes[self.rows],
            class_names=table.class_names,
            map_names=self.map_names,
            maps=arrays.get("maps"),
            norms=arrays.get("norms"),
            saliency=arrays.get("saliency"),
            config_digest=checkpoint.config.digest(),
            epoch=checkpoint.epoch,
            split=table.split,
        )
