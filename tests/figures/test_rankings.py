"""Ranked galleries with what is left out of them, against the planted angles and against plain sorting."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from attnsearch.errors import ConfigError
from attnsearch.figures.rankings import RankedImage, Rankings
from attnsearch.tasks.retrieval import rank_split
from attnsearch.types import Distance, Retrieval
from tests.explorer.built_reid import PLANTED, planted_features, planted_table


@pytest.fixture(scope="module")
def retrieval(tmp_path_factory: pytest.TempPathFactory) -> Retrieval:
    return rank_split(planted_table(tmp_path_factory.getbasetemp()), planted_features(0), distance="euclidean")[0]


@pytest.fixture(scope="module")
def rankings(retrieval: Retrieval) -> Rankings:
    return Rankings(retrieval)


def cut(retrieval: Retrieval, k: int) -> Rankings:
    """The same with only k images of each list on disk."""
    return Rankings(dataclasses.replace(retrieval, ranked_rows=retrieval.ranked_rows[:, :k]))


def shown(images: list[RankedImage]) -> list[tuple[int, int | None, bool]]:
    return [(image.row, image.rank, image.is_match) for image in images]


def test_what_is_removed_stands_where_it_would_be_ranked(rankings: Rankings) -> None:
    assert shown(rankings.ranked(0, 5)) == [
        (4, None, False),
        (5, 1, False),
        (6, 2, True),
        (12, 3, False),
        (7, 4, False),
        (8, 5, True),
    ]
    assert shown(rankings.ranked(1, 2)) == [(9, None, False), (10, 1, True), (8, 2, False)]


def test_what_is_removed_below_the_shown_part_is_not_shown(retrieval: Retrieval) -> None:
    """The image of the query's camera is turned to 45 degrees, between ranks 4 and 5."""
    features = np.array(retrieval.features)
    features[4] = [np.cos(np.pi / 4), np.sin(np.pi / 4)]
    moved = Rankings(dataclasses.replace(retrieval, features=features))
    assert [image.row for image in moved.ranked(0, 2)] == [5, 6]
    assert [image.row for image in moved.ranked(0, 5)] == [5, 6, 12, 7, 4, 8]


def test_blocks_change_no_cosine(retrieval: Retrieval, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Rankings(retrieval).nearest_cosines
    monkeypatch.setattr("attnsearch.figures.rankings._BLOCK_ROWS", 3)
    np.testing.assert_array_equal(Rankings(retrieval).nearest_cosines, whole)


def test_cosines_are_those_of_the_angles(rankings: Rankings) -> None:
    found = {image.row: image.cosine for image in rankings.ranked(0, 50)}
    for row, cosine in found.items():
        assert cosine == pytest.approx(np.cos(np.deg2rad(PLANTED[row].angle)), abs=1e-6)
    assert len(found) == 10
    assert rankings.nearest_cosines == pytest.approx(np.cos(np.deg2rad([10, 5, 5, 60])), abs=1e-6)


def test_cosines_of_features_of_any_length(retrieval: Retrieval) -> None:
    lengths = np.linspace(0.5, 3, len(PLANTED), dtype=np.float32)[:, None]
    other = Rankings(dataclasses.replace(retrieval, features=retrieval.features * lengths, distance="cosine"))
    assert shown(other.ranked(0, 5)) == shown(Rankings(retrieval).ranked(0, 5))
    assert other.nearest_cosines == pytest.approx(np.cos(np.deg2rad([10, 5, 5, 60])), abs=1e-6)


@pytest.mark.parametrize("k", [1, 2, 50])
def test_matches_further_down_have_their_rank_whether_it_is_stored_or_not(retrieval: Retrieval, k: int) -> None:
    assert shown(cut(retrieval, k).missed(0, 1, 6)) == [(6, 2, True), (8, 5, True)]
    assert shown(cut(retrieval, k).missed(2, 1, 6)) == [(12, 7, True)]
    assert shown(cut(retrieval, k).missed(0, 1, 1)) == [(6, 2, True)]
    assert cut(retrieval, k).missed(3, 1, 6) == []


@pytest.mark.parametrize("k", [1, 50])
def test_rank_of_a_pair(retrieval: Retrieval, k: int) -> None:
    one = cut(retrieval, k)
    assert [one.pair(0, row).rank for row in (4, 5, 6, 12, 7, 8, 13)] == [None, 1, 2, 3, 4, 5, 6]
    assert [one.pair(0, row).is_match for row in (4, 5, 6)] == [False, False, True]


def test_pairs_of_other_rows_are_refused(rankings: Rankings) -> None:
    with pytest.raises(ConfigError, match=r"0002_c1_01\.jpg' is a query"):
        rankings.pair(0, 1)
    with pytest.raises(ConfigError, match="no row 14"):
        rankings.pair(0, 14)
    with pytest.raises(ConfigError, match="in the gallery and no query"):
        rankings.place_of(4)
    with pytest.raises(ConfigError, match="no row 99"):
        rankings.place_of(99)


@pytest.mark.parametrize("k", [1, 2, 50])
def test_nearest_matches(retrieval: Retrieval, k: int) -> None:
    assert cut(retrieval, k).nearest_matches.tolist() == [6, 10, 11, -1]


def test_means_of_identities(rankings: Rankings) -> None:
    assert rankings.retrieval.identities == ("0000", "0001", "0002", "0003", "0004")
    assert rankings.identity_means == pytest.approx([np.nan, 0.45, 5 / 6, 9 / 14, np.nan], nan_ok=True)


def test_distractors_are_of_their_identity_unless_a_query_shows_it(retrieval: Retrieval) -> None:
    assert Rankings(retrieval).distractor_label == 0
    asked = dataclasses.replace(retrieval, is_query=np.arange(len(PLANTED)) == 5)
    assert Rankings(asked).distractor_label is None
    others = dataclasses.replace(retrieval, identities=("a", "b", "c", "d", "e"))
    assert Rankings(others).distractor_label is None


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("seed", range(5))
def test_lists_equal_plain_sorting(distance: Distance, seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng((seed, 11))
    table = planted_table(tmp_path_factory.getbasetemp())
    features = rng.normal(size=(len(PLANTED), 3)).astype(np.float32)
    retrieval, _ = rank_split(table, features, distance=distance)
    compared = features / np.linalg.norm(features, axis=1, keepdims=True) if distance == "cosine" else features
    one = cut(retrieval, 3)
    for place, query in enumerate(one.query_rows.tolist()):
        gaps = {row: float(np.linalg.norm(compared[row] - compared[query])) for row in one.gallery_rows.tolist()}
        order = sorted(gaps, key=gaps.__getitem__)
        removed = [r for r in order if PLANTED[r].identity == PLANTED[query].identity
                   and PLANTED[r].camera == PLANTED[query].camera]  # fmt: skip
        kept = [row for row in order if row not in removed]
        limit = order.index(kept[2])
        assert [image.row for image in one.ranked(place, 3)] == order[: limit + 1]
        assert [one.pair(place, row).rank for row in kept] == list(range(1, len(kept) + 1))


def test_queries_for_which_nothing_is_ranked(retrieval: Retrieval) -> None:
    """A gallery of the query's identity and camera alone."""
    rows = [0, 4]
    alone = dataclasses.replace(
        retrieval,
        image_ids=tuple(retrieval.image_ids[row] for row in rows),
        labels=retrieval.labels[rows],
        cameras=None,
        removal_keys=retrieval.removal_keys[rows],
        is_query=retrieval.is_query[rows],
        features=retrieval.features[rows],
        ranked_rows=np.full((1, 1), -1),
        average_precision=np.array([np.nan]),
        inverse_negative_penalty=np.array([np.nan]),
        first_match=np.zeros(1, dtype=np.int64),
    )
    one = Rankings(alone)
    assert shown(one.ranked(0, 10)) == [(1, None, False)]
    assert one.missed(0, 10, 6) == []
    assert np.isnan(one.nearest_cosines).all()
