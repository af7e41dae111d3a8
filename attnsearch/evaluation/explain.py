"""Runs a kept checkpoint on a few pictures, and on no others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnsearch.config.data import DataConfig
from attnsearch.data.images import decode_resized
from attnsearch.data.loader import BatchLoader, DataSource, crop_boxes
from attnsearch.data.pixel_cache import PixelCache
from attnsearch.data.tables import DataTables, ImageTable
from attnsearch.device import Arithmetic, pick_device, pick_precision
from attnsearch.figures.explanation import ClassMap, Explanation, ImageToDraw
from attnsearch.models.base import AttentionModel
from attnsearch.models.checkpoint import ModelCheckpoint
from attnsearch.tasks.base import restore_model
from attnsearch.types import AttentionOutput

BATCH = 16


@torch.no_grad()
def explain(
    kept: ModelCheckpoint,
    wanted: Sequence[ImageToDraw],
    *,
    maps: Callable[[AttentionModel], tuple[str, ...]] = lambda model: (),
    top_q: int = 0,
) -> Iterator[Explanation]:
    """What a checkpoint makes of pictures, one subject each, in their order; each picture is decoded once.

    Args:
        maps: names of the maps of a model beside the family's default ones.
        top_q: how many of the most probable classes get a map of their own, the true one always among them.
    Raises:
        DataError: a picture cannot be read.
        ValueError: the model makes no map of that name.
    """
    device = pick_device(kept.config.runtime.device)
    model = restore_model(kept)
    arithmetic = Arithmetic(device, pick_precision(kept.config.train.precision, device), model.channels_last)
    model = arithmetic.place_model(model).eval()
    names = maps(model)
    source = open_pictures(wanted, kept.config.data, kept.class_names)
    boxes, sizes = crop_boxes(source, "val", kept.config.data), source.cache.sizes_hw
    loader = BatchLoader(source, "val", kept.config.data, batch_size=BATCH, device=device, training=False, seed=0)
    for batch in loader.epoch(1):
        placed = arithmetic.place_images(batch)
        with arithmetic.autocast():
            output: AttentionOutput = model(placed, maps=())
            more: AttentionOutput | None = model(placed, maps=names) if names else None
        found = _Found(model, kept.class_names, output, more, labels=placed.labels, top_q=top_q)
        for index, row in enumerate(batch.rows.tolist()):
            size_hw = (int(sizes[row][0]), int(sizes[row][1]))
            yield replace(found.subject(index, wanted[row]), size_hw=size_hw, crop_box=boxes[row])


class _Found:
    """The outputs of one batch as arrays."""

    def __init__(
        self,
        model: AttentionModel,
        class_names: Sequence[str],
        output: AttentionOutput,
        more: AttentionOutput | None,
        *,
        labels: Tensor,
        top_q: int,
    ) -> None:
        self._class_names = class_names
        self._maps = _named_maps(output) | ({} if more is None else _named_maps(more))
        self._norms = None if output.norms is None else _array(output.norms[:, 0])
        probabilities = output.logits.float().softmax(dim=1)
        order = probabilities.argsort(dim=1, descending=True, stable=True)
        self._probabilities, self._best = _array(probabilities), order[:, 0].cpu().numpy()
        has_maps = output.maps is not None
        ranked = _ranked(order, labels, top_q if has_maps else 0)
        self._saliency = _array(model.saliency(output, order[:, 0])) if has_maps else None
        self._of_rank = [_array(model.saliency(output, one)) for one in ranked.unbind(dim=1)]
        self._ranked = ranked.cpu().numpy()

    def subject(self, index: int, wanted: ImageToDraw) -> Explanation:
        probabilities, ranked = self._probabilities[index], self._ranked[index]
        best = int(self._best[index])
        return Explanation(
            wanted=wanted,
            predicted=self._class_names[best],
            confidence=float(probabilities[best]),
            size_hw=(1, 1),
            crop_box=np.zeros(4),
            maps={name: maps[index] for name, maps in self._maps.items()},
            norm=None if self._norms is None else self._norms[index],
            saliency=None if self._saliency is None else self._saliency[index],
            classes=tuple(
                ClassMap(self._class_names[ranked[rank]], float(probabilities[ranked[rank]]), maps[index])
                for rank, maps in enumerate(self._of_rank)
            ),
        )


def _ranked(order: Tensor, labels: Tensor, top_q: int) -> Tensor:
    """(B, q) the most probable classes; where a known label (B,) is not among them, it takes the last place."""
    ranked = order[:, :top_q].clone()
    if ranked.shape[1]:
        is_missing = (labels >= 0) & ~(ranked == labels[:, None]).any(dim=1)
        ranked[is_missing, -1] = labels[is_missing]
    return ranked


def _named_maps(output: AttentionOutput) -> dict[str, NDArray[np.float32]]:
    if output.maps is None:
        return {}
    maps = _array(output.maps)
    return {name: maps[:, index] for index, name in enumerate(output.map_names)}


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.float().cpu().numpy()


def open_pictures(wanted: Sequence[ImageToDraw], cfg: DataConfig, class_names: tuple[str, ...]) -> DataSource:
    """Pictures as the validation split of a data set that lies in memory; an unknown class has the label -1.

    Raises:
        DataError: a picture cannot be read.
    """
    decoded = [decode_resized(one.path, size_hw=cfg.cached_hw, resize=cfg.resize, aspect=cfg.aspect) for one in wanted]
    label_of = {name: label for label, name in enumerate(class_names)}
    ids = tuple(one.image_id for one in wanted)
    labels = [-1 if one.true is None else label_of.get(one.true, -1) for one in wanted]
    paths = tuple(one.path for one in wanted)
    table = ImageTable("val", class_names, ids, paths, np.array(labels, dtype=np.int64))
    tables = DataTables(Path(), class_names, table, table, None, "")
    pixels = np.stack([pixels for pixels, _ in decoded])
    sizes = np.array([size for _, size in decoded], dtype=np.int64)
    row_of = {image_id: row for row, image_id in enumerate(ids)}
    return DataSource(cfg, tables, PixelCache(pixels, sizes, cfg.cached_hw, cfg.resize, cfg.aspect, "", row_of))
