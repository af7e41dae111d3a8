"""Filters and order of the planted queries: 0 is wrong at first, 2 and 1 are right, 3 has no match."""

from __future__ import annotations

import dataclasses

import pytest

from attnsearch.errors import ConfigError
from attnsearch.explorer.retrieval_query import QueryFilter, hardest_identities, matching_places, parse_filter
from attnsearch.figures.rankings import Rankings
from attnsearch.tasks.retrieval import rank_split
from attnsearch.types import Retrieval
from tests.explorer.built_reid import planted_features, planted_table


@pytest.fixture(scope="module")
def retrieval(tmp_path_factory: pytest.TempPathFactory) -> Retrieval:
    return rank_split(planted_table(tmp_path_factory.getbasetemp()), planted_features(0), distance="euclidean")[0]


@pytest.fixture(scope="module")
def rankings(retrieval: Retrieval) -> Rankings:
    return Rankings(retrieval)


@pytest.mark.parametrize(
    ("words", "places"),
    [
        ({}, [0, 2, 1, 3]),  # worst average precision first, the query without a match last
        ({"down": "1"}, [1, 2, 0, 3]),
        ({"order": "row"}, [0, 1, 2, 3]),
        ({"order": "first_match", "down": "1"}, [0, 1, 2, 3]),
        ({"order": "cosine"}, [3, 0, 1, 2]),  # 60, 10, 5 and 5 degrees
        ({"order": "identity", "down": "1"}, [3, 2, 1, 0]),
        ({"order": "identity_ap"}, [0, 2, 1, 3]),
        ({"order": "camera", "down": "1"}, [3, 2, 0, 1]),  # "<i>3</i>", "2", "1"
        ({"order": "image"}, [0, 1, 2, 3]),
        ({"verdict": "wrong"}, [0]),
        ({"verdict": "right"}, [2, 1]),
        ({"verdict": "unmatched"}, [3]),
        ({"hard": "1"}, [0]),
        ({"hard": "2"}, [0, 2]),
        ({"identity": "0002"}, [1]),
        ({"identity": "2"}, []),
        ({"query_camera": "0"}, [0, 1]),
        ({"query_camera": "0", "gallery_camera": "1"}, [0]),  # the first hit of query 0 is the distractor, camera 2
        ({"gallery_camera": "2"}, [1, 3]),
        ({"camera_of": "missed"}, [0]),
        ({"camera_of": "missed", "gallery_camera": "1"}, [0]),  # its missed match is of camera 2
        ({"camera_of": "missed", "gallery_camera": "2"}, []),
        ({"camera_of": "missed", "query_camera": "1"}, []),
        ({"query_camera": "7"}, []),
    ],
)
def test_filters_and_order(rankings: Rankings, words: dict[str, str], places: list[int]) -> None:
    assert matching_places(rankings, parse_filter(words)) == places


@pytest.mark.parametrize(
    "words",
    [{"verdict": "x"}, {"order": "secret"}, {"hard": "-1"}, {"query_camera": "²"}, {"camera_of": "all"}, {"page": "x"}],
)
def test_words_that_cannot_be_read_are_named(words: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(words))):
        parse_filter(words)


def test_cameras_that_are_not_known_cannot_be_filtered(retrieval: Retrieval) -> None:
    without = Rankings(dataclasses.replace(retrieval, cameras=None, camera_names=()))
    assert matching_places(without, QueryFilter(order="camera")) == [0, 1, 2, 3]
    with pytest.raises(ConfigError, match="cameras of these images are not known"):
        matching_places(without, QueryFilter(query_camera=0))


def test_hardest_identities_have_the_lowest_mean(rankings: Rankings) -> None:
    names = rankings.retrieval.identities
    assert [names[label] for label in hardest_identities(rankings, 2)] == ["0001", "0003"]
    assert len(hardest_identities(rankings, 50)) == 3  # the others have no average precision
