"""Identities in folders of one's own: layouts, where cameras come from, and what is a match without them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnsearch.config.data import ReidFolderData
from attnsearch.data.check import check_data
from attnsearch.data.fixed_rows import fixed_queries
from attnsearch.data.listing import ListedImage, Listing
from attnsearch.data.reid_folder import list_images
from attnsearch.data.reid_names import list_market_folders
from attnsearch.data.tables import build_tables
from attnsearch.errors import DataError
from tests.data.conftest import write_image
from tests.data.test_reid_sets import MARKET, write_named

WITH_CAMERAS = {
    **{f"train/{who}": ["c1_0.jpg", "c1_1.jpg", "c2_0.jpg"] for who in ("ada", "bob", "cid", "dan", "eve")},
    **{f"query/{who}": ["c1_9.jpg"] for who in ("fay", "gus")},
    **{f"gallery/{who}": ["c1_5.jpg", "c10_5.png"] for who in ("fay", "gus", "hal")},
}
ALONE = {f"p{who}": [f"c{camera}_{index}.jpg" for camera in (1, 2) for index in range(2)] for who in range(10)}


def listing_of(root: Path, **settings: object) -> Listing:
    listing = list_images(ReidFolderData(root=str(root), **settings))  # type: ignore[arg-type]
    assert [problem.message for problem in listing.problems if problem.is_error] == []
    return listing


def queries(listing: Listing) -> list[ListedImage]:
    return [image for image in listing.images if image.is_query]


def write_list(root: Path, rows: Sequence[tuple[str, ...]], head: str, name: str = "images.csv") -> Path:
    """The list, and the images that it names."""
    for path, *_ in rows:
        write_image(root / path, (16, 8))
    (root / name).write_text("\n".join([head, *(",".join(row) for row in rows)]) + "\n")
    return root


def rows_of(splits: Mapping[str, Sequence[str]], cameras: Sequence[str] = ("a", "b")) -> list[tuple[str, ...]]:
    """path, identity, split, camera: two images of each identity from each camera."""
    return [
        (f"{who}/{camera}{index}.jpg", who, split, camera)
        for split, members in splits.items()
        for who in members
        for camera in cameras
        for index in range(2)
    ]


def test_market_style_names_need_neither_its_cameras_nor_its_box_numbers(tmp_path: Path) -> None:
    folders = {
        "bounding_box_train": [f"{who:04d}_c{camera}s1_000451.jpg" for who in range(1, 6) for camera in (2, 31)],
        "query": ["7_c2_000451.jpg"],
        "bounding_box_test": ["0007_c31_000451_01.png", "0000_c2_1.jpg", "-1_c2_1.jpg"],
    }
    listing = listing_of(write_named(tmp_path, folders))
    assert listing.camera_names == ("2", "31")
    assert listing.match_rule == "camera"
    assert {image.class_name for image in listing.images if image.split == "test"} == {"0000", "0007"}


def test_masks_beside_market_style_names_are_read(tmp_path: Path) -> None:
    root = write_named(tmp_path, MARKET)
    for folder, names in MARKET.items():
        for name in names:
            mask = root / "masks" / folder / name
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((16, 8), np.uint8)).save(mask.with_suffix(".png"))
    image = list_market_folders(root).images[0]
    assert image.mask_path == root / "masks/bounding_box_test/0000_c2s1_000101_01.png"
    (root / "masks/bounding_box_test/0000_c2s1_000101_01.png").unlink()
    assert list_market_folders(root).images[0].mask_path is None


def test_identity_folders_of_splits_take_cameras_from_a_pattern(tmp_path: Path) -> None:
    listing = listing_of(write_named(tmp_path, WITH_CAMERAS), camera_pattern=r"c(\d+)_")
    assert listing.camera_names == ("1", "2", "10")  # by value
    assert listing.class_names == ("ada", "bob", "cid", "dan", "eve")
    assert [image.image_id for image in queries(listing)] == ["query/fay/c1_9.jpg", "query/gus/c1_9.jpg"]
    assert {image.class_name for image in listing.images if image.split == "test"} == {"fay", "gus", "hal"}


def test_a_folder_of_each_camera_is_matched_too(tmp_path: Path) -> None:
    folders = {f"p{who}/north": ["1.jpg", "2.jpg"] for who in range(8)} | {
        f"p{who}/gate": ["1.jpg"] for who in range(8)
    }
    listing = listing_of(write_named(tmp_path, folders), camera_pattern=r"([a-z]+)/")
    assert listing.camera_names == ("gate", "north")


def test_a_val_folder_is_the_validation_split(tmp_path: Path) -> None:
    folders = {**WITH_CAMERAS, "val/ivy": ["c1_1.jpg", "c1_2.jpg", "c2_1.jpg"], "val/jim": ["c1_1.jpg"]}
    cfg = ReidFolderData(root=str(write_named(tmp_path, folders)), camera_pattern=r"c(\d+)_")
    tables = build_tables(cfg)
    assert tables.val.class_names == ("ivy", "jim")
    assert len(tables.train.class_names) == 5
    assert [tables.val.image_ids[row].split("/")[1] for row in fixed_queries(tables.val, None)] == ["ivy"]


def test_identity_folders_alone_are_divided(tmp_path: Path) -> None:
    root = write_named(tmp_path, ALONE)
    listing = listing_of(root, camera_pattern=r"c(\d)_", test_share=0.4)
    tested = {image.class_name for image in listing.images if image.split == "test"}
    assert len(tested) == 4
    assert len(listing.class_names) == 6
    of_query = [(image.class_name, image.camera) for image in queries(listing)]
    assert sorted(of_query) == sorted((who, camera) for who in tested for camera in "12")  # one of each camera
    assert len(build_tables(ReidFolderData(root=str(root), camera_pattern=r"c(\d)_")).present()) == 3


def test_the_division_depends_on_the_seed_alone(tmp_path: Path) -> None:
    def tested(root: Path, seed: int) -> set[str]:
        listing = listing_of(root, camera_pattern=r"c(\d)_", split_seed=seed)
        return {image.class_name for image in listing.images if image.split == "test"}

    one, other = write_named(tmp_path / "a", ALONE), write_named(tmp_path / "b", dict(reversed(ALONE.items())))
    assert tested(one, 1) == tested(other, 1)
    assert len({frozenset(tested(one, seed)) for seed in range(5)}) > 1


def test_cameras_and_groups_come_from_a_list(tmp_path: Path) -> None:
    root = write_named(tmp_path, ALONE)
    rows = [f"{who}/{name},{name[1]},day {name[3]}" for who, names in ALONE.items() for name in names]
    (root / "cameras.csv").write_text("\n".join(["image,camera,group", *rows]))
    listing = listing_of(root)
    assert (listing.match_rule, listing.camera_names) == ("camera", ("1", "2"))
    assert listing.problems == ()
    assert listing.images[0].group == "day 0"


def test_with_groups_alone_images_of_the_group_of_a_query_are_no_matches(tmp_path: Path) -> None:
    root = write_named(tmp_path, ALONE)
    rows = [f"{who}/{name},day {name[1]}" for who, names in ALONE.items() for name in names]
    (root / "cameras.csv").write_text("\n".join(["image,group", *rows]))
    listing = listing_of(root)
    assert (listing.match_rule, listing.camera_names) == ("group", ())
    (warning,) = listing.problems
    assert "mAP_group is measured" in warning.message
    test = build_tables(ReidFolderData(root=str(root))).of("test")
    assert test.cameras is None
    assert len(np.unique(test.removal_keys)) == 2


def test_without_cameras_and_groups_only_copies_of_the_query_are_no_matches(tmp_path: Path) -> None:
    root = write_named(tmp_path, {f"p{who}": ["0.jpg", "1.jpg", "2.jpg"] for who in range(8)})
    for who in range(8):
        shutil.copy(root / f"p{who}/0.jpg", root / f"p{who}/copy of 0.jpg")
    listing = listing_of(root)
    assert listing.match_rule == "open"
    assert "mAP_open is measured" in listing.problems[0].message
    keys = {image.image_id: image.removal_key("open") for image in listing.images}
    assert keys["p0/0.jpg"] == keys["p0/copy of 0.jpg"]
    assert len({keys[f"p0/{name}"] for name in ("0.jpg", "1.jpg", "2.jpg")}) == 3
    test = build_tables(ReidFolderData(root=str(root))).of("test")
    assert test.is_query is not None
    assert test.is_query.sum() == len(test.class_names)


def test_identities_whose_images_are_all_alike_are_not_tested(tmp_path: Path) -> None:
    root = write_named(tmp_path, {f"p{who}": ["0.jpg", "1.jpg"] for who in range(8)})
    for who in range(4):
        shutil.copy(root / f"p{who}/0.jpg", root / f"p{who}/1.jpg")
    listing = listing_of(root, test_share=0.5)
    assert {image.class_name for image in listing.images if image.split == "test"} == {"p4", "p5", "p6", "p7"}


def test_a_list_names_everything(tmp_path: Path) -> None:
    rows = rows_of({"train": "abcde", "val": "fg", "query": "h", "gallery": "i"}, ("n", "s"))
    rows += [("h/gate.jpg", "h", "gallery", "gate"), ("junk.jpg", "-1", "gallery", "gate")]
    root = write_list(tmp_path, rows, "image,identity,split,camera")
    listing = listing_of(root)
    assert listing.camera_names == ("gate", "n", "s")
    assert len(queries(listing)) == 4
    tables = build_tables(ReidFolderData(root=str(root)))
    assert (tables.class_names, tables.val.class_names) == (tuple("abcde"), ("f", "g"))
    assert "junk.jpg" not in tables.of("test").image_ids


def test_queries_of_a_listed_test_split_are_chosen(tmp_path: Path) -> None:
    root = write_list(tmp_path, rows_of({"train": "abcde", "test": "xy"}), "image,identity,split,camera")
    assert sorted((image.class_name, image.camera) for image in queries(listing_of(root))) == [
        *(("x", "a"), ("x", "b"), ("y", "a"), ("y", "b")),
    ]


def test_a_list_without_test_images_has_no_test_split(tmp_path: Path) -> None:
    root = write_list(tmp_path, rows_of({"train": "abcde"}), "image,identity,split,camera")
    assert build_tables(ReidFolderData(root=str(root))).test is None


GOOD = rows_of({"train": "abcde", "test": "xy"})
GOOD_HEAD = "image,identity,split,camera"


@pytest.mark.parametrize(
    ("rows", "head", "message"),
    [
        (GOOD, "image,who,split,camera", r"images.csv:1: has no column identity"),
        ([*GOOD, ("", "x", "test", "a")], "", r"images.csv:30: an image must be a path below .*, got ''"),
        ([*GOOD, ("../x.jpg", "x", "test", "a")], "", r"images.csv:30: an image must be a path below .*'../x.jpg'"),
        ([*GOOD, ("/x.jpg", "x", "test", "a")], "", r"images.csv:30: an image must be a path below .*'/x.jpg'"),
        ([*GOOD, ('"x\n.jpg"', "x", "test", "a")], "", r"images.csv:31: an image must be a path below .*'x\\n.jpg'"),
        ([*GOOD, ("x.jpg", '"x\ny"', "test", "a")], "", r"images.csv:31: needs an identity .* got 'x\\ny' and 'test'"),
        ([*GOOD, ("x.jpg", "", "test", "a")], "", r"images.csv:30: needs an identity .* got '' and 'test'"),
        ([*GOOD, ("x.jpg", "x", "dev", "a")], "", r"images.csv:30: .*split of train, query, .* got 'x' and 'dev'"),
        ([*GOOD, ("x.jpg", "x", "query", "a")], "", r"names the split test beside query and gallery"),
        ([*GOOD, GOOD[0]], "", r"1 image is listed twice; keep one of each: a/a0.jpg"),
        ([*GOOD, ("x.jpg", "x", "test", "")], "", r"1 of 29 images have no camera. .*images.csv.* x.jpg"),
        (rows_of({"train": "a", "test": "xy"}), "", r"train must hold at least 2 identities, found 1"),
        (rows_of({"train": "ab", "test": "xy"}, ("a",)), "", r"test must hold queries and a gallery, got 0 and 4"),
        (rows_of({"train": "ab", "query": "x"}), "", r"test must hold queries and a gallery, got 4 and 0"),
        (rows_of({"train": "ab", "query": "x", "gallery": "y"}), "", r"none of the 4 queries of test has a match from"),
        (
            rows_of({"train": "ab", "val": "x"}, ("a",)),
            "",
            r"none of the 2 images of val has a match from another camera",
        ),
        (
            rows_of({"train": "abc"}),
            "",
            r"train has 3 identities, of which 3 have a match from another camera; 2 of them must be held out for val",
        ),
    ],
)
def test_what_is_wrong_with_a_list_is_told(
    tmp_path: Path, rows: list[tuple[str, ...]], head: str, message: str
) -> None:
    for path, *_ in GOOD:
        write_image(tmp_path / path, (16, 8))
    for path in {path for path, *_ in rows} - {"", "/x.jpg", "../x.jpg", '"x\n.jpg"'}:
        write_image(tmp_path / path, (16, 8))
    text = "\n".join([head or GOOD_HEAD, *(",".join(row) for row in rows)])
    (tmp_path / "images.csv").write_text(text + "\n")
    with pytest.raises(DataError, match=message):
        build_tables(ReidFolderData(root=str(tmp_path)))


@pytest.mark.parametrize("column", ["camera", "group"])
@pytest.mark.parametrize(
    ("name", "shown"),
    [("9" * 5000, f"{'9' * 64!r}…"), ('"gate\nnorth"', r"'gate\nnorth'"), ("ga\x07te", r"'ga\x07te'")],
)
def test_names_of_cameras_and_groups_are_short_and_printable(
    tmp_path: Path, column: str, name: str, shown: str
) -> None:
    root = write_list(tmp_path, [*GOOD, ("x.jpg", "x", "test", name)], f"image,identity,split,{column}")
    line = len(GOOD) + 2 + name.count("\n")
    said = f"images.csv:{line}: a {column} must be printable text of at most 64 characters, got {shown}"
    with pytest.raises(DataError, match=re.escape(said)):
        list_images(ReidFolderData(root=str(root)))


def test_names_of_64_characters_are_allowed(tmp_path: Path) -> None:
    listing = listing_of(write_list(tmp_path, rows_of({"train": "ab"}, ["9" * 64, "ü" * 64]), GOOD_HEAD))
    assert listing.camera_names == ("9" * 64, "ü" * 64)


def test_cameras_in_paths_are_printable(tmp_path: Path) -> None:
    root = write_named(tmp_path, {f"p{who}": ["c1_0.jpg", "c\n_0.jpg"] for who in range(4)})
    said = r"c\\n_0.jpg': a camera that data.camera_pattern finds must be printable text .*, got '\\n'"
    with pytest.raises(DataError, match=said):
        list_images(ReidFolderData(root=str(root), camera_pattern=r"c([^_]+)"))


def test_a_path_that_is_too_long_for_a_file_is_a_missing_file(tmp_path: Path) -> None:
    write_list(tmp_path, GOOD, GOOD_HEAD)
    with (tmp_path / "images.csv").open("a") as file:
        file.write(f"{'x' * 300}.jpg,x,test,a\n")
    with pytest.raises(DataError, match=rf"1 of 29 listed files do not exist.* {tmp_path}/x{{300}}.jpg"):
        build_tables(ReidFolderData(root=str(tmp_path)))
    (tmp_path / "masks").mkdir()
    problems = check_data(ReidFolderData(root=str(tmp_path))).problems
    assert sum(problem.kind == "unreadable" for problem in problems) == 1


def test_a_list_may_not_name_missing_files(tmp_path: Path) -> None:
    root = write_list(tmp_path, [(*row[:3],) for row in GOOD], "image,identity,split")
    (root / GOOD[0][0]).unlink()
    with pytest.raises(DataError, match=rf"1 of 28 listed files do not exist.* {root}/a/a0.jpg"):
        build_tables(ReidFolderData(root=str(root)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,camera\nnone.jpg,1", r"1 listed image is not in an identity folder: none.jpg"),
        (
            "image,camera\np0/c1_0.jpg,1",
            r"39 of 40 images have no camera. It is told by data.camera_pattern, cameras.csv",
        ),
        ("image,group\np0/c1_0.jpg,1", r"39 of 40 images have no group"),
        ("image,camera\np0/c1_0.jpg,1\n./p0/c1_0.jpg,2", r"cameras.csv:3: p0/c1_0.jpg is listed twice"),
        ("image,camera\n../p0/c1_0.jpg,1", r"cameras.csv:2: an image must be a path below"),
        ("camera\n1", r"cameras.csv:1: has no column image"),
        ("image,group\np0/c1_0.jpg,1\np0/c1_1.jpg,\x07", r"cameras.csv:3: a group must be printable .*, got '\\x07'"),
    ],
)
def test_what_is_wrong_with_a_list_of_cameras_is_told(tmp_path: Path, text: str, message: str) -> None:
    (write_named(tmp_path, ALONE) / "cameras.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        list_images(ReidFolderData(root=str(tmp_path)))


def test_a_pattern_must_match_and_be_read(tmp_path: Path) -> None:
    root = write_named(tmp_path / "alone", ALONE)
    for pattern in ("k(.)", "([k]*)c"):
        said = rf"{re.escape(repr(pattern))} finds a camera at the beginning of no path .* such as c1_0.jpg"
        with pytest.raises(DataError, match=said):
            list_images(ReidFolderData(root=str(root), camera_pattern=pattern))
    with pytest.raises(DataError, match=r"20 of 40 images have no camera"):
        list_images(ReidFolderData(root=str(root), camera_pattern="c(1)"))
    with pytest.raises(DataError, match=r"20 of 40 images have no camera"):
        list_images(ReidFolderData(root=str(root), camera_pattern="c(1?)"))
    (root / "cameras.csv").write_text("image,camera\n")
    with pytest.raises(DataError, match=r"data.camera_pattern and cameras.csv both tell cameras; remove one"):
        list_images(ReidFolderData(root=str(root), camera_pattern="c(.)"))
    market = write_named(tmp_path / "market", MARKET)
    with pytest.raises(DataError, match=r"data.camera_pattern is not read where images.csv or names tell cameras"):
        list_images(ReidFolderData(root=str(market), camera_pattern="c(.)"))


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({"train/a": ["1.jpg"], "query/b": ["1.jpg"]}, r"holds query, train and not all of a layout, which is one of"),
        ({"train/a": ["1.jpg"], "test/a": ["1.jpg"]}, r"holds test, train and not all of a layout"),
        ({"query": ["0001_c1_1.jpg"], "bounding_box_test": ["0001_c2_1.jpg"]}, r"holds bounding_box_test, query and"),
        ({"": ["0001_c1_1.jpg"]}, r"holds no folders of images; its layout must be one of: names like 0002_c1s1"),
        (
            {"a": ["1.jpg", "2.jpg"], "b": ["1.jpg", "2.jpg"]},
            r"train has 2 identities, .* data.test_share, or give a test split",
        ),
    ],
)
def test_an_unknown_layout_is_told(tmp_path: Path, folders: Mapping[str, Sequence[str]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        list_images(ReidFolderData(root=str(write_named(tmp_path, folders))))


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.root .*absent is not a folder"):
        list_images(ReidFolderData(root=str(tmp_path / "absent")))
