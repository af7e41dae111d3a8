"""Images of one's own, which belong to no data set: read, named, and opened as a split that lies in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from attnsearch.config.data import DataConfig
from attnsearch.data.cache import PixelCache
from attnsearch.data.images import decode_resized
from attnsearch.data.loader import DataSource
from attnsearch.data.tables import DataTables, ImageTable
from attnsearch.errors import UsageError
from attnsearch.evaluation.base import InferenceModel
from attnsearch.figures.explanation import ImageToDraw
from attnsearch.types import Batch

BATCH = 16
AnyImage = str | Path | Image.Image | NDArray[Any]
IMAGE_TYPES = (str, Path, Image.Image, np.ndarray)


def to_image(image: AnyImage) -> Path | Image.Image:
    """A path, or an image in memory.

    Raises:
        UsageError: a tensor, whose order of axes and range are not known, or an array that is not (H, W, 3) uint8;
            floats have no agreed range, so they are not guessed.
    """
    if isinstance(image, str | Path):
        return Path(image)
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, Tensor):
        raise UsageError(
            f"an image must be a path, a PIL image or an (H, W, 3) uint8 RGB array, got a tensor {tuple(image.shape)} "
            f"{image.dtype}: its channels and range are not known; give .permute(1, 2, 0).numpy() of 0 to 255 as uint8"
        )
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise UsageError(
            f"an array must be (H, W, 3) uint8 RGB, got {array.shape} {array.dtype}; floats may be in [0, 1], in "
            "[0, 255] or normalised, so scale them to 0 to 255 and use .astype(np.uint8)"
        )
    return Image.fromarray(array)


def name_images(images: AnyImage | list[Any]) -> list[ImageToDraw]:
    """Each image under its path, or `image_<number>` from 1; a repeated name gets a number.

    Raises:
        UsageError: as `to_image`; or there is none.
    """
    listed = [images] if isinstance(images, (*IMAGE_TYPES, Tensor)) else list(images)
    if not listed:
        raise UsageError("give at least one image")
    named: dict[str, ImageToDraw] = {}
    for number, image in enumerate(listed, start=1):
        source = to_image(image)
        name = str(source) if isinstance(source, Path) else f"image_{number}"
        name = name if name not in named else f"{name}#{number}"
        named[name] = ImageToDraw(name, source)
    return list(named.values())


def open_images(
    images: Sequence[ImageToDraw],
    cfg: DataConfig,
    class_names: tuple[str, ...],
    *,
    masks: Sequence[AnyImage] | None = None,
) -> DataSource:
    """Images as the validation split of a data set that lies in memory; an unknown class has the label -1.

    Raises:
        DataError: an image cannot be read.
        UsageError: another number of masks than of images.
    """
    if masks is not None and len(masks) != len(images):
        raise UsageError(f"give one mask per image, got {len(masks)} masks of {len(images)} images")
    mask_images: Any = None if masks is None else tuple(to_image(mask) for mask in masks)  # read like files of masks
    decoded = [
        decode_resized(image.source, size_hw=cfg.cached_hw, resize=cfg.resize, aspect=cfg.aspect) for image in images
    ]
    label_of = {name: label for label, name in enumerate(class_names)}
    ids = tuple(image.image_id for image in images)
    labels = [-1 if image.true is None else label_of.get(image.true, -1) for image in images]
    table = ImageTable("val", class_names, ids, tuple(map(Path, ids)), np.array(labels, dtype=np.int64), mask_images)
    tables = DataTables(Path(), class_names, table, table, None, "")
    pixels = np.stack([pixels for pixels, _ in decoded])
    sizes = np.array([size for _, size in decoded], dtype=np.int64)
    row_of = {image_id: row for row, image_id in enumerate(ids)}
    return DataSource(cfg, tables, PixelCache(pixels, sizes, cfg.cached_hw, cfg.resize, cfg.aspect, "", row_of))


def own_batches(inference: InferenceModel, source: DataSource) -> Iterator[Batch]:
    """Images that `open_images` opened, as evaluation batches."""
    cfg = inference.config.data
    with_masks = source.tables.val.mask_paths is not None
    return source.loader("val", cfg, batch_size=BATCH, device=inference.device, with_masks=with_masks).epoch(1)
