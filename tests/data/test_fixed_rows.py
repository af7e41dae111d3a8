"""Rows that are the same for every trial: spread over classes or identities, by hashes of their ids."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from attnsearch.config.data import FolderData
from attnsearch.data.fixed_rows import fixed_queries, fixed_subset, spread_rows
from attnsearch.data.tables import ImageTable, build_tables
from attnsearch.errors import UsageError
from tests.data.test_tables import tables_of


def test_fixed_queries_take_turns_among_identities_and_have_matches() -> None:
    test = tables_of().of("test")
    queries = fixed_queries(test, None)
    assert len(queries) == 12
    assert {test.class_names[test.labels[row]] for row in queries[:4]} == {"t1", "t2", "t3", "t4"}
    assert fixed_queries(test, 5) == queries[:5]


def test_queries_without_a_match_are_not_fixed() -> None:
    test = tables_of().of("test")
    assert test.is_query is not None
    of_t1 = [row for row, name in enumerate(test.image_ids) if name.startswith("t1/")]
    of_camera_1 = [row for row in of_t1 if test.image_ids[row].startswith("t1/1")]
    kept = [row for row in range(len(test)) if row not in of_t1 or row in of_camera_1]
    alone = test.take(kept)
    assert len(fixed_queries(alone, None)) == 9
    assert not [row for row in fixed_queries(alone, None) if alone.image_ids[row].startswith("t1/")]


def test_a_kept_query_is_kept_with_a_match() -> None:
    test = tables_of().of("test")
    assert test.is_query is not None
    for n_images in (2, 4, 8):
        rows = fixed_subset(test, n_images)
        assert len(rows) == n_images
        for query in rows[test.is_query[rows]]:
            others = rows[~test.is_query[rows]]
            is_match = (test.labels[others] == test.labels[query]) & (
                test.removal_keys[others] != test.removal_keys[query]
            )
            assert is_match.any()


def test_more_images_include_the_fewer() -> None:
    test = tables_of().of("test")
    subsets = [set(fixed_subset(test, n_images).tolist()) for n_images in range(1, len(test) + 2)]
    assert all(few <= more for few, more in itertools.pairwise(subsets))
    assert [len(subset) for subset in subsets] == [*range(1, len(test) + 1), len(test)]


def test_classes_have_nothing_to_retrieve(small_tree: Path) -> None:
    with pytest.raises(UsageError, match="train holds classes and no identities"):
        fixed_queries(build_tables(FolderData(root=str(small_tree))).train, None)


@pytest.mark.parametrize(
    ("sizes", "classes"),
    [((9, 1, 2), [0, 0, 1, 2]), ((2, 2, 2, 2, 2, 2, 2), [0, 2, 4, 6]), ((1, 1), [0, 1]), ((30, 3), [0, 0, 1, 1])],
)
def test_a_few_rows_are_spread_over_the_classes(sizes: tuple[int, ...], classes: list[int]) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    ids = tuple(f"{label}/{row}.jpg" for row, label in enumerate(labels))
    table = ImageTable("val", tuple(map(str, range(len(sizes)))), ids, tuple(map(Path, ids)), labels)
    rows = spread_rows(table, 4)
    assert labels[rows].tolist() == classes
    assert len(set(rows)) == len(rows)


def test_a_few_rows_of_identities_are_queries() -> None:
    test = tables_of().of("test")
    assert spread_rows(test, 3) == sorted(fixed_queries(test, 3))
