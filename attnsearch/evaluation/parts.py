"""What a model makes of synthetic birds whose parts are removed or exchanged, and what its maps say of these parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from attnsearch.config.evaluation import ScoreSettings
from attnsearch.data.loader import BatchLoader
from attnsearch.data.synthetic.birds import N_VARIANTS, PARTS
from attnsearch.data.synthetic.interventions import N_SUBSETS, DrawnImage, PartDrawings
from attnsearch.errors import DataError
from attnsearch.evaluation.base import InferenceModel
from attnsearch.evaluation.explain import open_images
from attnsearch.figures.explanation import ImageToDraw
from attnsearch.metrics.part_codes import contrast_pairs, undefined_by_codes, with_dependents
from attnsearch.metrics.part_interventions import PartOutcomes, PartSums
from attnsearch.metrics.removal import upscale_cells
from attnsearch.types import Batch

MapsOf = Callable[[Tensor], Tensor]
"""Classes (B,) -> the maps (B, h, w) of the images of a batch that explain them."""
DILATION = 2 / 256
"""Fraction of the image's side by which masks of parts are widened: FunnyBirds pools 5 x 5 pixels of 256."""
CLASS_FREE = "class-free: the map is the same for every class"
MAX_GAP = 0.2
"""Mean difference, in standard deviations of ImageNet, up to which a file can hold the image that is drawn again."""


@dataclass(frozen=True, eq=False)
class PartInterventions:
    """The interventions on the images of one synthetic data set, under one model.

    They reach the model through the same resizing, crop and normalisation as the images of the data set.
    """

    inference: InferenceModel
    drawings: PartDrawings
    settings: ScoreSettings

    @classmethod
    def of(cls, inference: InferenceModel, settings: ScoreSettings) -> Self | None:
        """On the images of the run's data set, or None where these cannot be drawn again."""
        drawings = PartDrawings.of(inference.config.data)
        return None if drawings is None else cls(inference, drawings, settings)

    @cached_property
    def codes(self) -> NDArray[np.int64]:
        """(n_classes, P) variant of each part in each class."""
        return np.array(self.drawings.codes, dtype=np.int64)

    def outcomes(self, batch: Batch, maps: Tensor, maps_of: MapsOf) -> PartOutcomes:
        """What the model makes of the interventions on the images (B) of a batch, and what maps say of their parts.

        Args:
            maps: (B, h, w) of the predicted classes.
            maps_of: maps of other classes, of the same size.
        Raises:
            DataError: the data set has no such images, or other ones under these names.
        """
        drawn = self.drawings.draw(batch.image_ids, n_threads=torch.get_num_threads())
        copies = _Copies.open(drawn, self.inference)
        copies.check_complete(batch)
        of_copies = self._logits(copies).split_with_sizes([len(image.copies) for image in drawn])  # B of (n, n_classes)
        subsets, labels = torch.stack([logits[:N_SUBSETS] for logits in of_copies]), batch.labels.cpu()
        masks = copies.masks()  # (B, P + Q, H, W)

        def sums_of(maps: Tensor) -> PartSums:
            return _sums(maps, masks, [image.n_clutter for image in drawn])

        pairs = torch.from_numpy(contrast_pairs(self.codes, self.settings.parts_protocol).classes)[labels].clamp(min=0)
        is_right = (subsets[:, -1].argmax(dim=1) == labels).to(maps.device)
        return PartOutcomes(
            codes=self.codes,
            labels=labels,
            subsets=subsets,
            swaps=_of_swaps(drawn, of_copies),
            clutter=_of_clutter(drawn, of_copies),
            of_label=sums_of(torch.where(is_right[:, None, None], maps, maps_of(labels))),
            of_predicted=sums_of(maps),
            of_pair=(sums_of(maps_of(pairs[:, 0])), sums_of(maps_of(pairs[:, 1]))),
            protocol=self.settings.parts_protocol,
        )

    def undefined_reasons(self, batch: Batch) -> dict[str, str]:
        """Metric -> why no image can have it: because of the codes of the classes, or as the maps are class-free.

        Args:
            batch: some images, whose maps of two classes are compared.
        """
        reasons = undefined_by_codes(self.codes)
        if "target_sensitivity" not in reasons and is_class_free(self.inference, batch):
            reasons["target_sensitivity"] = CLASS_FREE
        return with_dependents(reasons)

    @torch.no_grad()
    def _logits(self, copies: _Copies) -> Tensor:
        """(M, n_classes) float64 of all copies."""
        model, size = self.inference.model, self.settings.batch_images
        arithmetic = replace(self.inference.arithmetic, precision=self.settings.precision)
        logits = []
        for start in range(0, copies.n_copies, size):
            batch = copies.loader.batch(np.arange(start, min(start + size, copies.n_copies)))
            with arithmetic.autocast():
                output = self.inference.task.predict(model, arithmetic.place_images(batch))
            logits.append(output.logits.float().cpu().double())
        return torch.cat(logits)


def is_class_free(inference: InferenceModel, batch: Batch) -> bool:
    """Whether a model has one map of an image, whatever class it explains."""
    output, labels = inference.output(batch), torch.zeros_like(batch.labels)
    first, second = (inference.model.saliency(output, labels.to(inference.device) + number) for number in (0, 1))
    return torch.equal(first, second)


@dataclass(frozen=True, eq=False)
class _Copies:
    """All copies of some images as one split, one image after the other; its first rows carry the masks."""

    drawn: Sequence[DrawnImage]
    loader: BatchLoader

    @classmethod
    def open(cls, drawn: Sequence[DrawnImage], inference: InferenceModel) -> _Copies:
        copies = [ImageToDraw("", copy) for image in drawn for copy in image.copies]
        copies = [replace(copy, image_id=str(number)) for number, copy in enumerate(copies)]
        masks: list[Any] = [mask for image in drawn for mask in image.masks]
        masks += [Image.new("L", (1, 1))] * (len(copies) - len(masks))  # of rows whose masks nobody reads
        data = inference.config.data
        source = open_images(copies, data, inference.class_names, masks=masks).under(data)
        return cls(drawn, BatchLoader(source, "val", batch_size=1, device=inference.device))

    @property
    def n_copies(self) -> int:
        """M, of all images."""
        return len(self.loader.table)

    def masks(self) -> Tensor:
        """(B, P + Q, H, W) bool, widened by `DILATION`: of each part and object, empty beyond an image's last one."""
        counts = [len(image.masks) for image in self.drawn]
        shown = self.loader.batch(np.arange(sum(counts)), with_masks=True).part_masks
        assert shown is not None
        radius = round(DILATION * min(shown.shape[1:]))
        wide = F.max_pool2d(shown[:, None].float(), 2 * radius + 1, stride=1, padding=radius)[:, 0] > 0
        return torch.nn.utils.rnn.pad_sequence(list(wide.split_with_sizes(counts)), batch_first=True)

    def check_complete(self, batch: Batch) -> None:
        """Compares the complete images, drawn again, with those of the files.

        Raises:
            DataError: they differ by more than compression.
        """
        starts = np.cumsum([0, *(len(image.copies) for image in self.drawn)])[:-1]
        complete = self.loader.batch(starts + N_SUBSETS - 1).images
        gaps = (complete - batch.images).abs().mean(dim=(1, 2, 3))  # (B,)
        if gaps.max() > MAX_GAP:
            raise DataError(
                f"{batch.image_ids[int(gaps.argmax())]} holds another image than the settings of the data draw (mean "
                f"difference {float(gaps.max()):.2f}); clear the cache with `attnsearch data clear`, or use the data "
                "that the trial was trained on"
            )


def _sums(maps: Tensor, masks: Tensor, n_clutter: Sequence[int]) -> PartSums:
    """Sums of maps (B, h, w) over masks (B, P + Q, H, W), of which an image has so many objects (B)."""
    pixels = upscale_cells(maps.double(), (masks.shape[2], masks.shape[3]))  # (B, H, W)
    sums = torch.einsum("bhw,bkhw->bk", pixels, masks.double()).cpu()
    is_missing = torch.arange(sums.shape[1] - len(PARTS)) >= torch.tensor(n_clutter)[:, None]  # (B, Q)
    clutter = sums[:, len(PARTS) :].masked_fill(is_missing, torch.nan)
    on_parts = (pixels * masks[:, : len(PARTS)].any(dim=1)).sum(dim=(1, 2))
    return PartSums(sums[:, : len(PARTS)], clutter, on_parts.cpu(), pixels.sum(dim=(1, 2)).cpu())


def _of_swaps(drawn: Sequence[DrawnImage], logits: Sequence[Tensor]) -> Tensor:
    """(B, P, V, n_classes), NaN for variants not tried, of the logits (n, n_classes) of each image's copies."""
    swaps = logits[0].new_full((len(drawn), len(PARTS), N_VARIANTS, logits[0].shape[1]), torch.nan)
    for row, image in enumerate(drawn):
        for number, (part, variant) in enumerate(image.swaps):
            swaps[row, part, variant] = logits[row][N_SUBSETS + number]
    return swaps


def _of_clutter(drawn: Sequence[DrawnImage], logits: Sequence[Tensor]) -> Tensor:
    """(B, Q, n_classes), NaN beyond an image's last object, of the logits (n, n_classes) of its copies."""
    of_images = [one[len(one) - image.n_clutter :] for one, image in zip(logits, drawn, strict=True)]
    return torch.nn.utils.rnn.pad_sequence(of_images, batch_first=True, padding_value=torch.nan)
