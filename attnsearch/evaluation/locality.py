"""Whether a model's features stay where their part is, and whether its decisions stand on the cells of its map.

Birds are drawn again with variants that are independent and uniform, so that no part tells anything about another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnsearch.data.fixed_rows import fixed_subset
from attnsearch.data.loader import BatchLoader
from attnsearch.data.synthetic.birds import N_VARIANTS, PARTS
from attnsearch.data.synthetic.canvas import masks_of_numbers
from attnsearch.data.synthetic.redraw import BirdRedraw
from attnsearch.device import device_errors
from attnsearch.evaluation.base import ModelOnData, untrained
from attnsearch.evaluation.explain import open_images
from attnsearch.figures.explanation import ImageToDraw
from attnsearch.metrics.locality import cells_of_mass, locality, own_and_leak, pooled_at_parts, skill_matrix
from attnsearch.metrics.removal import random_ranks, upscale_cells
from attnsearch.progress import with_bar
from attnsearch.types import Batch, Split

MASS = 0.8
"""Fraction of a map's sum that the cells have on which a decision should stand alone."""
_CHUNK = 16  # images that are drawn, resized and shown to the models together
_CODES, _CELLS = range(2)


@dataclass(frozen=True, eq=False)
class Locality:
    """How well variants of parts are read at the cells of parts, under one model.

    Attributes:
        skills: (P, P) float64, part by the part at whose cells its variant is read; 1 is always, 0 is chance.
        n_images: (P,) in which each part is seen.
        parts: P names.
    """

    skills: NDArray[np.float64]
    n_images: NDArray[np.int64]
    parts: tuple[str, ...] = PARTS

    @property
    def own(self) -> float:
        """Mean skill at a part's own cells."""
        return own_and_leak(torch.from_numpy(self.skills))[0]

    @property
    def leak(self) -> float:
        """Mean skill at the cells of other parts."""
        return own_and_leak(torch.from_numpy(self.skills))[1]

    @cached_property
    def locality(self) -> float:
        """1 - leak / own; NaN where parts are not read at their own cells either."""
        return locality(torch.from_numpy(self.skills))


@dataclass(frozen=True)
class KeptDecisions:
    """How often the predicted class stays when only some cells of an image are shown.

    Attributes:
        by_map: fraction of images, of the cells that have `MASS` of the map.
        by_random: the same of as many random cells.
        fraction_of_cells: mean fraction of the cells that are shown.
    """

    by_map: float
    by_random: float
    fraction_of_cells: float


@dataclass(frozen=True, eq=False)
class Leakage:
    """What is measured of a trained model, of the same model with random weights, and of its decisions."""

    trained: Locality
    untrained: Locality
    decisions: KeptDecisions


@device_errors()
@torch.no_grad()
def measure_leakage(opened: ModelOnData, split: Split, *, n_images: int) -> Leakage:
    """Probes the features that the map weighs, of the model and of one with random weights, and tests its decisions.

    Args:
        n_images: of the split, those of `fixed_subset`; all where there are fewer.
    Raises:
        ConfigError: the images cannot be drawn again.
        DataError: there is no such split.
        UsageError: the family makes no maps, or does not say what they weigh.
        OutOfMemory, DeviceError: the device has too little memory for the setting, or it failed.
    """
    birds = BirdRedraw.of(opened.config.data)
    rows = fixed_subset(opened.table(split), n_images)
    probed = _BirdsOfIndependentParts(birds, opened, tuple(opened.table(split).image_ids[row] for row in rows))
    models = (opened, untrained(opened))
    features: list[list[Tensor]] = [[], []]
    for batch in with_bar(probed.batches(), "Probing parts", n_steps=probed.n_batches, force=False):
        for of_model, model in zip(features, models, strict=True):
            of_model.append(_at_parts(model, batch))
    trained, floor = (probed.locality(torch.cat(of_model)) for of_model in features)
    return Leakage(trained, floor, kept_decisions(opened, split, rows))


@dataclass(frozen=True, eq=False)
class _BirdsOfIndependentParts:
    """Some images of a split, drawn again with the variants of random codes."""

    birds: BirdRedraw
    opened: ModelOnData
    image_ids: tuple[str, ...]

    @cached_property
    def codes(self) -> NDArray[np.int64]:
        """(N, P) independent and uniform variants."""
        return np.random.default_rng(_CODES).integers(N_VARIANTS, size=(len(self.image_ids), len(PARTS)))

    @property
    def n_batches(self) -> int:
        return -(-len(self.image_ids) // _CHUNK)

    def batches(self) -> Iterator[tuple[Batch, Tensor]]:
        """Images (B, 3, H, W) as the model sees them, and masks (B, P, H, W) of their parts."""
        for start in range(0, len(self.image_ids), _CHUNK):
            yield self._batch(range(start, min(start + _CHUNK, len(self.image_ids))))

    def _batch(self, places: range) -> tuple[Batch, Tensor]:
        data, copies, masks = self.opened.config.data, [], []
        for place in places:
            beak, eye_ring, wing_bar, tail = self.codes[place].tolist()
            image, numbers = self.birds.draw(self.image_ids[place], code=(beak, eye_ring, wing_bar, tail))
            masks += masks_of_numbers(numbers, _NUMBERS)
            copies += [ImageToDraw(f"{place}/{part}", image) for part in PARTS]  # one row for each mask
        source = open_images(copies, data, self.opened.class_names, masks=masks).under(data)
        loader = BatchLoader(source, "val", batch_size=1, device=self.opened.device)
        of_parts = loader.batch(np.arange(len(copies)), with_masks=True)
        assert of_parts.part_masks is not None
        masks_of = of_parts.part_masks.view(len(places), len(PARTS), *of_parts.part_masks.shape[1:])  # (B, P, H, W)
        return of_parts.take(torch.arange(0, len(copies), len(PARTS))), masks_of

    def locality(self, features: Tensor) -> Locality:
        """Of features (N, P, C) at the cells of each part."""
        skills = skill_matrix(features, torch.from_numpy(self.codes), n_variants=N_VARIANTS)
        return Locality(skills.numpy(), features.isfinite().all(dim=2).sum(dim=0).numpy())


_NUMBERS = range(1, len(PARTS) + 1)


def _at_parts(opened: ModelOnData, batch: tuple[Batch, Tensor]) -> Tensor:
    """(B, P, C) on the CPU: the mean feature at the cells of each part, of images and masks (B, P, H, W)."""
    images, masks = batch
    with opened.arithmetic.autocast():
        features = opened.model.cell_features(opened.arithmetic.place_images(images))  # (B, C, h, w)
    return pooled_at_parts(features, masks).cpu()


@torch.no_grad()
def kept_decisions(opened: ModelOnData, split: Split, rows: NDArray[np.int64]) -> KeptDecisions:
    """How often predictions of some rows (N,) of a split stay on the cells with most of the map alone.

    The other cells have the mean colour.

    Raises:
        UsageError: the family makes no maps.
    """
    loader, counts = opened.loader(split), torch.zeros(3, dtype=torch.float64)
    for start in range(0, len(rows), loader.batch_size):
        counts += _kept(opened, loader.batch(rows[start : start + loader.batch_size]))
    by_map, by_random, fraction = (counts / len(rows)).tolist()
    return KeptDecisions(by_map, by_random, fraction)


def _kept(opened: ModelOnData, batch: Batch) -> Tensor:
    """(3,) sums over the images of a batch: kept on the cells of the map, on random ones, and the fraction of cells."""
    output = opened.output(batch)
    predicted = output.logits.argmax(dim=1)  # (B,)
    saliency = opened.model.saliency(output, predicted)  # (B, h, w)
    of_map = cells_of_mass(saliency, MASS)
    n_cells = of_map.sum(dim=(1, 2))  # (B,)
    seeds = [int(np.random.default_rng((_CELLS, row)).integers(2**62)) for row in batch.rows.tolist()]
    ranks = random_ranks(saliency, torch.tensor(seeds))
    height, width = batch.images.shape[2:]
    kept = []
    for shown in (of_map, ranks < n_cells[:, None, None]):
        pixels = upscale_cells(shown, (height, width))[:, None]  # (B, 1, H, W)
        logits = opened.output(replace(batch, images=batch.images * pixels), maps=None).logits
        kept.append((logits.argmax(dim=1) == predicted).double().sum().cpu())
    return torch.stack([*kept, (n_cells / saliency[0].numel()).double().sum().cpu()])
