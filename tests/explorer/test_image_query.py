"""Filters and order of the grid; six images, even ones right, confidences from 0.5 to 0.99, three per class."""

from __future__ import annotations

import pytest

from attnsearch.errors import ConfigError
from attnsearch.explorer.archives import NO_SCORES, Archives, OpenArchive
from attnsearch.explorer.image_query import ImageQuery, matching_rows, parse_query, rows_to_show
from attnsearch.results.study import StudyReader
from tests.explorer.built import Built

NO_PLACE: list[bool | None] = [None] * 6


@pytest.fixture(scope="module")
def opened(built: Built) -> OpenArchive:
    return Archives().open(StudyReader(built.layout).trial(0), "val")


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"verdict": "right"}, [0, 2, 4]),
        ({"verdict": "wrong"}, [1, 3, 5]),
        ({"verdict": "misplaced"}, []),
        ({"true": "1"}, [3, 4, 5]),
        ({"true": "1", "predicted": "0"}, [3, 5]),
        ({"low": "0.7", "high": "0.9"}, [3, 4]),  # 0.5, 0.598, 0.696, 0.794, 0.892, 0.99
        ({"order": "confidence", "down": "1"}, [5, 4, 3, 2, 1, 0]),
        ({"order": "predicted"}, [1, 4, 0, 2, 3, 5]),  # "<b>tern…" stands before "gull"
    ],
)
def test_rows(opened: OpenArchive, words: dict[str, str], rows: list[int]) -> None:
    assert matching_rows(opened, parse_query(words), NO_SCORES, NO_PLACE) == rows


def test_misplaced_are_right_and_known_to_look_elsewhere(opened: OpenArchive) -> None:
    hits = [False, False, True, None, None, False]
    assert matching_rows(opened, parse_query({"verdict": "misplaced"}), NO_SCORES, hits) == [0]


@pytest.mark.parametrize(
    "words", [{"verdict": "x"}, {"true": "-1"}, {"true": "²"}, {"low": "nan"}, {"least": "many"}, {"page": "1e3"}]
)
def test_words_that_cannot_be_read_are_named(words: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(words))):
        parse_query(words)


def test_score_that_was_not_measured_is_named(opened: OpenArchive) -> None:
    with pytest.raises(ConfigError, match="'deletion'"):
        matching_rows(opened, parse_query({"metric": "deletion"}), NO_SCORES, NO_PLACE)


def test_spread_takes_images_from_the_whole_archive() -> None:
    """Three of 96 images lie in the middles of its thirds."""
    assert rows_to_show(range(96), ImageQuery(spread=3)) == ([16, 48, 80], 1, 2)
    assert rows_to_show(range(2), ImageQuery(spread=8)) == ([0, 1], 1, 1)
    assert rows_to_show([], ImageQuery(spread=8)) == ([], 1, 1)


def test_classes_come_by_turns(opened: OpenArchive) -> None:
    """Three images of each of two classes: in the archive one class stands before the other."""
    labels = opened.archive.labels
    rows = matching_rows(opened, ImageQuery(order="turns"), NO_SCORES, NO_PLACE)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert rows == [0, 3, 1, 4, 2, 5]
    assert matching_rows(opened, ImageQuery(order="turns", is_descending=True), NO_SCORES, NO_PLACE) == rows[::-1]
    assert matching_rows(opened, ImageQuery(order="turns", true=1), NO_SCORES, NO_PLACE) == [3, 4, 5]
