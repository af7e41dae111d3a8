"""Which images are held out: a fraction of each class, and near-duplicates on one side."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from attnsearch.data.hold_out import HoldOut, hash_text, hold_out_images
from attnsearch.data.listing import ListedImage
from attnsearch.errors import DataError


def images_of(counts: dict[str, int]) -> list[ListedImage]:
    return [
        ListedImage("train", name, f"{name}/{index}.jpg", Path(f"{name}/{index}.jpg"))
        for name, n_images in counts.items()
        for index in range(n_images)
    ]


def held_by(images: list[ListedImage], settings: HoldOut) -> set[str]:
    return {image.image_id for image in hold_out_images(images, settings) if image.split == "val"}


def test_without_near_duplicates_the_lowest_hashes_of_each_class_go() -> None:
    images = images_of({"a": 10, "b": 3, "c": 2})
    expected: set[str] = set()
    for name, n_held in (("a", 2), ("b", 1), ("c", 1)):
        members = [image.image_id for image in images if image.class_name == name]
        expected |= set(sorted(members, key=lambda image_id: hash_text(f"4\n{image_id}"))[:n_held])
    assert held_by(images, HoldOut(0.2, 4)) == expected
    assert held_by(images[::-1], HoldOut(0.2, 4)) == expected


@pytest.mark.parametrize("seed", range(20))
def test_groups_are_never_parted_and_every_class_is_in_both_splits(seed: int) -> None:
    images = images_of({"a": 30, "b": 20, "c": 6})
    numbers = np.random.default_rng(seed).integers(0, 30, len(images)).tolist()
    near = {image.image_id: number for image, number in zip(images, numbers, strict=True)}
    held = held_by(images, HoldOut(0.3, seed, near))
    of_group = {number: {name in held for name in near if near[name] == number} for number in numbers}
    assert all(len(sides) == 1 for sides in of_group.values())
    n_held = Counter(name.split("/")[0] for name in held)
    assert all(1 <= n_held[name] < n for name, n in (("a", 30), ("b", 20), ("c", 6)))
    assert n_held["a"] <= 9 + 3  # with one of another class that could not go alone


def test_a_group_that_is_larger_than_the_fraction_goes_where_nothing_else_can() -> None:
    images = images_of({"a": 4, "b": 4})
    near = {"a/0.jpg": 0, "a/1.jpg": 0, "a/2.jpg": 1, "a/3.jpg": 1}
    held = held_by(images, HoldOut(0.25, 1, near))
    assert {name for name in held if name.startswith("a")} in ({"a/0.jpg", "a/1.jpg"}, {"a/2.jpg", "a/3.jpg"})


def test_a_group_over_two_classes_is_on_one_side() -> None:
    images = images_of({"a": 6, "b": 6})
    near = {"a/0.jpg": 0, "b/0.jpg": 0}
    sides = {frozenset(near.keys() & held_by(images, HoldOut(0.4, seed, near))) for seed in range(20)}
    assert sides == {frozenset(), frozenset(near)}


def test_a_class_of_one_group_is_named() -> None:
    near = dict.fromkeys(("a/0.jpg", "a/1.jpg", "a/2.jpg"), 7)
    with pytest.raises(DataError, match="the 3 training images of class a show nearly the same"):
        hold_out_images(images_of({"a": 3, "b": 3}), HoldOut(0.3, 1, near))
