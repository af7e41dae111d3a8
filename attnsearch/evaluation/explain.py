"""A trained model that explains images of one's own, with its own preprocessing and class names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnsearch.config.evaluation import VERSION, ScoreSettings
from attnsearch.config.load import with_settings, without_variables
from attnsearch.data.loader import DataSource, crop_boxes, open_data
from attnsearch.device import device_errors
from attnsearch.errors import UsageError, suggest
from attnsearch.evaluation.base import InferenceModel, ModelOnData, build_for_inference, read_once, run_split
from attnsearch.evaluation.own_images import IMAGE_TYPES, AnyImage, name_images, open_images, own_batches
from attnsearch.evaluation.scorer import SaliencyScorer
from attnsearch.figures.explanation import Explanation, ImageToDraw
from attnsearch.figures.kinds import ClassMap
from attnsearch.metrics.registry import find_metric
from attnsearch.models.checkpoint import ModelCheckpoint
from attnsearch.store.image_scores import ImageScore
from attnsearch.types import AttentionOutput, Batch, GroundTruth, Split

TOP_Q = 5


@dataclass(frozen=True, eq=False, repr=False)
class TrainedModel(InferenceModel):
    """A checkpoint's model, its preprocessing and its class names.

    Images are what `to_image` takes: a file, a PIL image, or an (H, W, 3) uint8 RGB array, of any size.

    Attributes:
        config: of the run that trained it.
        on_test: called with the checkpoint's epoch before an evaluation on the test split, to log it.
    """

    on_test: Callable[[int], None] | None = None

    @classmethod
    def load(
        cls,
        checkpoint: ModelCheckpoint | Path | str,
        *,
        device: str = "auto",
        on_test: Callable[[int], None] | None = None,
    ) -> Self:
        """The model of a checkpoint file, see `load_model`."""
        checkpoint = read_once(checkpoint)
        config = with_settings(without_variables(checkpoint.config), {"runtime.device": device})
        return cls(checkpoint, config, *build_for_inference(checkpoint, config), on_test)

    def __repr__(self) -> str:
        height, width = self.config.data.image_hw
        return (
            f"<TrainedModel {self.config.model.name} of {self.checkpoint.path}, {len(self.class_names)} classes, "
            f"{height} x {width} px, on {self.device}>"
        )

    @overload
    def explain(
        self, images: AnyImage, target: str | int | None = None, *, maps: tuple[str, ...] = (), top_q: int = TOP_Q
    ) -> Explanation: ...

    @overload
    def explain(
        self, images: list[Any], target: str | int | None = None, *, maps: tuple[str, ...] = (), top_q: int = TOP_Q
    ) -> list[Explanation]: ...

    def explain(
        self,
        images: AnyImage | list[Any],
        target: str | int | None = None,
        *,
        maps: tuple[str, ...] = (),
        top_q: int = TOP_Q,
    ) -> Explanation | list[Explanation]:
        """What the model makes of an image, or a list of them for a list.

        Args:
            target: the class that the saliency explains, by name or index; None explains the predicted one.
            maps: names of maps of the model beside the family's default ones.
            top_q: how many of the most probable classes get a map of their own.
        Raises:
            DataError: an image cannot be read.
            UsageError: no such class or map, or an array that is no 8-bit RGB image.
        """
        explained = list(explain_images(self, name_images(images), target=target, maps=maps, top_q=top_q))
        return explained[0] if isinstance(images, IMAGE_TYPES) else explained

    def embed(self, images: AnyImage | list[Any]) -> NDArray[np.float32]:
        """(N, D) float32, what the model's head sees of each image.

        Raises:
            DataError: an image cannot be read.
            UsageError: the family offers no embedding, or an array is no 8-bit RGB image.
        """
        batches = own_batches(self, open_images(name_images(images), self.config.data, self.class_names))
        embeddings = [self.output(batch, maps=None).embedding for batch in batches]
        if any(embedding is None for embedding in embeddings):
            raise UsageError(f"the family {self.config.model.name} offers no embedding of an image")
        return np.concatenate([_array(embedding) for embedding in embeddings if embedding is not None])

    def score(
        self,
        images: AnyImage | list[Any],
        metrics: Sequence[str],
        *,
        masks: Sequence[AnyImage] | None = None,
        settings: ScoreSettings | None = None,
    ) -> pd.DataFrame:
        """Scores of the model's saliency of images: a row per image id, a column per metric, NaN where undefined.

        Args:
            metrics: names of image metrics, such as `relevance_gain`.
            masks: an image per image that is bright on its discriminative parts, for metrics that need masks.
            settings: how it is measured; None takes those of the config. Their `families` and `target` are not used,
                as images of one's own have no labels.
        Returns:
            `.attrs` has the `version` and the `settings` of the measurement.
        Raises:
            ConfigError: no such metric.
            DataError: an image cannot be read.
            UsageError: a metric of a whole data set, or one that needs what is known of a data set alone.
        """
        check_image_metrics(metrics, has_masks=masks is not None)
        groups = tuple(dict.fromkeys(find_metric(name).group for name in metrics))
        settings = (settings or self.config.evaluation.scores).model_copy(
            update={"families": groups, "target": "predicted"}
        )
        scorer = SaliencyScorer(self.model, replace(self.arithmetic, precision=settings.precision), settings)
        source = open_images(name_images(images), self.config.data, self.class_names, masks=masks)
        scores = [score for batch in own_batches(self, source) for score in _score_batch(self, scorer, batch)]
        frame = pd.DataFrame(
            {name: [score.values[name] for score in scores] for name in metrics},
            index=pd.Index([score.image_id for score in scores], name="image_id"),
        )
        frame.attrs = {"version": VERSION, "settings": settings.identity()}
        return frame

    def evaluate(self, split: Split = "val", *, data: DataSource | None = None) -> dict[str, float]:
        """The metrics of a split as `split/name`; an evaluation on the test split is logged first.

        Args:
            data: opened; None opens the data set of the config.
        Raises:
            DataError: the data set cannot be used, or has other classes or no such split.
        """
        opened = ModelOnData.of(self, open_data(self.config.data) if data is None else data)
        opened.table(split)
        if split == "test" and self.on_test is not None:
            self.on_test(self.checkpoint.epoch)
        return run_split(opened, split)


def load_model(path: str | Path, *, device: str = "auto", on_test: Callable[[int], None] | None = None) -> TrainedModel:
    """The model of a checkpoint file, such as a trial's or an imported one; only weights and settings are read.

    Args:
        device: as `runtime.device`: auto, cpu, cuda or cuda:N.
        on_test: as `TrainedModel.on_test`.
    Raises:
        ConfigError: the file is missing or broken, or the device does not exist.
    """
    return TrainedModel.load(path, device=device, on_test=on_test)


def check_image_metrics(names: Sequence[str], *, has_masks: bool) -> None:
    """Checks that metrics can be measured of single images.

    Raises:
        ConfigError: no such metric.
        UsageError: one is of a whole data set, or needs what images alone do not tell.
    """
    if isinstance(names, str):
        raise UsageError(f"metrics must be a list of names, got {names!r}; write [{names!r}]")
    for name in names:
        metric = find_metric(name)
        if metric.when != "image":
            where = "after each epoch" if metric.when == "epoch" else "of all images of a data set together"
            raise UsageError(f"{name} is measured {where}, and not of single images; leave it out")
        if metric.needs == "masks" and not has_masks:
            raise UsageError(f"{name} needs masks of the parts; give one per image with masks=")
        if metric.needs in ("boxes", "points"):
            raise UsageError(f"{name} needs {metric.needs} of the parts, which only a data set has; score its archive")


def _score_batch(inference: InferenceModel, scorer: SaliencyScorer, batch: Batch) -> list[ImageScore]:
    """The scores of the images (B) of a batch under the saliency of their predicted classes."""
    with device_errors():
        output = inference.output(batch)
        if output.maps is None:
            raise UsageError(f"the family {inference.config.model.name} makes no maps that could be scored")
        predictions = output.logits.argmax(dim=1)  # (B,)
        saliency = inference.model.saliency(output, predictions)  # (B, h, w)
        height, width = batch.images.shape[2:]
        truth = GroundTruth(masks=batch.part_masks, size_hw=(height, width))
        return scorer.score(batch, saliency, inference.task.target(output), truth)


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
        target: as `TrainedModel.explain`.
        maps: names of the maps of a model beside the family's default ones.
        top_q: how many of the most probable classes get a map of their own, the true one always among them.
    Raises:
        DataError: an image cannot be read.
        UsageError: the model makes no map of that name, or no such class.
    """
    index = None if target is None else class_index(target, inference.class_names)
    source = open_images(images, inference.config.data, inference.class_names)
    boxes, sizes = crop_boxes(source, "val", inference.config.data), source.cache.sizes_hw
    for batch in own_batches(inference, source):
        with device_errors():
            outputs = _BatchOutputs(inference, batch, target=index, maps=maps, top_q=top_q)
        for place, row in enumerate(batch.rows.tolist()):
            height, width = map(int, sizes[row])
            yield outputs.explanation(place, images[row], size_hw=(height, width), crop_box=boxes[row])


def class_index(target: str | int, class_names: Sequence[str]) -> int:
    """The index of a class.

    Raises:
        UsageError: there is none of that name or index.
    """
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
        self._class_names = inference.class_names
        output = inference.output(batch)
        self._maps = _named_maps(output) | (_named_maps(inference.output(batch, maps=maps)) if maps else {})
        self._norms = None if output.norms is None else _array(output.norms[:, 0])  # (B, h, w)
        probabilities = output.logits.float().softmax(dim=1)  # (B, n_classes)
        order = probabilities.argsort(dim=1, descending=True, stable=True)
        explained = order[:, 0] if target is None else torch.full_like(order[:, 0], target)  # (B,)
        ranked = _ranked(order, batch.labels, top_q if output.maps is not None else 0)  # (B, q)
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
        names, probabilities = self._class_names, self._probabilities[place]
        return Explanation(
            image_id=image.image_id,
            source=image.source,
            true=image.true,
            class_names=names,
            predicted=names[self._predicted[place]],
            probabilities=probabilities,
            target=names[self._explained[place]],
            size_hw=size_hw,
            crop_box=crop_box,
            maps={name: maps[place] for name, maps in self._maps.items()},
            norm=None if self._norms is None else self._norms[place],
            saliency=None if self._saliency is None else self._saliency[place],
            classes=tuple(
                ClassMap(names[index], float(probabilities[index]), maps[place])
                for index, maps in zip(self._ranked[place], self._class_maps, strict=True)
            ),
        )


def _ranked(order: Tensor, labels: Tensor, top_q: int) -> Tensor:
    """(B, q) the most probable classes; where a known label (B,) is not among them, it takes the last place.

    Args:
        order: (B, n_classes), the most probable class first.
    """
    ranked = order[:, :top_q].clone()
    if ranked.shape[1]:
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
