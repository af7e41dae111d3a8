"""Why two images match: explanations of their similarity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from attnsearch.data.loader import crop_boxes
from attnsearch.device import device_errors
from attnsearch.errors import ConfigError, UsageError
from attnsearch.evaluation.base import InferenceModel
from attnsearch.evaluation.baselines import OCCLUSION
from attnsearch.evaluation.explain import explain_images, open_images, own_batches
from attnsearch.evaluation.scorer import SaliencyScorer
from attnsearch.evaluation.similarity import pair_map, pair_matrix
from attnsearch.figures.explanation import Explanation, ImageToDraw
from attnsearch.figures.kinds import Method
from attnsearch.figures.pairs import Match
from attnsearch.tasks.retrieval import SimilarityTarget
from attnsearch.types import AttentionOutput, Batch

MAX_OCCLUDED = 128
"""Cells that occlusion removes one by one: 16 x 8 of a person at a stride of 16 px."""


@dataclass(frozen=True)
class SimilarityTo:
    """The similarity to an image, as the target of an explanation; `TrainedModel.similarity_to` makes it."""

    image: ImageToDraw
    method: Method


def explain_matches(
    inference: InferenceModel,
    images: Sequence[ImageToDraw],
    others: Sequence[ImageToDraw],
    *,
    maps: tuple[str, ...] = (),
    method: Method = OCCLUSION,
) -> Iterator[Explanation]:
    """Why each image resembles the other one at its place, in their order; saliency is what raises the cosine.

    Args:
        maps: as of `explain_images`.
        method: by which the maps of a match are made.
    Raises:
        DataError: an image cannot be read.
        UsageError: the model compares no images, or it can have no map of this method.
    """
    check_compares(inference)
    others_source = open_images(others, inference.config.data, inference.class_names)
    boxes, sizes = crop_boxes(others_source, "val", inference.config.data), others_source.cache.sizes_hw
    images_source = open_images(images, inference.config.data, inference.class_names)
    batches = zip(own_batches(inference, images_source), own_batches(inference, others_source), strict=True)
    similarities = (row for pair in batches for row in _similarities(inference, *pair, method))
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
            method=method,
        )
        yield replace(
            explanation,
            target=f"similarity to {PurePath(other.image_id).name}",
            cosine=similarity.cosine,
            saliency=similarity.own.clip(min=0),
            match=match,
        )


def check_compares(inference: InferenceModel) -> None:
    """Checks that the task compares images.

    Raises:
        UsageError: it predicts classes.
    """
    if inference.task.predicts_classes:
        raise UsageError(
            f"a model of the task {inference.config.task.name} compares no images; give the name of a class as target"
        )


@dataclass(frozen=True, eq=False)
class _Similarity:
    """Of two images: maps (h, w) of both, and (k, l, m, n) what pairs of their cells add, or None."""

    cosine: float
    own: NDArray[np.float32]
    other: NDArray[np.float32]
    pairs: NDArray[np.float32] | None


def _similarities(inference: InferenceModel, first: Batch, second: Batch, method: Method) -> Iterator[_Similarity]:
    """That of each image of a batch and the one at its place in another."""
    with device_errors():
        output, other_output = inference.output(first), inference.output(second)
        embedded, other_embedded = _embedding(inference, output), _embedding(inference, other_output)  # (B, D) each
        cosines = F.cosine_similarity(embedded, other_embedded).tolist()
        own = _to_array(_match_map(inference, first, output, other_embedded, method))  # (B, h, w)
        other = _to_array(_match_map(inference, second, other_output, embedded, method))  # (B, h, w)
        try:
            pairs = _to_array(pair_matrix(inference, first, second))  # (B, k, l, m, n)
        except UsageError:  # the embedding is no sum over cells
            pairs = None
    for place, maps in enumerate(zip(own, other, strict=True)):
        yield _Similarity(cosines[place], *maps, None if pairs is None else pairs[place])


def _match_map(
    inference: InferenceModel, batch: Batch, output: AttentionOutput, references: Tensor, method: Method
) -> Tensor:
    """Why each image of a batch, of which the output is, resembles its reference (B, D): (B, h, w) float32.

    Under `occlusion` it has at most `MAX_OCCLUDED` cells, each of which costs a forward pass.

    Raises:
        UsageError: the model can have no map of this method.
    """
    if method == "pair":
        return pair_map(inference, batch, references)
    any_class = torch.zeros(len(references), dtype=torch.int64, device=inference.device)
    own: Tensor = inference.model.saliency(output, any_class)  # (B, h, w)
    if method == "own":
        return own
    target = SimilarityTarget(references, lambda output: _embedding(inference, output))
    settings = inference.config.evaluation.scores.model_copy(update={"precision": "fp32", "fill": "mean"})
    h, w = own.shape[1:]
    while method == OCCLUSION and h * w > MAX_OCCLUDED:
        h, w = -(-h // 2), -(-w // 2)
    try:
        return SaliencyScorer(inference, settings).baseline(method, batch, target, (h, w))
    except ConfigError as error:
        raise UsageError(str(error)) from None


def embed_batch(inference: InferenceModel, batch: Batch) -> Tensor:
    """What images are compared by, (B, D) float32.

    Raises:
        UsageError: the family offers no embedding.
    """
    return _embedding(inference, inference.output(batch, maps=None))


def _embedding(inference: InferenceModel, output: AttentionOutput) -> Tensor:
    """(B, D) float32."""
    embedded = inference.task.embed(output)
    if embedded is None:
        raise UsageError(f"the family {inference.config.model.name} offers no embedding of an image")
    return embedded


def _to_array(tensor: Tensor) -> NDArray[np.float32]:
    """(B, ...) to the same on the CPU."""
    array: NDArray[np.float32] = tensor.detach().float().cpu().numpy()
    return array
