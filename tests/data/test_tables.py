"""Tables of identities: labels, cameras, groups, and the queries and matches that come first."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attnsearch.config.data import FolderData, ReidFolderData
from attnsearch.data.listing import Listing
from attnsearch.data.tables import (
    DataTables,
    ImageTable,
    build_from_listing,
    build_tables,
    fixed_queries,
    fixed_subset,
    spread_rows,
)
from attnsearch.errors import UsageError
from attnsearch.types import MatchRule
from tests.data.test_identities import images_of

WHO = [f"p{number:02d}" for number in range(10)]


def tables_of(*, rule: MatchRule = "camera", seed: int = 1) -> DataTables:
    """Ten training identities, of which two are held out, and four of test with a query for each camera."""
    test = images_of(["t1", "t2", "t3", "t4"], "123", n_images=3, split="test")
    test = [replace(image, is_query=image.image_id.endswith("_0.jpg")) for image in test]
    images = [*images_of(WHO), *test, *images_of(["0000"], "1", n_images=5, split="test")]
    if rule == "group":
        images = [replace(image, camera=None, group=f"day {image.camera}") for image in images]
    listing = Listing.of_identities(Path("/data"), images, match_rule=rule)
    return build_from_listing(listing, ReidFolderData(root="/data", val_share=0.2, split_seed=seed))


def test_labels_count_within_each_split() -> None:
    tables = tables_of()
    assert tables.class_names == tables.train.class_names
    assert sorted([*tables.train.class_names, *tables.val.class_names]) == WHO
    for table in tables.present():
        assert sorted(set(table.labels.tolist())) == list(range(len(table.class_names)))
        assert [table.class_names[label] for label in table.labels] == [name.split("/")[0] for name in table.image_ids]


def test_cameras_are_positions_among_those_of_all_splits() -> None:
    test = tables_of().of("test")
    assert test.camera_names == ("1", "2", "3")
    assert test.cameras is not None
    assert [test.camera_names[camera] for camera in test.cameras] == [name.split("/")[1][0] for name in test.image_ids]
    assert test.removal_keys is test.cameras
    assert test.groups is None


def test_groups_take_the_place_of_cameras_that_are_not_known() -> None:
    test = tables_of(rule="group").of("test")
    assert (test.cameras, test.camera_names) == (None, ())
    assert test.removal_keys.tolist() == [int(name.split("/")[1][0]) - 1 for name in test.image_ids]


def test_only_val_and_test_have_queries() -> None:
    tables = tables_of()
    assert tables.train.is_query is None
    assert tables.val.is_query is not None
    assert tables.val.is_query.sum() == 4  # one of each camera of both identities
    test = tables.of("test")
    assert test.is_query is not None
    assert [test.image_ids[row] for row in np.flatnonzero(test.is_query)] == [
        name for name in test.image_ids if name.endswith("_0.jpg") and not name.startswith("0000")
    ]


def test_rows_are_taken_with_all_that_is_known_of_them() -> None:
    test = tables_of().of("test")
    some = test.take([7, 2])
    assert test.is_query is not None
    assert some.is_query is not None
    assert test.cameras is not None
    assert some.cameras is not None
    assert some.cameras.tolist() == test.cameras[[7, 2]].tolist()
    assert some.is_query.tolist() == test.is_query[[7, 2]].tolist()


def test_another_choice_of_queries_or_identities_has_another_hash() -> None:
    assert tables_of().val_hash == tables_of().val_hash
    assert len({tables_of(seed=seed).val_hash for seed in range(4)}) == 4


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
