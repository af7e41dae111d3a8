"""How many identities, images and cameras a data set of re-identification has."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

from attnsearch.data.listing import ListedImage
from attnsearch.types import MatchRule

Part = Literal["train", "val", "query", "gallery"]
PARTS: tuple[Part, ...] = ("train", "val", "query", "gallery")
DISTRACTORS = "0000"
"""Identity of gallery images that match no query."""
Spread = tuple[int, float, int]
"""Smallest, median and largest."""


@dataclass(frozen=True)
class PartNumbers:
    """Numbers of one part of a data set; in the gallery, those of identities leave out distractors, but `n_identities`.

    Attributes:
        per_identity: images of an identity.
        n_sources: number of cameras, or of groups where only those are known, or None.
        per_identity_and_source: images of an identity from one of its cameras or groups, or None.
        n_from_one_source: identities of one camera or group alone, or None.
    """

    n_identities: int
    n_images: int
    per_identity: Spread
    n_with_one_image: int
    n_sources: int | None = None
    per_identity_and_source: Spread | None = None
    n_from_one_source: int | None = None

    def known(self) -> tuple[int | Spread, ...]:
        """All in this order, without those of sources where these are not known."""
        numbers = (self.n_identities, self.n_images, self.per_identity, self.n_with_one_image)
        of_sources = (self.n_sources, self.per_identity_and_source, self.n_from_one_source)
        return (*numbers, *(value for value in of_sources if value is not None))


def part_of(image: ListedImage) -> Part:
    """The part that an image belongs to; the queries of a validation split are in `val`."""
    if image.split == "test":
        return "query" if image.is_query else "gallery"
    return image.split


def part_numbers(images: Iterable[ListedImage], rule: MatchRule) -> dict[Part, PartNumbers]:
    """The numbers of each part that has images, in the order of `PARTS`."""
    members: dict[Part, list[ListedImage]] = defaultdict(list)
    for image in images:
        members[part_of(image)].append(image)
    distractors = {DISTRACTORS} - {image.class_name for image in members["query"]}
    left_out: dict[Part, set[str]] = {"gallery": distractors}
    return {part: _numbers(members[part], rule, left_out.get(part, set())) for part in PARTS if members[part]}


def _numbers(images: Sequence[ListedImage], rule: MatchRule, left_out: set[str]) -> PartNumbers:
    of_identity = Counter(image.class_name for image in images)
    counted = {name: count for name, count in of_identity.items() if name not in left_out} or of_identity
    n_with_one_image = sum(count == 1 for count in counted.values())
    numbers = PartNumbers(len(of_identity), len(images), _spread(counted.values()), n_with_one_image)
    if rule == "open":
        return numbers
    of_source = Counter((image.class_name, image.removal_key(rule)) for image in images if image.class_name in counted)
    sources = Counter(name for name, _ in of_source)
    return replace(
        numbers,
        n_sources=len({image.removal_key(rule) for image in images}),
        per_identity_and_source=_spread(of_source.values()),
        n_from_one_source=sum(count == 1 for count in sources.values()),
    )


def _spread(counts: Iterable[int]) -> Spread:
    in_order = sorted(counts)
    return in_order[0], float(median(in_order)), in_order[-1]
