"""Batches of a split, cut from cached pixels; what they hold depends on seed and epoch alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnsearch import geometry
from attnsearch.config.data import DataConfig
from attnsearch.config.images import as_setting
from attnsearch.data.augment import (
    cut,
    delete,
    erase,
    erased_mask,
    jitter,
    normalise,
    padding_mask,
    rand_augment,
    resample,
)
from attnsearch.data.cache import PixelCache, open_cache
from attnsearch.data.images import decode_mask
from attnsearch.data.tables import DataTables, ImageTable, build_tables
from attnsearch.data.views import Views, centre_views, random_views
from attnsearch.errors import DataError
from attnsearch.types import Batch, Split

A = TypeVar("A")
R = TypeVar("R")


def prefetched(work: Callable[[A], R], items: Iterable[A], *, depth: int = 2) -> Iterator[R]:
    """`work(item)` of each item in order, up to `depth` items ahead of the consumer.

    The thread ends with the iterator, also when the consumer stops early; an error of `work` is raised where its
    result would have come.
    """
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="attnsearch-prefetch") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


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

    Args:
        order: None evaluates.
        with_masks: adds `part_masks` (B, H, W), through the same crop as the images.

    Batches of `resize: pad` carry their padding, in which images are 0, the mean colour; in training, those of
    `multi_scale` are as large as their largest image.

    Attributes:
        table: the split.
        n_images: images that one epoch yields.
        batch_size: images of a batch of an epoch; the last one may be short.

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
            self._require_masks()
        if with_masks and order is not None and self._cfg.rand_augment is not None:
            raise DataError("part masks cannot follow data.rand_augment, which moves images; set it to null")
        self._cache_rows = source.cache.rows(self.table)
        self._sizes_hw = source.cache.sizes_hw[self._cache_rows]
        self._device = torch.device(device)
        self.batch_size, self._order, self._with_masks = batch_size, order, with_masks
        n_images = len(self.table) if order is None else len(self._training_rows(order, epoch=1))
        drops_last = order is not None and batch_size > 1 and n_images % batch_size == 1
        self.n_images = n_images - drops_last

    def __len__(self) -> int:
        """Batches in one epoch."""
        return -(-self.n_images // self.batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch (from 1), on the device but for `rows`; the last one may be short.

        Training leaves out a last batch of one image, which batch norm could not train on.

        Raises:
            DataError: a mask cannot be read.
        """
        if self._order is not None:
            rows = self._training_rows(self._order, epoch=epoch)
            views = random_views(self._sizes_hw, self._cfg, seed=self._order.seed, epoch=epoch, rows=rows)
        else:
            rows, views = np.arange(len(self.table)), self._centre_views()
        places = np.arange(self.n_images)  # in the epoch
        chunks = (places[start : start + self.batch_size] for start in range(0, self.n_images, self.batch_size))
        for raw in prefetched(lambda chunk: self._read(rows[chunk], views.take(chunk), self._with_masks), chunks):
            yield self._finish(raw)

    def batch(self, rows: NDArray[np.int64], *, with_masks: bool = False) -> Batch:
        """One evaluation batch of some rows (B,) of the split, in that order.

        Args:
            with_masks: adds `part_masks`, also where the loader adds none to its epochs.
        Raises:
            DataError: there are no masks, or one cannot be read.
        """
        if with_masks:
            self._require_masks()
        return self._finish(self._read(rows, self._centre_views().take(rows), with_masks))

    def _training_rows(self, order: TrainingOrder, *, epoch: int) -> NDArray[np.int64]:
        return order.rows(self.table, batch_size=self.batch_size, seed=order.seed, epoch=epoch)

    def _centre_views(self) -> Views:
        return centre_views(len(self.table), self._cfg)

    def _require_masks(self) -> None:
        if self.table.mask_paths is None:
            raise DataError(
                f"{self._root} has no part masks for {self.table.split}; leave them out or add a masks folder"
            )

    def _read(self, rows: NDArray[np.int64], views: Views, with_masks: bool) -> _RawBatch:
        """The part done ahead, on the prefetch thread: bytes from disk to memory."""
        cache_rows = self._cache_rows[rows]
        pixels = self._shown(self._cache.pixels, cache_rows, views)
        masks = self._read_masks(rows, views) if with_masks else None
        return _RawBatch(rows, views, self._pinned(pixels), None if masks is None else self._pinned(masks))

    def _read_masks(self, rows: NDArray[np.int64], views: Views) -> NDArray[np.uint8]:
        assert self.table.mask_paths is not None
        masks = np.stack([decode_mask(self.table.mask_paths[row], self._cache.resizing) for row in rows])
        return self._shown(masks[..., None], np.arange(len(rows)), views)[..., 0]

    def _shown(self, pixels: NDArray[np.uint8], rows: NDArray[np.int64], views: Views) -> NDArray[np.uint8]:
        """What the views show of cached pixels (M, ·, ·, C): (B, H, W, C)."""
        is_exact = views.windows is None and self._cache.resizing.size_hw == self._cfg.resized_hw
        return (cut if is_exact else resample)(pixels, rows, views, self._cfg)

    def _pinned(self, array: NDArray[np.uint8]) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory() if self._device.type == "cuda" else tensor

    def _finish(self, raw: _RawBatch) -> Batch:
        images = self._to_device(raw.pixels.permute(0, 3, 1, 2))  # (B, 3, H, W)
        if self._order is not None:
            images = jitter(images, raw.views)
            if self._cfg.rand_augment is not None:
                images = rand_augment(images, raw.views, self._cfg.rand_augment)
        padding = self._padding(raw, images)
        images = normalise(images)
        if raw.views.erased is not None:
            images = erase(images, raw.views.erased, raw.views.seeds)
        if raw.views.deleted is not None:
            images = delete(images, raw.views.deleted)
        if padding is not None:
            images.masked_fill_(padding[:, None], 0.0)
        return Batch(
            images=images,
            labels=torch.from_numpy(self.table.labels[raw.rows]).to(self._device, non_blocking=True),
            image_ids=tuple(self.table.image_ids[row] for row in raw.rows),
            rows=torch.from_numpy(raw.rows),
            padding=padding,
            part_masks=None if raw.masks is None else self._shown_masks(raw.masks, raw.views, padding),
            cameras=self._of_rows(self.table.cameras, raw.rows),
            possible=self._of_rows(self.table.possible, raw.rows),
        )

    def _of_rows(self, column: NDArray[Any] | None, rows: NDArray[np.int64]) -> Tensor | None:
        """The values of some images (B, ...), on the device, of a column (N, ...) of the table."""
        return None if column is None else torch.from_numpy(column[rows]).to(self._device)

    def _shown_masks(self, masks: Tensor, views: Views, padding: Tensor | None) -> Tensor:
        """(B, H, W) bool, True where a part is seen, of masks as they were read."""
        shown = self._to_device(masks) >= 0.5  # (B, H, W)
        for hidden in (views.erased, views.deleted):
            if hidden is not None:
                shown &= ~erased_mask(hidden, (shown.shape[1], shown.shape[2]), device=shown.device)
        return shown if padding is None else shown & ~padding

    def _padding(self, raw: _RawBatch, images: Tensor) -> Tensor | None:
        if self._cfg.resize != "pad":
            return None
        height, width = images.shape[2:]
        if raw.views.windows is not None:
            sizes_hw = raw.views.windows.sizes_hw
        else:
            sizes_hw = geometry.padded_hw(self._sizes_hw[raw.rows], self._cfg.image_hw)
        return padding_mask(sizes_hw, (height, width), device=images.device)

    def _to_device(self, pixels: Tensor) -> Tensor:
        """Bytes -> contiguous float32 in [0, 1]."""
        images = pixels.to(self._device, non_blocking=True)
        return images.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


@dataclass(frozen=True, eq=False)
class _RawBatch:
    """A batch as bytes: what is seen of images (B, H, W, 3) and of masks (B, H, W)."""

    rows: NDArray[np.int64]
    views: Views
    pixels: Tensor
    masks: Tensor | None
