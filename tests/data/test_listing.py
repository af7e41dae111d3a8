"""What is wrong with a listing of identities, and which queries have no match."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from attnsearch.data.listing import ListedImage, Listing, unmatched_queries
from tests.data.test_identities import images_of

ROOT = Path("/data")
GALLERY = [*images_of("a", "12", split="test"), *images_of("b", "1", split="test")]
QUERY_OF_A, QUERY_OF_B, QUERY_OF_C = (
    replace(image, is_query=True)
    for image in (
        *images_of("a", "3", n_images=1, split="test"),
        *images_of("b", "1", n_images=3, split="test")[2:],
        *images_of("c", "1", n_images=1, split="test"),
    )
)
TRAIN = images_of("xyz")


def errors(images: Sequence[ListedImage]) -> list[str]:
    listing = Listing.of_identities(ROOT, images, match_rule="camera")
    return [problem.message for problem in listing.problems if problem.is_error]


def test_images_are_sorted_by_identity_and_cameras_by_number() -> None:
    images = [*images_of(["2", "10"], ["10", "9", "gate"]), *TRAIN]
    listing = Listing.of_identities(ROOT, images[::-1], match_rule="camera")
    assert listing.class_names == ("10", "2", "x", "y", "z")
    assert listing.camera_names == ("1", "2", "9", "10", "gate")
    assert [image.class_name for image in listing.images[:7]] == ["10"] * 6 + ["2"]


def test_queries_without_a_gallery_image_of_another_camera_have_no_match() -> None:
    queries = [QUERY_OF_A, QUERY_OF_B, QUERY_OF_C]
    assert unmatched_queries([*GALLERY, *queries], "camera") == [QUERY_OF_B, QUERY_OF_C]
    assert unmatched_queries([*GALLERY, *queries], "open") == [QUERY_OF_C]


def test_some_queries_without_a_match_are_no_error() -> None:
    assert errors([*TRAIN, *GALLERY, QUERY_OF_A, QUERY_OF_B]) == []


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([*TRAIN, *GALLERY, QUERY_OF_B, QUERY_OF_C], "none of the 2 queries of test has a match from another camera"),
        ([*TRAIN, *GALLERY], "test must hold queries and a gallery, got 0 and 6"),
        ([*TRAIN, QUERY_OF_A], "test must hold queries and a gallery, got 1 and 0"),
        ([*TRAIN, *images_of("ab", "1", split="val")], "none of the 4 images of val has a match from another camera"),
        (images_of("x"), "train must hold at least 2 identities, found 1"),
        ([*TRAIN, TRAIN[3]], "1 image is listed twice; keep one of each: x/2_1.jpg"),
        ([*TRAIN, *TRAIN[3:5]], "2 images are listed twice; keep one of each:\n  x/2_1.jpg\n  y/1_0.jpg"),
        ([*TRAIN, replace(TRAIN[0], camera=None, image_id="no.jpg")], "1 of 13 images have no camera"),
    ],
)
def test_what_prevents_training_or_ranking_is_an_error(images: list[ListedImage], message: str) -> None:
    (error,) = errors(images)
    assert message in error


def test_an_identity_in_train_and_test_is_a_warning() -> None:
    images = [*TRAIN, *images_of("a", "89"), *GALLERY, QUERY_OF_A]
    (warning,) = Listing.of_identities(ROOT, images, match_rule="camera").problems
    assert not warning.is_error
    assert "1 identity is in train and in test, which makes the scores of test too good: a" in warning.message
