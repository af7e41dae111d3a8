"""Explanations of images, also of ones that belong to no data set: these are opened as a split that lies in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from attnsearch.config.data import DataConfig
from attnsearch.data.cache import PixelCache
from attnsearch.data.images import decode_resized
from attnsearch.data.loader import BatchLoader, DataSource, crop_boxes
from attnsearch.data.tables import DataTables, ImageTable
from attnsearch.device import device_errors
from attnsearch.errors import UsageError, suggest
from attnsearch.evaluation.base import InferenceModel
from attnsearch.figures.explanation import NO_CLASSES, Explanation, ImageToDraw
from attnsearch.figures.kinds import ClassMap
from attnsearch.types import AttentionOutput, Batch

BATCH = 16
_ACCEPTED = "a path, a PIL image or an (H, W, 3) uint8 RGB array"
AnyImage = str | Path | Image.Image | NDArray[Any]
IMAGE_TYPES = (str, Path, Image.Image, np.ndarray)


def to_image(image: AnyImage) -> Path | Image.Image:
    """A path, or an image in memory.

    Raises:
        UsageError: a tensor, whose order of axes and range are not known, an array that is not (H, W, 3) uint8, as
            floats have no agreed range, or something else.
    """
    if isinstance(image, str | Path):
        return Path(image)
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, Tensor):
        raise UsageError(
            f"an image must be {_ACCEPTED}, got a tensor {tuple(image.shape)} {image.dtype}: its channels and range "
            f"are not known; give .permute(1, 2, 0).numpy() of 0 to 255 as uint8"
        )
    if not hasattr(image, "__array__"):
        raise UsageError(f"an image must be {_ACCEPTED}, got {type(image).__name__}")
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise UsageError(
            f"an array must be (H, W, 3) uint8 RGB, got {array.shape} {array.dtype}; floats may be in [0, 1], in "
            "[0, 255] or normalised, so scale them to 0 to 255 and use .astype(np.uint8)"
        )
    return Image.fromarray(array)


def name_images(images: Any) -> list[ImageToDraw]:
    """Each image under its path, or `image_<number>` from 1; a repeated name gets a number.

    Raises:
        UsageError: as `to_image`; or there is none.
    """
    is_one = isinstance(images, (*IMAGE_TYPES, Tensor)) or not isinstance(images, Iterable)
    listed = [images] if is_one else list(images)
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

    Cameras are those of the images, where all of them have one.

    Raises:
        DataError: an image cannot be read.
        UsageError: another number of masks than of images.
    """
    if masks is not None and len(masks) != len(images):
        raise UsageError(f"give one mask per image, got {len(masks)} masks of {len(images)} images")
    mask_images: Any = None if masks is None else tuple(to_image(mask) for mask in masks)  # read like files of masks
    pixels, sizes_hw = zip(*(decode_resized(image.source, cfg.cached) for image in images), strict=True)
    table = _table_of(images, class_names, mask_images)
    arrays = np.stack(pixels), np.array(sizes_hw, dtype=np.int64)
    cache = PixelCache(*arrays, table.image_ids, cfg.cached, fingerprint="")
    return DataSource(cfg, DataTables(Path(), class_names, table, table, None, ""), cache)


def _table_of(images: Sequence[ImageToDraw], class_names: tuple[str, ...], mask_images: Any) -> ImageTable:
    """The images as a split; masks are images that are read like files."""
    label_of: dict[str | None, int] = {name: label for label, name in enumerate(class_names)}
    labels = np.array([label_of.get(image.true, -1) for image in images], dtype=np.int64)
    ids = tuple(image.image_id for image in images)
    cameras = [image.camera for image in images if image.camera is not None]
    return ImageTable(
        "val",
        class_names,
        ids,
        tuple(map(Path, ids)),
        labels,
        mask_images,
        cameras=np.array(cameras, dtype=np.int64) if len(cameras) == len(images) else None,
    )


def own_batches(inference: InferenceModel, source: DataSource) -> Iterator[Batch]:
    """Images that `open_images` opened, as evaluation batches."""
    source, with_masks = source.under(inference.config.data), source.tables.val.mask_paths is not None
    return BatchLoader(source, "val", batch_size=BATCH, device=inference.device, with_masks=with_masks).epoch(1)


def explain_images(
    inference: InferenceModel,
    images: Sequence[ImageToDraw],
    *,
    target: str | int | None = None,
    maps: tuple[str, ...] = (),
    top_q: int = 0,
) -> Iterator[Explanation]:
    """What a model makes of images, in their order; each image is decoded once.

    Args:
        target: the class that is explained, by name or index; None explains the predicted one.
        maps: names of the maps of a model beside the family's default ones.
        top_q: how many of the most probable classes get a map of their own, the true one always among them.
    Returns:
        Explanations, which say nothing of classes where the task predicts none.
    Raises:
        DataError: an image cannot be read.
        UsageError: the model makes no map of that name, or no such class, or the task predicts none.
    """
    index = None if target is None else class_index(target, inference)
    source = open_images(images, inference.config.data, inference.class_names)
    boxes, sizes = crop_boxes(source, "val", inference.config.data), source.cache.sizes_hw
    for batch in own_batches(inference, source):
        with device_errors():
            outputs = _BatchOutputs(inference, batch, target=index, maps=maps, top_q=top_q)
        for place, row in enumerate(batch.rows.tolist()):
            height, width = map(int, sizes[row])
            yield outputs.explanation(place, images[row], size_hw=(height, width), crop_box=boxes[row])


def class_index(target: str | int, inference: InferenceModel) -> int:
    """The index of a class of a model.

    Raises:
        UsageError: there is none of that name or index, or the model predicts no classes.
    """
    class_names = inference.class_names
    if not inference.task.predicts_classes:
        raise UsageError(
            f"a model of the task {inference.config.task.name} predicts no classes, so {target!r} cannot be explained; "
            "give no target, or target=model.similarity_to(IMAGE)"
        )
    if isinstance(target, str):
        if target not in class_names:
            raise UsageError(f"the model has no class {target!r}{suggest(target, list(class_names))}")
        return class_names.index(target)
    if not 0 <= target < len(class_names):
        raise UsageError(f"a class index must be in 0 to {len(class_names) - 1}, got {target}")
    return int(target)


class _BatchOutputs:
    """The outputs of one batch of B images as arrays."""

    def __init__(
        self, inference: InferenceModel, batch: Batch, *, target: int | None, maps: tuple[str, ...], top_q: int
    ) -> None:
        self._class_names = inference.class_names if inference.task.predicts_classes else ()
        output = inference.output(batch)
        self._maps = _named_maps(output) | (_named_maps(inference.output(batch, maps=maps)) if maps else {})
        self._norms = None if output.norms is None else _array(output.norms[:, 0])  # (B, h, w)
        probabilities = output.logits.float().softmax(dim=1)  # (B, n_classes)
        order = probabilities.argsort(dim=1, descending=True, stable=True)
        explained = order[:, 0] if target is None else torch.full_like(order[:, 0], target)  # (B,)
        top_q = top_q if output.maps is not None and self._class_names else 0
        ranked = _ranked(order, batch.labels, top_q)  # (B, q)
        saliency = inference.model.saliency
        self._saliency = None if output.maps is None else _array(saliency(output, explained))
        self._class_maps = [_array(saliency(output, classes)) for classes in ranked.unbind(dim=1)]  # q of (B, h, w)
        self._probabilities = _array(probabilities)
        self._predicted, self._explained, self._ranked = (
            indices.cpu().numpy() for indices in (order[:, 0], explained, ranked)
        )

    def explanation(
        self, place: int, image: ImageToDraw, *, size_hw: tuple[int, int], crop_box: NDArray[np.float64]
    ) -> Explanation:
        """That of the image at a place of the batch."""
        return Explanation(
            image_id=image.image_id,
            source=image.source,
            true=image.true,
            size_hw=size_hw,
            crop_box=crop_box,
            maps={name: maps[place] for name, maps in self._maps.items()},
            norm=None if self._norms is None else self._norms[place],
            saliency=None if self._saliency is None else self._saliency[place],
            **self._answer(place),
        )

    def _answer(self, place: int) -> dict[str, Any]:
        """What was predicted of the image at a place, as fields of `ImageMaps`."""
        if not self._class_names:
            return {**NO_CLASSES, "predicted": None}
        names, probabilities = self._class_names, self._probabilities[place]
        classes = tuple(
            ClassMap(names[index], float(probabilities[index]), maps[place])
            for index, maps in zip(self._ranked[place], self._class_maps, strict=True)
        )
        return {
            "class_names": names,
            "predicted": names[self._predicted[place]],
            "probabilities": probabilities,
            "target": names[self._explained[place]],
            "classes": classes,
        }


def _ranked(order: Tensor, labels: Tensor, top_q: int) -> Tensor:
    """(B, q) the most probable classes; where a known label (B,) is not among several, it takes the last place.

    Args:
        order: (B, n_classes), the most probable class first.
    """
    ranked = order[:, :top_q].clone()
    if ranked.shape[1] > 1:
        is_missing = (labels >= 0) & ~(ranked == labels[:, None]).any(dim=1)
        ranked[is_missing, -1] = labels[is_missing]
    return ranked


def _named_maps(output: AttentionOutput) -> dict[str, NDArray[np.float32]]:
    """Name -> (B, h, w)."""
    if output.maps is None:
        return {}
    maps = _array(output.maps)
    return {name: maps[:, index] for index, name in enumerate(output.map_names)}


def _array(tensor: Tensor) -> NDArray[np.float32]:
    """(B, ...) to the same on the CPU."""
    return tensor.float().cpu().numpy()
