"""Tables of identities: labels, cameras, groups, and the queries and matches that come first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from attnsearch.config.data import ReidFolderData
from attnsearch.data.listing import Listing
from attnsearch.data.tables import DataTables, build_from_listing
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
