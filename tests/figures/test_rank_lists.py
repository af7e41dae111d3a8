"""Ranked lists of a gallery whose order is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from attnsearch.figures.rank_lists import rank_list
from tests.matches import N_QUERIES, ORDERS, gallery_cosines, ranked_split


def test_a_list_leaves_removed_images_out() -> None:
    found = rank_list(ranked_split(), 0)
    assert [image.row - N_QUERIES for image in found.images] == [1, 2, 3, 5, 6, 7]
    assert [image.rank for image in found.images] == [1, 2, 3, 4, 5, 6]
    assert [image.is_match for image in found.images] == [False, True, False, False, False, True]
    assert (found.first_match, found.n_matches) == (2, 2)
    assert found.average_precision == pytest.approx((1 / 2 + 2 / 6) / 2)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_removed_images_stand_at_their_distance_without_a_rank(distance: Literal["cosine", "euclidean"]) -> None:
    found = rank_list(ranked_split(distance=distance), 0, with_removed=True)
    assert [image.row - N_QUERIES for image in found.images] == list(ORDERS[0])
    assert [image.rank for image in found.images] == [None, 1, 2, 3, None, 4, 5, 6]
    assert not found.images[0].is_match
    cosines = [image.cosine for image in found.images]
    np.testing.assert_allclose(cosines, gallery_cosines()[list(ORDERS[0]), 0], atol=1e-6)


def test_no_more_images_than_asked_for() -> None:
    assert [image.rank for image in rank_list(ranked_split(), 0, n_shown=2).images] == [1, 2]
    with_removed = rank_list(ranked_split(), 0, n_shown=3, with_removed=True)
    assert [image.rank for image in with_removed.images] == [None, 1, 2]


def test_a_distractor_is_an_identity_that_no_query_has() -> None:
    retrieval = ranked_split()
    assert [image.is_distractor for image in rank_list(retrieval, 0).images] == [True, *[False] * 5]
    sought = replace(retrieval, labels=np.where(retrieval.is_query, 0, retrieval.labels))
    assert not any(image.is_distractor for image in rank_list(sought, 0).images)


def test_ranks_are_those_of_the_measure_where_rounding_has_another_order() -> None:
    retrieval = ranked_split()
    swapped = retrieval.ranked_rows.copy()
    swapped[0, [0, 1]] = swapped[0, [1, 0]]
    found = rank_list(replace(retrieval, ranked_rows=swapped), 0, with_removed=True)
    assert [image.rank for image in found.images] == [None, 1, 2, 3, None, 4, 5, 6]
    assert [image.row - N_QUERIES for image in found.images] == [0, 2, 1, 3, 4, 5, 6, 7]


def test_a_gallery_image_has_no_list() -> None:
    with pytest.raises(ValueError, match=r"row 2, 2\.jpg, is of the gallery"):
        rank_list(ranked_split(), 2)
