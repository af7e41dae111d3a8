"""Identities that are held out, and the queries that are chosen among images."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import pytest

from attnsearch.data.hold_out import HoldOut
from attnsearch.data.identities import by_identity, can_match, choose_queries, hold_out_identities
from attnsearch.data.listing import ListedImage
from attnsearch.errors import DataError
from attnsearch.types import Split


def images_of(
    identities: Iterable[str], cameras: Iterable[str] = ("1", "2"), *, n_images: int = 2, split: Split = "train"
) -> list[ListedImage]:
    """Some images of each identity from each camera."""
    return [
        ListedImage(split, who, f"{who}/{camera}_{index}.jpg", Path(f"{who}/{camera}_{index}.jpg"), camera=camera)
        for who, camera, index in itertools.product(identities, cameras, range(n_images))
    ]


def names(images: Iterable[ListedImage], split: Split) -> set[str]:
    return {image.class_name for image in images if image.split == split}


TEN = [f"p{number}" for number in range(10)]


@pytest.mark.parametrize(("fraction", "n_held"), [(0.01, 2), (0.3, 3), (0.5, 5), (0.99, 8)])
def test_whole_identities_are_held_out_at_least_two_and_two_are_left(fraction: float, n_held: int) -> None:
    images = hold_out_identities(images_of(TEN), "camera", HoldOut(fraction, 1))
    assert len(names(images, "val")) == n_held
    assert not names(images, "val") & names(images, "train")
    assert [image.image_id for image in images] == [image.image_id for image in images_of(TEN)]


def test_they_can_be_held_out_for_test() -> None:
    images = hold_out_identities(images_of(TEN), "camera", HoldOut(0.2, 1), to="test")
    assert (len(names(images, "test")), names(images, "val")) == (2, set())


def test_the_choice_depends_on_seed_and_names_alone() -> None:
    def held(order: list[str], seed: int) -> frozenset[str]:
        return frozenset(names(hold_out_identities(images_of(order), "camera", HoldOut(0.2, seed)), "val"))

    assert held(TEN, 1) == held(TEN[::-1], 1)
    assert len({held(TEN, seed) for seed in range(10)}) > 1


def test_identities_of_one_camera_stay_in_train() -> None:
    images = [*images_of(TEN[:3], "1"), *images_of(TEN[3:])]
    for seed in range(5):
        assert not names(hold_out_identities(images, "camera", HoldOut(0.5, seed)), "val") & set(TEN[:3])
    with pytest.raises(DataError, match=r"10 identities, of which 7 have a match from another camera; 8 of them must"):
        hold_out_identities(images, "camera", HoldOut(0.8, 1))


def test_a_match_differs_in_what_the_rule_names() -> None:
    (first,) = images_of("a", "1", n_images=1)
    (second,) = images_of("a", "2", n_images=1)
    assert can_match([first, second], "camera")
    assert not can_match([first, first], "camera")
    assert can_match([first, second], "open")  # by their ids, where no content is known


def test_each_camera_gives_one_query_and_keeps_gallery_images() -> None:
    images = choose_queries(images_of(TEN, "123", split="val"), "camera", split="val", seed=1)
    queries = [image for image in images if image.is_query]
    assert sorted((image.class_name, image.camera) for image in queries) == sorted(itertools.product(TEN, "123"))
    for members in by_identity(images).values():
        assert {image.camera for image in members if not image.is_query} == set("123")


def test_an_identity_with_one_image_of_each_camera_gives_one_query() -> None:
    images = choose_queries(images_of(TEN, "12", n_images=1, split="val"), "camera", split="val", seed=1)
    assert [sum(image.is_query for image in members) for members in by_identity(images).values()] == [1] * 10


def test_identities_without_a_match_give_no_query() -> None:
    images = choose_queries(images_of("ab", "1", split="val"), "camera", split="val", seed=1)
    assert not any(image.is_query for image in images)


def test_given_queries_are_left_and_other_splits_give_none() -> None:
    images = [*images_of("ab"), *images_of("cd", split="val")]
    chosen = choose_queries(images, "camera", split="val", seed=1)
    assert {image.split for image in chosen if image.is_query} == {"val"}
    assert choose_queries(chosen, "camera", split="val", seed=2) == chosen


def test_the_seed_chooses_the_queries() -> None:
    images = images_of(TEN, split="val")
    chosen = {
        frozenset(
            image.image_id for image in choose_queries(images, "camera", split="val", seed=seed) if image.is_query
        )
        for seed in range(5)
    }
    assert len(chosen) > 1


@pytest.mark.parametrize("seed", range(10))
def test_identities_that_near_duplicates_connect_are_on_one_side(seed: int) -> None:
    images = images_of(TEN)
    first = {name: next(image.image_id for image in images if image.class_name == name) for name in TEN}
    near = {first[TEN[0]]: 0, first[TEN[4]]: 0, first[TEN[7]]: 1, first[TEN[8]]: 1}
    moved = hold_out_identities(images, "camera", HoldOut(0.4, seed, near))
    held = {image.class_name for image in moved if image.split == "val"}
    assert len({TEN[0], TEN[4]} & held) != 1
    assert len({TEN[7], TEN[8]} & held) != 1
    assert 2 <= len(held) <= 4
