"""What the codes of classes, one variant for each of P parts, say about parts before any model is measured.

Sets of parts are bit masks: bit p stands for part p. Codes are (n_classes, P) int64 arrays of variants.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

PartsProtocol = Literal["standard", "funnybirds"]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def shared_parts(codes: ArrayLike) -> Ints:
    """(n_classes, n_classes) masks of the parts whose variant two classes share."""
    variants = np.asarray(codes, dtype=np.int64)
    is_shared = variants[:, None] == variants[None]  # (n_classes, n_classes, P)
    masks: Ints = (is_shared << np.arange(variants.shape[1])).sum(axis=2)
    return masks


def minimal_sufficient_sets(codes: ArrayLike) -> list[list[int]]:
    """For each class the smallest sets of parts by inclusion whose variants no other class shares, in rising order.

    Source: Hesse et al. 2023 (arXiv 2308.06248), controlled synthetic data check.
    """
    n_parts = np.asarray(codes).shape[1]
    is_sufficient = _is_sufficient(shared_parts(codes), n_parts)  # (n_classes, 2^P)
    sets = []
    for of_class in is_sufficient:
        found: list[int] = []
        for mask in sorted(range(2**n_parts), key=int.bit_count):
            if of_class[mask] and not any(smaller & mask == smaller for smaller in found):
                found.append(mask)
        sets.append(sorted(found))
    return sets


def _is_sufficient(shared: Ints, n_parts: int) -> Bools:
    """(n_classes, 2^P) whether no other class shares all parts of a set."""
    masks = np.arange(2**n_parts)
    shares_all = (shared[:, :, None] & masks) == masks  # (n_classes, n_classes, 2^P)
    shares_all[np.arange(len(shared)), np.arange(len(shared))] = False
    is_sufficient: Bools = ~shares_all.any(axis=1)
    return is_sufficient


@dataclass(frozen=True, eq=False)
class ContrastPairs:
    """For each class two others that have different parts in common with it.

    Attributes:
        classes: (n_classes, 2) the two classes; -1 where there are none.
        masks: (n_classes, 2) the parts that each of them shares with the class.
        n_shared: parts that each shares; 0 where no class has such a pair.
    """

    classes: Ints
    masks: Ints
    n_shared: int

    @property
    def n_classes(self) -> int:
        """How many classes have a pair."""
        return int((self.classes[:, 0] >= 0).sum())


def contrast_pairs(codes: ArrayLike, protocol: PartsProtocol = "standard") -> ContrastPairs:
    """The first two classes, for each class, with as many parts in common with it, and none with each other there.

    They share as many parts as the codes allow.

    Args:
        protocol: `funnybirds` takes, where all pairs overlap, the last one.
    Source: Hesse et al. 2023 (arXiv 2308.06248), target sensitivity; visinf/funnybirds-framework
        evaluation_protocols.py, whose classes have five parts and share two.
    """
    shared = shared_parts(codes)
    n_parts = np.asarray(codes).shape[1]
    sizes = range(n_parts // 2, 0, -1)
    may_overlap = protocol == "funnybirds"
    found = _first_pairs(shared, sizes, is_overlap_allowed=False)
    if may_overlap:
        larger = sizes if found is None else [found.n_shared]
        found = _first_pairs(shared, larger, is_overlap_allowed=True)
    if found is None:
        return ContrastPairs(np.full((len(shared), 2), -1), np.zeros((len(shared), 2), dtype=np.int64), 0)
    return found


def _first_pairs(shared: Ints, sizes: Iterable[int], *, is_overlap_allowed: bool) -> ContrastPairs | None:
    """Those of the first size at which a class has a pair."""
    found = (_pairs_of_size(shared, size, is_overlap_allowed=is_overlap_allowed) for size in sizes)
    return next((pairs for pairs in found if pairs.n_classes), None)


def _pairs_of_size(shared: Ints, size: int, *, is_overlap_allowed: bool) -> ContrastPairs:
    n_shared = np.bitwise_count(shared)
    classes = np.full((len(shared), 2), -1)
    for label, row in enumerate(shared):
        others = np.flatnonzero((n_shared[label] == size) & (np.arange(len(shared)) != label))
        is_disjoint = np.triu((row[others][:, None] & row[others][None]) == 0, k=1)  # (n, n)
        if is_disjoint.any():
            classes[label] = others[list(np.unravel_index(is_disjoint.argmax(), is_disjoint.shape))]
        elif is_overlap_allowed and len(others) > 1:
            classes[label] = others[-2:]
    masks = np.where(classes >= 0, np.take_along_axis(shared, classes.clip(min=0), axis=1), 0)
    return ContrastPairs(classes, masks, size)


def is_trivial(sets: Sequence[Sequence[int]]) -> bool:
    """Whether every part alone tells the class, so that its `minimal_sufficient_sets` tell nothing of a map."""
    return max(mask.bit_count() for masks in sets for mask in masks) == 1


def undefined_by_codes(codes: Sequence[Sequence[int]] | NDArray[Any]) -> dict[str, str]:
    """Metric -> why it means nothing under these codes, whatever the model."""
    reasons = {}
    if is_trivial(minimal_sufficient_sets(codes)):
        reasons["csdc"] = "trivial: every part alone tells the class"
    if not contrast_pairs(codes).n_classes:
        reasons["target_sensitivity"] = "no pairs: no class shares different parts with two others"
    return with_dependents(reasons)


_MADE_OF = {"completeness": ("csdc",), "explainability": ("csdc", "target_sensitivity")}


def with_dependents(reasons: Mapping[str, str]) -> dict[str, str]:
    """The same with the numbers that are made of undefined ones."""
    made = {name: reasons[part] for name, parts in _MADE_OF.items() for part in reversed(parts) if part in reasons}
    return {**reasons, **made}
