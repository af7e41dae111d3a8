"""Numbers of identities, images and cameras, counted by hand."""

from __future__ import annotations

from dataclasses import replace

from attnsearch.data.identity_numbers import PartNumbers, part_numbers, part_of
from tests.data.test_identities import images_of


def test_numbers_of_train_and_of_the_gallery_without_distractors() -> None:
    train = [*images_of("a", "12"), *images_of("b", "1", n_images=3), *images_of("c", "3", n_images=1)]
    gallery = [*images_of("x", "12", split="test"), *images_of(["0000"], "4", n_images=9, split="test")]
    queries = [replace(image, is_query=True) for image in images_of("x", "3", n_images=1, split="test")]
    numbers = part_numbers([*train, *gallery, *queries], "camera")
    assert list(numbers) == ["train", "query", "gallery"]
    # images of a, b, c: 4, 3, 1; from one camera: 2, 2, 3, 1
    assert numbers["train"] == PartNumbers(3, 8, (1, 3, 4), 1, 3, (1, 2, 3), 2)
    assert numbers["gallery"] == PartNumbers(2, 13, (4, 4, 4), 0, 3, (2, 2, 2), 0)


def test_groups_take_the_place_of_cameras() -> None:
    images = [replace(image, camera=None, group=f"day {image.camera}") for image in images_of("ab", "12")]
    assert part_numbers(images, "group")["train"] == PartNumbers(2, 8, (4, 4, 4), 0, 2, (2, 2, 2), 0)


def test_without_cameras_and_groups_only_images_are_counted() -> None:
    numbers = part_numbers([replace(image, camera=None) for image in images_of("ab", "12")], "open")["train"]
    assert numbers == PartNumbers(2, 8, (4, 4, 4), 0)
    assert numbers.known() == (2, 8, (4, 4, 4), 0)


def test_an_identity_0000_that_is_asked_for_is_no_distractor() -> None:
    images = images_of(["0000"], "12", split="test")
    images[0] = replace(images[0], is_query=True)
    assert part_numbers(images, "camera")["gallery"].per_identity == (3, 3, 3)


def test_an_identity_0000_of_train_or_val_is_no_distractor() -> None:
    train = [*images_of(["0000"], "12", n_images=3), *images_of("a", "1", n_images=1)]
    val = images_of(["0000", "b"], "1", split="val")
    numbers = part_numbers([*train, *val], "camera")
    assert numbers["train"] == PartNumbers(2, 7, (1, 3.5, 6), 1, 2, (1, 3, 3), 1)
    assert numbers["val"] == PartNumbers(2, 4, (2, 2, 2), 0, 1, (2, 2, 2), 2)


def test_queries_of_val_belong_to_val() -> None:
    (image,) = images_of("a", "1", n_images=1, split="val")
    assert part_of(replace(image, is_query=True)) == "val"
