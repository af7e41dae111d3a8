"""Runs a kept checkpoint over a split: scores of all images, maps of those that are archived."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.data.loader import BatchLoader, DataSource, crop_boxes
from attnsearch.data.tables import ImageTable
from attnsearch.device import (
    Arithmetic,
    device_errors,
    evaluation_batch_size,
    pick_device,
    pick_precision,
    set_threads,
)
from attnsearch.metrics.classification import MetricTotals
from attnsearch.models import build_model
from attnsearch.models.base import AttentionModel
from attnsearch.models.checkpoint import ModelCheckpoint, read_model_checkpoint
from attnsearch.models.weights import check_class_names, load_into
from attnsearch.store.archive import ArchiveWriter
from attnsearch.store.layout import ArchivePaths
from attnsearch.types import AttentionArchive, AttentionOutput, Batch, Split


@device_errors()
@torch.no_grad()
def collect(
    config: ExperimentConfig,
    checkpoint: Path,
    data: DataSource,
    split: Split,
    *,
    archive: ArchivePaths | None = None,
    check: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Scores a split in file order, and archives maps, norms, saliency and predictions.

    It computes in the precision and the batch size of the run's validation, so that the validation split gives the
    numbers of the kept epoch's record again. The loss is the family's own: a teacher, if there was one, is not asked.
    What is archived is as the model made it, in float32; saliency explains the predicted class. Memory does not grow
    with the maps of more images.

    Args:
        config: of the run; its data and runtime settings may differ from those that the checkpoint was trained with.
        archive: where the maps go, or None to only score. On validation `evaluation.n_images` limits them to
            `fixed_subset`; scores always use all images.
        check: called between batches and before each file gets its name.
    Returns:
        `split/loss`, `split/accuracy`, `split/mean_class_accuracy`, `split/cross_entropy`, and `split/sparsity` where
        the model has maps or norms.
    Raises:
        ConfigError: the checkpoint is missing or does not fit the model.
        DataError: it has other classes, or there is no such split.
        StoreError: the disk refuses.
        OutOfMemory, DeviceError: the device has too little memory for the setting, or it failed.
    """
    kept = read_model_checkpoint(checkpoint)
    table = data.tables.of(split)
    check_class_names(table.class_names, kept.class_names, str(checkpoint))
    set_threads(config.runtime.n_threads)
    model, arithmetic = load_model(config, kept)
    loader = open_loader(config, kept, data, split, model=model, device=arithmetic.device)
    totals = MetricTotals(len(table.class_names), arithmetic.device, per_class=True)
    rows = fixed_subset(table, config.evaluation.n_images if split == "val" else None)
    parts = _Parts(kept, table, rows, data.cache.sizes_hw[data.cache.rows(table)], crop_boxes(data, split, config.data))
    with ExitStack() as stack:
        writer = None if archive is None else stack.enter_context(ArchiveWriter(archive, len(rows), check=check))
        for batch in loader.epoch(kept.epoch):
            check()
            output = _score(model, arithmetic, batch, totals)
            if writer is not None and (part := parts.of(batch, output, model)) is not None:
                writer.append(part)
        if writer is not None:
            writer.finish()
    scores = totals.scores()
    return {f"{split}/{name}": value for name, value in {"loss": scores.loss, **scores.metrics}.items()}


def fixed_subset(table: ImageTable, n_images: int | None) -> NDArray[np.int64]:
    """The rows of a split whose maps are kept, ascending: the same for every trial, and stratified by class.

    Within a class, images stand in the order of a hash of their ids; each class gives its share. More images always
    include the fewer.

    Args:
        n_images: how many; None or more than there are means all.
    """
    if n_images is None or n_images >= len(table):
        return np.arange(len(table), dtype=np.int64)
    of_class: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for row, image_id in enumerate(table.image_ids):
        digest = hashlib.sha256(image_id.encode(errors="surrogateescape")).hexdigest()
        of_class[int(table.labels[row])].append((digest, row))
    order = [
        ((rank + 0.5) / len(members), digest, row)
        for members in of_class.values()
        for rank, (digest, row) in enumerate(sorted(members))
    ]
    return np.sort(np.array([row for _, _, row in sorted(order)[:n_images]], dtype=np.int64))


def load_model(config: ExperimentConfig, kept: ModelCheckpoint) -> tuple[AttentionModel, Arithmetic]:
    """The model of a checkpoint in eval mode on its device, and the arithmetic of the run's validation.

    Raises:
        ConfigError: the weights do not fit, or the device does not exist.
    """
    model = build_model(config.model, len(kept.class_names), load_weights=False)
    load_into(model, kept.state, str(kept.path))
    device = pick_device(config.runtime.device)
    arithmetic = Arithmetic(device, pick_precision(config.train.precision, device), model.channels_last)
    return arithmetic.place_model(model).eval(), arithmetic


def open_loader(
    config: ExperimentConfig,
    kept: ModelCheckpoint,
    data: DataSource,
    split: Split,
    *,
    model: AttentionModel,
    device: torch.device,
) -> BatchLoader:
    """The batches of a split in file order, of the size of the run's validation."""
    return BatchLoader(
        data,
        split,
        config.data,
        batch_size=evaluation_batch_size(config.train.batch_size // kept.accumulation),
        device=device,
        training=False,
        seed=config.seed,
        with_masks=model.needs_masks and data.tables.of(split).mask_paths is not None,
    )


def _score(model: AttentionModel, arithmetic: Arithmetic, batch: Batch, totals: MetricTotals) -> AttentionOutput:
    batch = arithmetic.place_images(batch)
    with arithmetic.autocast():
        output: AttentionOutput = model(batch, maps=())
    output = replace(output, logits=output.logits.float())
    cross_entropy = torch.nn.functional.cross_entropy(output.logits, batch.labels)
    totals.add(batch, output, model.loss_terms(output, batch), extra_metrics={"cross_entropy": cross_entropy})
    return output


@dataclass(frozen=True, eq=False)
class _Parts:
    """Cuts batches into pieces of the archive.

    Attributes:
        rows: (n,) of the split, those that are archived.
        sizes_hw, crop_boxes: (N, 2) and (N, 4), of all images of the split.
    """

    kept: ModelCheckpoint
    table: ImageTable
    rows: NDArray[np.int64]
    sizes_hw: NDArray[np.int64]
    crop_boxes: NDArray[np.float64]

    def of(self, batch: Batch, output: AttentionOutput, model: AttentionModel) -> AttentionArchive | None:
        """The archived images of a batch, or None."""
        chosen = np.flatnonzero(np.isin(batch.rows.numpy(), self.rows))
        if not len(chosen):
            return None
        confidences, predictions = output.logits.softmax(dim=1).max(dim=1)
        saliency = None if output.maps is None else model.saliency(output, predictions)
        rows = batch.rows.numpy()[chosen]
        return AttentionArchive(
            image_ids=tuple(batch.image_ids[index] for index in chosen),
            labels=self.table.labels[rows],
            predictions=predictions.cpu().numpy()[chosen],
            confidences=confidences.cpu().numpy()[chosen],
            sizes_hw=self.sizes_hw[rows],
            crop_boxes=self.crop_boxes[rows],
            class_names=self.table.class_names,
            map_names=output.map_names,
            maps=_to_array(output.maps, chosen),
            norms=_to_array(output.norms, chosen),
            saliency=_to_array(saliency, chosen),
            config_digest=self.kept.config.digest(),
            epoch=self.kept.epoch,
            split=self.table.split,
        )


def _to_array(tensor: Tensor | None, chosen: NDArray[np.intp]) -> NDArray[np.float32] | None:
    return None if tensor is None else tensor.float().cpu().numpy()[chosen]
