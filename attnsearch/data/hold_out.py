"""Which training images are held out for validation: a fraction of each class, near-duplicates on one side."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from attnsearch.data.listing import ListedImage
from attnsearch.errors import DataError
from attnsearch.types import Split


def hash_text(text: str) -> str:
    """SHA-256 in hexadecimal; bytes that are no text count as they are."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


@dataclass(frozen=True)
class HoldOut:
    """How a part of train is chosen.

    Attributes:
        fraction: of each class, or of all identities.
        near: image id -> a number that is equal for images that show nearly the same, which are never parted; an image
            that is not named equals no other.
    """

    fraction: float
    seed: int
    near: Mapping[str, int] = field(default_factory=dict)

    def rank(self, name: str) -> str:
        """What names are ordered by: the same on every machine, and independent of other names."""
        return hash_text(f"{self.seed}\n{name}")

    def group_of(self, image: ListedImage) -> int | str:
        """What an image has in common with its near-duplicates."""
        return self.near.get(image.image_id, image.image_id)


def hold_out_images(images: Sequence[ListedImage], settings: HoldOut, *, to: Split = "val") -> tuple[ListedImage, ...]:
    """Moves a fraction of each class from train to another split, at least one image and never all.

    Without near-duplicates the images of the lowest hashes of seed and id go. A group of near-duplicates goes as a
    whole, or stays where a class would lose more than its fraction.

    Raises:
        DataError: a class has too few images, or none that is no near-duplicate of all others.
    """
    train = [image for image in images if image.split == "train"]
    sizes = _checked_sizes(train)
    limits = {name: min(max(1, round(n * settings.fraction)), n - 1) for name, n in sizes.items()}
    groups = _groups(train, settings)
    held = _Held()
    for of_class in groups.values():
        for group in of_class:
            held.add_within(group, limits)
    for name, of_class in groups.items():
        if not held.counts[name]:
            held.add_smallest(of_class, sizes, name)
    return tuple(replace(image, split=to) if image.image_id in held.ids else image for image in images)


Group = tuple[ListedImage, ...]


@dataclass(frozen=True)
class _Held:
    """The images that go, by id, and how many of each class."""

    ids: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)

    def add_within(self, group: Group, limits: Mapping[str, int]) -> bool:
        """Adds a group unless a class would then have more than its limit; whether it is held."""
        if group[0].image_id in self.ids:
            return True
        more = Counter(image.class_name for image in group)
        if any(self.counts[name] + n > limits[name] for name, n in more.items()):
            return False
        self.ids.update(image.image_id for image in group)
        self.counts.update(more)
        return True

    def add_smallest(self, groups: Iterable[Group], sizes: Mapping[str, int], name: str) -> None:
        """Adds the smallest group that leaves images of every class."""
        limits = {other: n - 1 for other, n in sizes.items()}
        if not any(self.add_within(group, limits) for group in sorted(groups, key=len)):
            raise DataError(
                f"the {sizes[name]} training images of class {name} show nearly the same, so that none can be held out "
                "without a copy in train; add other images, or a val folder of your own"
            )


def _checked_sizes(train: Sequence[ListedImage]) -> dict[str, int]:
    """Class -> images."""
    sizes = Counter(image.class_name for image in train)
    for image in train:
        if sizes[image.class_name] == 1:
            raise DataError(
                f"class {image.class_name} has 1 training image ({image.image_id}), too few to hold out "
                "images for other splits; add images, or folders of all splits"
            )
    return sizes


def _groups(train: Iterable[ListedImage], settings: HoldOut) -> dict[str, list[Group]]:
    """Class -> the groups that hold images of it, by the lowest hash of those."""
    members: dict[int | str, list[ListedImage]] = defaultdict(list)
    ranked = sorted(train, key=lambda image: settings.rank(image.image_id))
    for image in ranked:
        members[settings.group_of(image)].append(image)
    groups = {key: tuple(group) for key, group in members.items()}
    keys: dict[str, dict[int | str, None]] = defaultdict(dict)
    for image in ranked:
        keys[image.class_name][settings.group_of(image)] = None
    return {name: [groups[key] for key in keys[name]] for name in sorted(keys)}
