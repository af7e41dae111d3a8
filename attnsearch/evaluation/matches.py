"""Why two images match: explanations of their similarity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from attnsearch.data.loader import crop_boxes
from attnsearch.device import device_errors
from attnsearch.errors import UsageError
from attnsearch.evaluation.base import InferenceModel
from attnsearch.evaluation.explain import explain_images, open_images, own_batches
from attnsearch.evaluation.similarity import pair_map, pair_matrix
from attnsearch.figures.explanation import Explanation, ImageToDraw
from attnsearch.figures.pairs import Match, Method
from attnsearch.models.dcal import Dcal
from attnsearch.tasks.retrieval import SimilarityTarget
from attnsearch.types import AttentionOutput, Batch


@dataclass(frozen=True)
class SimilarityTo:
    """The similarity to an image, as the target of an explanation; `TrainedModel.similarity_to` makes it."""

    image: ImageToDraw


def explain_matches(
    inference: InferenceModel,
    images: Sequence[ImageToDraw],
    others: Sequence[ImageToDraw],
    *,
    maps: tuple[str, ...] = (),
) -> Iterator[Explanation]:
    """Why each image resembles the other one at its place, in their order; saliency is what raises the cosine.

    Args:
        maps: as of `explain_images`.
    Raises:
        DataError: an image cannot be read.
        UsageError: the model compares no images, or its similarity cannot be divided among cells.
    """
    others_source = open_images(others, inference.config.data, inference.class_names)
    boxes, sizes = crop_boxes(others_source, "val", inference.config.data), others_source.cache.sizes_hw
    images_source = open_images(images, inference.config.data, inference.class_names)
    batches = zip(own_batches(inference, images_source), own_batches(inference, others_source), strict=True)
    similarities = (row for pair in batches for row in _similarities(inference, *pair))
    explained = explain_images(inference, images, maps=maps)
    for place, (explanation, similarity) in enumerate(zip(explained, similarities, strict=True)):
        other = others[place]
        match = Match(
            image_id=other.image_id,
            source=other.source,
            true=other.true,
            size_hw=(int(sizes[place][0]), int(sizes[place][1])),
            crop_box=boxes[place],
            map=similarity.other,
            own_map=similarity.own,
            pairs=similarity.pairs,
            method=similarity.method,
        )
        yield replace(
            explanation,
            target=f"similarity to {PurePath(other.image_id).name}",
            cosine=similarity.cosine,
            saliency=similarity.own.clip(min=0),
            match=match,
        )


@dataclass(frozen=True, eq=False)
class _Similarity:
    """Of two images: maps (h, w) of both, and (P, R) what pairs of cells add, or None."""

    cosine: float
    own: NDArray[np.float32]
    other: NDArray[np.float32]
    pairs: NDArray[np.float32] | None
    method: Method


def _similarities(inference: InferenceModel, first: Batch, second: Batch) -> Iterator[_Similarity]:
    """That of each image of a batch and the one at its place in another."""
    is_exact = not isinstance(inference.model, Dcal)
    with device_errors():
        embedded, other_embedded = embed_batch(inference, first), embed_batch(inference, second)  # (B, D) each
        cosines = F.cosine_similarity(embedded, other_embedded).tolist()
        divide = pair_map if is_exact else _roll_out
        own, other = divide(inference, first, other_embedded), divide(inference, second, embedded)  # (B, h, w) each
        pairs = _to_array(pair_matrix(inference, first, second)) if is_exact else None  # (B, P, R)
    method: Method = "cells" if is_exact else "gradient_rollout"
    for place, maps in enumerate(zip(_to_array(own), _to_array(other), strict=True)):
        yield _Similarity(cosines[place], *maps, None if pairs is None else pairs[place], method)


def embed_batch(inference: InferenceModel, batch: Batch) -> Tensor:
    """What images are compared by, (B, D) float32.

    Raises:
        UsageError: the family offers no embedding.
    """
    embedded = inference.task.embed(inference.output(batch, maps=None))
    if embedded is None:
        raise UsageError(f"the family {inference.config.model.name} offers no embedding of an image")
    return embedded


def _roll_out(inference: InferenceModel, batch: Batch, references: Tensor) -> Tensor:
    """What attends to what raises the cosine of each image and a reference (B, D), (B, h, w) not negative."""
    assert isinstance(inference.model, Dcal)

    def embed(output: AttentionOutput) -> Tensor:
        embedded = inference.task.embed(output)
        assert embedded is not None
        return embedded

    target = SimilarityTarget(references, embed)
    return inference.model.gradient_rollout(inference.arithmetic.place_images(batch), target.raw_score)


def _to_array(tensor: Tensor) -> NDArray[np.float32]:
    """(B, ...) to the same on the CPU."""
    array: NDArray[np.float32] = tensor.detach().float().cpu().numpy()
    return array
