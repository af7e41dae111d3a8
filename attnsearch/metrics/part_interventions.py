"""Explanations against the true importance of parts: what a model makes of images whose parts are removed or exchanged.

B images, P parts, V variants of a part, Q background objects at most. f_y(x) is the score of class y: the logit minus
the mean over the classes, which a shift of all logits does not change, or the logit itself under the protocol
`funnybirds`. All functions return one value per image, NaN where it is undefined.

Source: Hesse et al. 2023 (arXiv 2308.06248); visinf/funnybirds-framework evaluation_protocols.py. Differences: classes
    have four parts; swaps, which keep the image complete, are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnsearch.metrics.gains import ratio_influence
from attnsearch.metrics.part_codes import PartsProtocol, contrast_pairs, is_trivial, minimal_sufficient_sets
from attnsearch.metrics.statistics import linear_influence, rank_correlation

THRESHOLDS = tuple(round(float(fraction), 6) for fraction in np.linspace(0.01, 0.5, 80))
"""Fractions of the map's sum above which a part counts as important."""
LEAST_EFFECT = 0.05
"""Fraction of the class score that an object must lower it by to count as relevant."""


@dataclass(frozen=True, eq=False)
class PartSums:
    """Sums of maps over parts and background objects, float64.

    Attributes:
        parts: (B, P) over each part; parts may overlap.
        clutter: (B, Q) over each background object; NaN beyond the last.
        on_parts: (B,) over all parts together.
        total: (B,) over the whole image.
    """

    parts: Tensor
    clutter: Tensor
    on_parts: Tensor
    total: Tensor


@dataclass(frozen=True, eq=False)
class PartOutcomes:
    """What a model makes of images under interventions, and what its maps say of their parts; float64, on the CPU.

    Attributes:
        codes: (n_classes, P) variant of each part in each class.
        labels: (B,) int64.
        subsets: (B, 2^P, n_classes) logits of the image with the parts of a set alone, whose bit p is part p.
        swaps: (B, P, V, n_classes) logits with another variant of one part; NaN for variants that were not tried.
        clutter: (B, Q, n_classes) logits without one background object; NaN beyond the last.
        of_label, of_predicted: sums of the map of the true and of the predicted class.
        of_pair: sums of the maps of the two classes of `contrast_pairs`.
    """

    codes: NDArray[np.int64]
    labels: Tensor
    subsets: Tensor
    swaps: Tensor
    clutter: Tensor
    of_label: PartSums
    of_predicted: PartSums
    of_pair: tuple[PartSums, PartSums]
    protocol: PartsProtocol = "standard"

    @property
    def predictions(self) -> Tensor:
        """(B,) of the complete images; the first of equals."""
        return self.subsets[:, -1].argmax(dim=1)

    @property
    def n_parts(self) -> int:
        """P."""
        return int(self.codes.shape[1])

    def scores(self, logits: Tensor) -> Tensor:
        """f (B, ..., n_classes) of logits."""
        return logits if self.protocol == "funnybirds" else logits - logits.mean(dim=-1, keepdim=True)

    def of_class(self, logits: Tensor, classes: Tensor) -> Tensor:
        """f (B, ...) of one class of each image, of logits (B, ..., n_classes)."""
        index = classes.view(-1, *[1] * (logits.ndim - 1)).expand(*logits.shape[:-1], 1)
        return self.scores(logits).gather(-1, index)[..., 0]

    @cached_property
    def whole(self) -> Tensor:
        """(B, 1) f of the true class of the complete images."""
        return self.of_class(self.subsets[:, -1:], self.labels)

    @cached_property
    def part_drops(self) -> Tensor:
        """(B, P) by how much f of the true class falls without each part."""
        masks = torch.tensor([2**self.n_parts - 1 - 2**part for part in range(self.n_parts)])
        return self.whole - self.of_class(self.subsets[:, masks], self.labels)

    @cached_property
    def clutter_drops(self) -> Tensor:
        """(B, Q) by how much it falls without each background object."""
        return self.whole - self.of_class(self.clutter, self.labels)


def single_deletion(outcomes: PartOutcomes) -> Tensor:
    """SD, (B,): how well the sums over parts rank them as their removal does; 1 alike, 0 reversed."""
    return _rank_agreement(outcomes.part_drops, outcomes.of_label.parts)


def swap_importances(outcomes: PartOutcomes) -> Tensor:
    """(B, P) mean fall of the true class's score over the variants that each part takes; NaN for one without others."""
    return (outcomes.whole[..., None] - outcomes.of_class(outcomes.swaps, outcomes.labels)).nanmean(dim=2)


def swap_agreement(outcomes: PartOutcomes) -> Tensor:
    """SD_swap, (B,): `single_deletion` with the importance that swaps show, of the parts in which classes differ."""
    importances = swap_importances(outcomes)
    varied = torch.from_numpy((outcomes.codes != outcomes.codes[:1]).any(axis=0))
    return _rank_agreement(importances[:, varied], outcomes.of_label.parts[:, varied])


def _rank_agreement(importances: Tensor, sums: Tensor) -> Tensor:
    """(B,) Spearman's correlation of two (B, P), scaled to [0, 1]; NaN where either has one value alone."""
    correlation = rank_correlation(importances.numpy(), sums.numpy())
    return 0.5 + 0.5 * torch.from_numpy(correlation)


def flip_rate(outcomes: PartOutcomes) -> Tensor:
    """(B,) over the variants that the map's top part takes, how often the decision moves to a class that has it.

    NaN where two parts are at the top, or the part has no other variant.
    """
    sums = outcomes.of_predicted.parts
    top = sums.argmax(dim=1)  # (B,)
    is_tied = (sums == sums.amax(dim=1, keepdim=True)).sum(dim=1) > 1
    logits = outcomes.swaps[torch.arange(len(top)), top]  # (B, V, n_classes)
    is_tried = ~logits.isnan().any(dim=2)
    decisions = logits.argmax(dim=2)  # (B, V)
    variants = torch.from_numpy(outcomes.codes)[decisions, top[:, None]]  # (B, V)
    has_variant = variants == torch.arange(logits.shape[1])
    flips = (has_variant & (decisions != outcomes.predictions[:, None])).double()
    rates = torch.where(is_tried, flips, torch.nan).nanmean(dim=1)
    return torch.where(is_tied, torch.nan, rates)


def important_parts(sums: PartSums) -> Tensor:
    """(B, T, P + Q) bool: parts and background objects whose sum is more than each threshold's fraction of all."""
    of_objects = torch.cat([sums.parts, sums.clutter], dim=1)
    thresholds = torch.tensor(THRESHOLDS, dtype=torch.float64)
    return of_objects[:, None] > (sums.total[:, None] * thresholds)[..., None]


def controlled_check(outcomes: PartOutcomes) -> Tensor:
    """CSDC, (B, T): of the minimal sufficient set that the important parts hold most of, which fraction they hold.

    NaN for wrong answers, and where every part alone is sufficient.
    """
    important = important_parts(outcomes.of_label)[..., : outcomes.n_parts].double()  # (B, T, P)
    sets = minimal_sufficient_sets(outcomes.codes)
    if is_trivial(sets):
        return important.new_full(important.shape[:2], torch.nan)
    values = []
    for held, label in zip(important, outcomes.labels.tolist(), strict=True):
        members = _members(sets[label], outcomes.n_parts)  # (n_sets, P)
        values.append((held @ members.T / members.sum(dim=1)).amax(dim=1))
    is_right = outcomes.predictions == outcomes.labels
    return torch.where(is_right[:, None], torch.stack(values), torch.nan)


def _members(masks: list[int], n_parts: int) -> Tensor:
    """(n, P) float64, 1 where a set holds a part."""
    return torch.tensor([[mask >> part & 1 for part in range(n_parts)] for mask in masks], dtype=torch.float64)


def preservation_check(outcomes: PartOutcomes) -> Tensor:
    """PC, (B, T): 1 where the decision stays when only the important parts are left."""
    return (_decisions(outcomes, is_kept=True) == outcomes.predictions[:, None]).double()


def deletion_check(outcomes: PartOutcomes) -> Tensor:
    """DC, (B, T): 1 where the decision changes when the important parts are removed."""
    return (_decisions(outcomes, is_kept=False) != outcomes.predictions[:, None]).double()


def _decisions(outcomes: PartOutcomes, *, is_kept: bool) -> Tensor:
    """(B, T) the class that is predicted of the important parts alone, or of the others."""
    important = important_parts(outcomes.of_predicted)[..., : outcomes.n_parts]
    bits = 2 ** torch.arange(outcomes.n_parts)
    masks = ((important == is_kept).long() * bits).sum(dim=2)
    return outcomes.subsets.argmax(dim=2).gather(1, masks)


def distractibility(outcomes: PartOutcomes) -> Tensor:
    """D, (B, T): 1 minus the fraction of irrelevant parts and background objects that the map holds important."""
    drops = torch.cat([outcomes.part_drops, outcomes.clutter_drops], dim=1)  # (B, P + Q)
    is_irrelevant = (drops.abs() < LEAST_EFFECT * outcomes.whole.abs()) | (drops < 0)
    held = important_parts(outcomes.of_label) & is_irrelevant[:, None]
    n_irrelevant = is_irrelevant.sum(dim=1, keepdim=True)
    return torch.where(n_irrelevant > 0, 1 - held.sum(dim=2) / n_irrelevant.double(), torch.nan)


def background_counts(outcomes: PartOutcomes) -> dict[str, Tensor]:
    """(B,) how many background objects lower the class score by a twentieth or more, and how many there are."""
    drops = outcomes.clutter_drops
    is_relevant = (drops >= LEAST_EFFECT * outcomes.whole.abs()) & (drops > 0)
    n_objects = (~drops.isnan()).sum(dim=1)
    return {"relevant": is_relevant.sum(dim=1).double(), "objects": n_objects.double()}


def target_sensitivity(outcomes: PartOutcomes) -> Tensor:
    """TS, (B,): how many of two other classes have more of their own map than of the other's on what they share.

    NaN for class-free maps, where no two classes share different parts with the image's class, and where the model does
    not use the parts that they share.
    """
    pairs = contrast_pairs(outcomes.codes, outcomes.protocol)
    classes, masks = (torch.from_numpy(column)[outcomes.labels] for column in (pairs.classes, pairs.masks))  # (B, 2)
    has_pair = classes[:, 0] >= 0
    rows, all_parts = torch.arange(len(classes)), 2**outcomes.n_parts - 1
    is_used, hits = has_pair, torch.zeros(len(classes), dtype=torch.float64)
    for own, other in ((0, 1), (1, 0)):
        without = (
            outcomes.of_class(outcomes.subsets[rows, all_parts - masks[:, side]], classes[:, own].clamp(min=0))
            for side in (own, other)
        )
        is_used = is_used & torch.lt(*without)
        on_shared = (_on(outcomes.of_pair[side], masks[:, own]) for side in (own, other))
        hits += torch.gt(*on_shared).double() / 2
    is_free = (outcomes.of_pair[0].parts == outcomes.of_pair[1].parts).all(dim=1)
    return torch.where(is_used & ~is_free, hits, torch.nan)


def _on(sums: PartSums, masks: Tensor) -> Tensor:
    """(B,) sums over the parts of a set (B,)."""
    bits = masks[:, None] >> torch.arange(sums.parts.shape[1]) & 1
    return (sums.parts * bits).sum(dim=1)


def saliency_on_parts(outcomes: PartOutcomes) -> Tensor:
    """(B,) the fraction of the map that lies on parts."""
    sums = outcomes.of_predicted
    return torch.where(sums.total > 0, sums.on_parts / sums.total, torch.nan)


def completeness(columns: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Com: ((CSDC + PC + DC) / 3 + D) / 2 of the means of columns (N,), as values (N,) with that mean."""
    return linear_influence([(weight, columns[name]) for name, weight in COMPLETENESS.items()])


def explainability(columns: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """The mean of completeness, SD and TS, as values (N,) with that mean."""
    terms = [(weight / 3, columns[name]) for name, weight in COMPLETENESS.items()]
    return linear_influence([*terms, (1 / 3, columns["sd"]), (1 / 3, columns["target_sensitivity"])])


def background_independence(columns: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """BI: 1 minus the fraction of all background objects that are relevant, as values (N,) with that mean."""
    return 1 - ratio_influence(columns["relevant"], columns["objects"])


COMPLETENESS = {"csdc": 1 / 6, "preservation_check": 1 / 6, "deletion_check": 1 / 6, "distractibility": 1 / 2}
"""Column -> its weight in the completeness, for which one threshold is chosen."""
