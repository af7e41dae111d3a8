"""Batches of a split, cut from cached pixels; what they hold depends on seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnsearch import geometry
from attnsearch.config.data import DataConfig
from attnsearch.config.images import as_setting
from attnsearch.data.augment import (
    as_images,
    cut,
    delete,
    erase,
    erased_mask,
    jitter,
    noise,
    normalise,
    padding_mask,
    resample,
)
from attnsearch.data.cache import PixelCache, open_cache, open_masks
from attnsearch.data.device_views import DeviceViews, gather, send_views
from attnsearch.data.images import decode_mask
from attnsearch.data.rand_augment import SentOperations, rand_augment, send_operations
from attnsearch.data.shares import BatchFrame, Share, split_epoch
from attnsearch.data.tables import DataTables, ImageTable, build_tables
from attnsearch.data.transfer import Sent, Transfer, prefetched, resident_pixels
from attnsearch.data.views import Views, centre_views, random_views
from attnsearch.errors import DataError
from attnsearch.types import Batch, Split

#: Settings in which trials on one open data set may differ.
_PER_TRIAL = {
    *("image_size_px", "crop_ratio", "cache_px", "crop_scale", "multi_scale", "pad_px"),
    *("flip", "brightness", "saturation", "rand_augment", "erase", "cell_deletion"),
}


@dataclass(frozen=True, eq=False)
class DataSource:
    """An open data set; keep it between trials."""

    cfg: DataConfig
    tables: DataTables
    cache: PixelCache

    def serves(self, cfg: DataConfig) -> bool:
        """Whether these settings ask for the same images, from a cache of this size."""
        is_same = self.cfg.model_dump(exclude=_PER_TRIAL) == cfg.model_dump(exclude=_PER_TRIAL)
        return is_same and self.cache.resizing == cfg.cached

    def sizes_hw(self, split: Split) -> NDArray[np.int64]:
        """(N, 2) height and width in pixels of the upright originals of a split."""
        return self.cache.sizes_hw[self.cache.rows(self.tables.of(split))]

    def under(self, cfg: DataConfig) -> DataSource:
        """The same images and cache under settings that differ in what one cache can serve (size, crop, augmentation).

        Raises:
            ValueError: the cached images are too small for them, or show other parts of the originals.
        """
        cached = self.cache.resizing
        is_large = all(has >= needed for has, needed in zip(cached.size_hw, cfg.resized_hw, strict=True))
        if not is_large or (cached.rule, cached.aspect) != (cfg.resize, cfg.aspect):
            raise ValueError(
                f"a cache of {as_setting(cached.size_hw)} px ({cached.rule}) cannot serve "
                f"{as_setting(cfg.resized_hw)} px ({cfg.resize}); "
                "open the data with a cache_px of at least that"
            )
        return replace(self, cfg=cfg)

    def serving(self, cfg: DataConfig) -> DataSource:
        """This data set where it serves the settings, else the one that does, opened now.

        Raises:
            DataError, StoreError: as `open_data`.
        """
        return self if self.serves(cfg) else open_data(cfg)


def open_data(cfg: DataConfig, *, tables: DataTables | None = None, progress: bool = False) -> DataSource:
    """Finds the images and opens their cache; the first time this decodes all of them.

    Args:
        tables: the listed images of these settings, if they have been listed before.
    Raises:
        DataError, StoreError: as `build_tables` and `open_cache`.
    """
    tables = build_tables(cfg) if tables is None else tables
    cache = open_cache(tables, cfg.cached, progress=progress)
    return DataSource(cfg, tables, cache)


def crop_boxes(source: DataSource, split: Split, cfg: DataConfig) -> NDArray[np.float64]:
    """What the model sees of each image in evaluation: (N, 4) left, top, right, bottom in original pixels."""
    sizes_hw = source.sizes_hw(split)
    return geometry.crop_box(sizes_hw, image_hw=cfg.image_hw, crop_ratio=cfg.crop_ratio, resize=cfg.resize)


class RowOrder(Protocol):
    """In which order training sees the rows of a split."""

    def __call__(self, table: ImageTable, *, batch_size: int, seed: int, epoch: int) -> NDArray[np.int64]:
        """The rows of an epoch, as many in each; they depend on the labels, the batch size, the seed and the epoch."""


@dataclass(frozen=True)
class TrainingOrder:
    """In which order training sees the rows of a split; `seed` is that of the order and of the augmentation."""

    rows: RowOrder
    seed: int


class BatchLoader:
    """Batches of one split.

    Training augments; evaluation keeps file order and the centre crop. Order and augmentation depend only on (seed,
    epoch), an image's augmentation only on (seed, epoch, row) and how often the row came before in the epoch: a resumed
    run needs no stored random state, and other batch sizes see the same images.

    On a GPU nothing waits for it: pixels that fit stay in its memory, others are copied ahead on a stream of their own,
    and the random numbers of an epoch go there in one copy.

    Args:
        order: None evaluates.
        with_masks: adds `part_masks` (B, H, W), through the same crop as the images.

    Batches of `resize: pad` carry their padding, in which images are 0, the mean colour; in training, those of
    `multi_scale` are as large as their largest image.

    Attributes:
        table: the split.
        n_images: images that one epoch yields.
        batch_size: images of a batch of an epoch; the last one may be short.
        memory_format: of the images of a batch, contiguous unless it is set to that of the model.

    Raises:
        DataError: no such split, one training image only, no masks, or masks that cannot follow the augmentation.
    """

    def __init__(
        self,
        source: DataSource,
        split: Split,
        *,
        batch_size: int,
        device: torch.device | str,
        order: TrainingOrder | None = None,
        with_masks: bool = False,
    ) -> None:
        self.table = source.tables.of(split)
        self._cfg, self._cache = source.cfg, source.cache
        if order is not None and len(self.table) == 1:
            raise DataError(f"{split} has 1 image, batch norm needs 2 to train; add images")
        self._root = source.tables.root
        if with_masks:
            self._require_masks(order)
        self._cache_rows = source.cache.rows(self.table)
        self._sizes_hw = source.cache.sizes_hw[self._cache_rows]
        self.batch_size, self._order, self._with_masks = batch_size, order, with_masks
        n_images = len(self.table) if order is None else len(self._training_rows(order, epoch=1))
        drops_last = order is not None and batch_size > 1 and n_images % batch_size == 1
        self.n_images = n_images - drops_last
        self._masks = open_masks(self.table, self._root, source.cache.resizing) if with_masks else None
        self.memory_format = torch.contiguous_format
        self._hold_on_device(torch.device(device))

    def _hold_on_device(self, device: torch.device) -> None:
        """Copies what every epoch needs to the device."""
        self._transfer = Transfer(device)
        self._labels = torch.from_numpy(self.table.labels).to(device)
        self._cameras, self._possible = (
            None if column is None else torch.from_numpy(column).to(device)
            for column in (self.table.cameras, self.table.possible)
        )
        is_cut = self._is_exact and (self._order is None or not self._has_windows)
        self._resident = resident_pixels(self._cache, device) if is_cut else None
        self._resident_masks = resident_pixels(self._masks, device) if self._masks is not None and is_cut else None

    @property
    def _is_exact(self) -> bool:
        """Whether cached pixels are resized pixels."""
        return self._cache.resizing.size_hw == self._cfg.resized_hw

    @property
    def _has_windows(self) -> bool:
        """Whether training shows windows of several sizes."""
        return self._cfg.crop_scale is not None or self._cfg.multi_scale is not None

    def __len__(self) -> int:
        """Batches in one epoch."""
        return len(self.sizes())

    def sizes(self) -> list[int]:
        """Images of each batch of an epoch."""
        return [min(self.batch_size, self.n_images - start) for start in range(0, self.n_images, self.batch_size)]

    def epoch(self, epoch: int, share: Share | None = None) -> Iterator[Batch]:
        """The batches of an epoch (from 1), on the device but for `rows`; the last one may be short.

        Training leaves out a last batch of one image, which batch norm could not train on.

        Args:
            share: which images of each batch are read, padded as all; a batch with none is left out. None reads all.
        Raises:
            DataError: a mask cannot be read.
        """
        if self._order is not None:
            rows = self._training_rows(self._order, epoch=epoch)
            views = random_views(self._sizes_hw, self._cfg, seed=self._order.seed, epoch=epoch, rows=rows)
        else:
            rows, views = np.arange(len(self.table)), self._centre_views()
        places, wholes, chunks = split_epoch(self.sizes(), share)
        if not chunks:
            return
        frames = [self._frame(rows[whole], views.take(whole)) for whole in wholes]
        rows, views = rows[places], views.take(places)
        sent, pinned_rows = self._send(rows, views), self._transfer.pinned(rows)
        read = prefetched(
            lambda one: self._read(rows[one[0]], views.take(one[0]), one[1], self._with_masks),
            zip(chunks, frames, strict=True),
        )
        for chunk, raw in zip(chunks, read, strict=True):
            yield self._finish(raw, pinned_rows[chunk], sent.take(chunk))

    def _frame(self, rows: NDArray[np.int64], views: Views) -> BatchFrame:
        """That of a whole batch; asked here, where the answer costs no wait."""
        windows, shown_hw = views.windows, self._shown_hw(rows, views)
        canvas_hw = self._cfg.image_hw if windows is None else tuple(windows.sizes_hw.max(axis=0).tolist())
        return BatchFrame(canvas_hw, shown_hw is not None and not bool((shown_hw == canvas_hw).all()))

    def batch(self, rows: NDArray[np.int64], *, with_masks: bool = False) -> Batch:
        """One evaluation batch of some rows (B,) of the split, in that order.

        Args:
            with_masks: adds `part_masks`, also where the loader adds none to its epochs.
        Raises:
            DataError: there are no masks, or one cannot be read.
        """
        if with_masks:
            self._require_masks(self._order)
        views = self._centre_views().take(rows)
        raw = self._read(rows, views, self._frame(rows, views), with_masks)
        return self._finish(raw, self._transfer.pinned(rows), self._send(rows, views))

    def _training_rows(self, order: TrainingOrder, *, epoch: int) -> NDArray[np.int64]:
        return order.rows(self.table, batch_size=self.batch_size, seed=order.seed, epoch=epoch)

    def _centre_views(self) -> Views:
        return centre_views(len(self.table), self._cfg)

    def _require_masks(self, order: TrainingOrder | None) -> None:
        if self.table.mask_paths is None:
            raise DataError(
                f"{self._root} has no part masks for {self.table.split}; leave them out or add a masks folder"
            )
        if order is not None and self._cfg.rand_augment is not None:
            raise DataError("part masks cannot follow data.rand_augment, which moves images; set it to null")

    def _send(self, rows: NDArray[np.int64], views: Views) -> DeviceViews:
        shown_hw = self._shown_hw(rows, views)
        return send_views(views, rows, self._cache_rows[rows], shown_hw=shown_hw, transfer=self._transfer)

    def _shown_hw(self, rows: NDArray[np.int64], views: Views) -> NDArray[np.int64] | None:
        """(B, 2) height and width of what is no padding, or None where nothing is padded."""
        if self._cfg.resize != "pad":
            return None
        if views.windows is not None:
            return views.windows.sizes_hw
        return geometry.padded_hw(self._sizes_hw[rows], self._cfg.image_hw)

    def _read(self, rows: NDArray[np.int64], views: Views, frame: BatchFrame, with_masks: bool) -> _RawBatch:
        """The part done ahead, on the prefetch thread: bytes from disk to the device, and what is drawn by image."""
        pixels = masks = None
        if self._resident is None:
            pixels = self._transfer.send(self._shown(self._cache.pixels, self._cache_rows[rows], views, frame))
        if with_masks and self._resident_masks is None:
            masks = self._transfer.send(self._read_masks(rows, views, frame))
        return _RawBatch(
            rows,
            frame,
            pixels,
            masks,
            with_masks,
            self._draw_noise(views, frame.canvas_hw),
            self._draw_operations(views, frame.canvas_hw),
        )

    def _draw_noise(self, views: Views, canvas_hw: tuple[int, int]) -> Sent | None:
        """What is shown in erased rectangles."""
        if views.erased is None:
            return None
        return self._transfer.send(noise(views.erased, views.seeds, (len(views.x), 3, *canvas_hw)))

    def _draw_operations(self, views: Views, canvas_hw: tuple[int, int]) -> SentOperations | None:
        if self._order is None or self._cfg.rand_augment is None:
            return None
        return send_operations(views.seeds, self._cfg.rand_augment, canvas_hw, self._transfer)

    def _read_masks(self, rows: NDArray[np.int64], views: Views, frame: BatchFrame) -> NDArray[np.uint8]:
        if self._masks is not None:
            return self._shown(self._masks.pixels[..., None], rows, views, frame)[..., 0]
        assert self.table.mask_paths is not None
        masks = np.stack([decode_mask(self.table.mask_paths[row], self._cache.resizing) for row in rows])
        return self._shown(masks[..., None], np.arange(len(rows)), views, frame)[..., 0]

    def _shown(
        self, pixels: NDArray[np.uint8], rows: NDArray[np.int64], views: Views, frame: BatchFrame
    ) -> NDArray[np.uint8]:
        """What the views show of cached pixels (M, ·, ·, C): (B, H, W, C)."""
        if views.windows is None and self._is_exact:
            return cut(pixels, rows, views, self._cfg)
        return resample(pixels, rows, views, self._cfg, canvas_hw=frame.canvas_hw)

    def _finish(self, raw: _RawBatch, rows: Tensor, views: DeviceViews) -> Batch:
        """The part on the device."""
        shown_hw = views.shown_hw if raw.frame.is_padded else None
        padding = None if shown_hw is None else padding_mask(shown_hw, raw.frame.canvas_hw)
        return Batch(
            images=self._images(raw, views, padding),
            labels=self._labels[views.rows],
            image_ids=tuple(self.table.image_ids[row] for row in raw.rows),
            rows=rows,
            padding=padding,
            part_masks=self._part_masks(raw, views, padding) if raw.with_masks else None,
            cameras=None if self._cameras is None else self._cameras[views.rows],
            possible=None if self._possible is None else self._possible[views.rows],
            has_labels=bool((self.table.labels[raw.rows] >= 0).all()),
        )

    def _images(self, raw: _RawBatch, views: DeviceViews, padding: Tensor | None) -> Tensor:
        """(B, 3, H, W) float32, normalised, in the memory format of the loader."""
        images = normalise(self._augmented(raw, views))
        if raw.noise is not None and views.erased is not None:
            images = erase(images, views.erased, raw.noise.receive())
        if views.deleted is not None:
            images = delete(images, views.deleted)
        if padding is not None:
            images.masked_fill_(padding[:, None], 0.0)
        return images.contiguous(memory_format=self.memory_format)

    def _augmented(self, raw: _RawBatch, views: DeviceViews) -> Tensor:
        """(B, 3, H, W) float32 in [0, 1], in training with changed colours and moved pixels."""
        if raw.pixels is None:
            assert self._resident is not None
            pixels = gather(self._resident, views.cache_rows, views, self._cfg)
        else:
            pixels = raw.pixels.receive()
        if self._order is None:
            return as_images(pixels, memory_format=self.memory_format)
        # a processor computes colours faster plane by plane
        in_planes = pixels.device.type == "cpu"
        images = as_images(pixels, memory_format=torch.contiguous_format if in_planes else self.memory_format)
        images = jitter(images, views.brightness, views.saturation)
        return images if raw.operations is None else rand_augment(images, raw.operations.receive())

    def _part_masks(self, raw: _RawBatch, views: DeviceViews, padding: Tensor | None) -> Tensor:
        """(B, H, W) bool, True where a part is seen."""
        if raw.masks is None:
            assert self._resident_masks is not None
            masks = gather(self._resident_masks, views.rows, views, self._cfg)
        else:
            masks = raw.masks.receive()
        shown = masks > _HALF
        for hidden in (views.erased, views.deleted):
            if hidden is not None:
                shown &= ~erased_mask(hidden, raw.frame.canvas_hw)
        return shown if padding is None else shown & ~padding


_HALF = 127  # bytes above it are more than half of a pixel


@dataclass(frozen=True, eq=False)
class _RawBatch:
    """What is made of a batch ahead of its use.

    Attributes:
        rows: (B,) of the split.
        pixels: (B, H, W, 3) bytes of what is seen, or None where they are on the device already.
        masks: (B, H, W) bytes, likewise, or None where there are none.
        noise: (B, 3, H, W), or None where nothing is erased.
    """

    rows: NDArray[np.int64]
    frame: BatchFrame
    pixels: Sent | None
    masks: Sent | None
    with_masks: bool
    noise: Sent | None
    operations: SentOperations | None
