"""Sanity check: how far saliency depends on learned weights, which are randomised from the top down."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attnsearch.data.tables import places_of
from attnsearch.evaluation.base import ModelOnData
from attnsearch.metrics.statistics import rank_correlation
from attnsearch.models.base import AttentionModel
from attnsearch.types import Batch, Split

SEED = 42


@dataclass(frozen=True, eq=False)
class SanityStep:
    """The model with the weights of `parts`, and of all steps before, randomised.

    Attributes:
        parts: names of the modules, or weights, of this step.
        similarity: (N,) Spearman correlation of each image's map with its map under the trained model; NaN where
            either is flat.
    """

    parts: tuple[str, ...]
    similarity: NDArray[np.float64]

    @property
    def n_undefined(self) -> int:
        """Images without a similarity."""
        return int(np.isnan(self.similarity).sum())

    @property
    def mean(self) -> float:
        """Over the images that have one; NaN without any."""
        defined = self.similarity[~np.isnan(self.similarity)]
        return float(defined.mean()) if len(defined) else float("nan")


def check_sanity(opened: ModelOnData, split: Split, image_ids: Sequence[str]) -> list[SanityStep]:
    """How similar the saliency of some images of a split stays while weights are randomised: `randomise_downwards`."""
    rows, loader = np.sort(places_of(image_ids, opened.table(split).image_ids)), opened.loader(split)
    chunks = [rows[start : start + loader.batch_size] for start in range(0, len(rows), loader.batch_size)]
    return randomise_downwards(opened.model, [opened.arithmetic.place_images(loader.batch(chunk)) for chunk in chunks])


def randomise_downwards(model: AttentionModel, batches: Sequence[Batch], *, seed: int = SEED) -> list[SanityStep]:
    """Compares saliency before and after randomisation: all but the backbone, then its stages from the last one on.

    A map that stays similar shows the image and not the model. The class that is explained stays that of the trained
    model.

    Args:
        model: in eval mode; it is copied.
        batches: the same images for each step.
    Source: Adebayo et al. 2018 (arXiv 1810.03292), cascading randomisation. Difference: each weight of two or more
        dimensions is redrawn from a normal distribution of its own mean and deviation, whatever its layer's
        initialisation; biases, norms and their statistics stay.
    """
    randomised = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    targets = [_predict(model, batch) for batch in batches]
    before = _saliency(model, batches, targets)
    steps = []
    for names in _parts(randomised):
        for name in names:
            _redraw(randomised, name, generator)
        steps.append(SanityStep(names, rank_correlation(before, _saliency(randomised, batches, targets))))
    return steps


def _parts(model: AttentionModel) -> Iterator[tuple[str, ...]]:
    """What is randomised in each step: the children outside of the backbone, then the backbone's from the last one.

    Weights that the backbone has beside its children, such as the places of tokens, come at the end.
    """
    prefix = model.backbone_prefix.rstrip(".")
    outside = tuple(name for name, child in model.named_children() if name != prefix and _has_weights(child))
    if outside:
        yield outside
    backbone = dict(model.named_children()).get(prefix)
    inside = [] if backbone is None else [name for name, child in backbone.named_children() if _has_weights(child)]
    for name in reversed(inside):
        yield (f"{prefix}.{name}",)
    own = () if backbone is None else backbone.named_parameters(recurse=False)
    names = tuple(f"{prefix}.{name}" for name, parameter in own if parameter.ndim > 1)
    if names:
        yield names


def _has_weights(module: nn.Module) -> bool:
    return any(parameter.ndim > 1 for parameter in module.parameters())


@torch.no_grad()
def _redraw(model: nn.Module, name: str, generator: torch.Generator) -> None:
    """The weights of a module, or one weight, by its name."""
    for key, parameter in model.named_parameters():
        if parameter.ndim > 1 and (key == name or key.startswith(f"{name}.")):
            drawn = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.copy_(drawn * parameter.std(correction=0) + parameter.mean())


@torch.no_grad()
def _predict(model: AttentionModel, batch: Batch) -> Tensor:
    logits: Tensor = model(batch).logits  # (B, n_classes)
    return logits.argmax(dim=1)


@torch.no_grad()
def _saliency(model: AttentionModel, batches: Sequence[Batch], targets: Sequence[Tensor]) -> NDArray[np.float32]:
    maps = [
        model.saliency(model(batch, maps=()), target).float().cpu()
        for batch, target in zip(batches, targets, strict=True)
    ]
    return torch.cat(maps).numpy()  # (N, h, w)
