"""Each layout of a folder of images, as people have them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from attnsearch.config.data import FolderData
from attnsearch.data.folder import list_images
from attnsearch.data.layouts import find_in_folder
from attnsearch.data.tables import DataTables, build_from_listing
from attnsearch.errors import DataError

MakeTree = Callable[..., Path]


def tables(root: Path, **settings: object) -> DataTables:
    cfg = FolderData(root=str(root), **settings)  # type: ignore[arg-type]
    return build_from_listing(list_images(cfg), cfg)


def notes(root: Path) -> dict[str, str]:
    return {problem.kind: problem.message for problem in list_images(FolderData(root=str(root))).problems}


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev", "Valid", "VAL"])
def test_validation_has_many_names_in_any_case(make_tree: MakeTree, name: str) -> None:
    root = make_tree({"Train/a": 5, "TRAIN_IS_ANOTHER/a": 1, "Train/b": 5, f"{name}/a": 2, f"{name}/b": 3, "Test/a": 1})
    (root / "Test/b").mkdir()
    found = find_in_folder(root)
    assert Counter(image.split for image in found.images) == {"train": 10, "val": 5, "test": 1}
    assert found.is_split


@pytest.mark.parametrize(("one", "other", "kind"), [("dev", "val", "validation"), ("Train", "train", "train")])
def test_two_folders_of_one_split_are_refused(make_tree: MakeTree, one: str, other: str, kind: str) -> None:
    root = make_tree({"train/a": 1, f"{one}/b": 1, f"{other}/c": 1})
    with pytest.raises(DataError, match=f"{one} and .*{other} are both {kind} splits; keep one of them"):
        tables(root)


def test_a_pair_beside_each_other_may_have_capitals(make_tree: MakeTree, tmp_path: Path) -> None:
    make_tree({"b_Train/x": 4, "b_Train/y": 4, "b_Test/x": 1, "b_Test/y": 1}, root="data")
    assert len(tables(tmp_path / "data" / "b").of("test")) == 2


def test_a_folder_of_classes_is_split_by_class(make_tree: MakeTree) -> None:
    root = make_tree({"hat": 20, "shoe": 10, "masks": 10})
    found = tables(root)
    assert found.class_names == ("hat", "masks", "shoe")  # a class like any other, as it holds no masks
    assert not found.is_split
    counts = {table.split: Counter(table.labels.tolist()) for table in found.present()}
    assert counts == {"train": {0: 14, 1: 7, 2: 7}, "val": {0: 2, 1: 1, 2: 1}, "test": {0: 4, 1: 2, 2: 2}}
    assert "split 70/10/20 into train, val and test by a hash of data.split_seed 1" in notes(root)["split"]


def test_the_split_of_a_folder_of_classes_depends_on_names_and_seed_alone(make_tree: MakeTree) -> None:
    one, two = make_tree({"a": 20, "b": 20}, root="one"), make_tree({"b": 20, "a": 20}, root="two")
    assert tables(one).of("test").image_ids == tables(two).of("test").image_ids
    assert tables(one, split_seed=2).of("test").image_ids != tables(one).of("test").image_ids


def test_near_duplicates_in_a_folder_of_classes_stay_on_one_side(make_tree: MakeTree) -> None:
    root = make_tree({"a": 12, "b": 12})
    for path in list((root / "a").iterdir()):
        path.with_name(f"copy of {path.name}").write_bytes(path.read_bytes())
    for seed in range(4):
        for table in tables(root, split_seed=seed).present():
            of_split = {Path(name).name for name in table.image_ids if name.startswith("a/")}
            assert {f"copy of {name}" for name in of_split if not name.startswith("copy")} <= of_split


def test_the_split_is_kept_as_a_list_that_reads_the_same(make_tree: MakeTree, tmp_path: Path) -> None:
    root = make_tree({"a": 10, "b": 10})
    found = tables(root)
    found.write_split(tmp_path)
    lines = (tmp_path / "split.csv").read_text().splitlines()
    assert lines[0] == "filename,label,split"
    assert sorted(lines[1:]) == sorted(
        f"{image_id},{image_id[0]},{table.split}" for table in found.present() for image_id in table.image_ids
    )
    again = tmp_path / "again"
    again.mkdir()
    root.rename(again / "images")
    (tmp_path / "split.csv").rename(again / "labels.csv")
    assert [len(table) for table in tables(again).present()] == [len(table) for table in found.present()]
    assert tables(again).is_split


def test_a_data_set_with_splits_keeps_no_list(make_tree: MakeTree, tmp_path: Path) -> None:
    tables(make_tree({"train/a": 3, "train/b": 3})).write_split(tmp_path)
    assert not (tmp_path / "split.csv").exists()


def write_list(root: Path, *lines: str) -> None:
    (root / "labels.csv").write_text("\n".join(lines))


def test_a_list_of_labels_names_splits_in_any_case(make_tree: MakeTree) -> None:
    root = make_tree({"images": 4, "images/deep": 2})
    rows = ("0.jpg,hat,Train", "1.jpg,shoe,train", "2.jpg,hat,Valid", "3.jpg,shoe,dev", "deep/0.jpg,hat,TEST")
    write_list(root, "filename,label,split", *rows, "deep/1.jpg,shoe,test")
    found = tables(root)
    assert [table.image_ids for table in found.present()] == [
        ("images/0.jpg", "images/1.jpg"),
        ("images/2.jpg", "images/3.jpg"),
        ("images/deep/0.jpg", "images/deep/1.jpg"),
    ]
    assert found.is_split


def test_a_list_of_labels_alone_is_split(make_tree: MakeTree) -> None:
    root = make_tree({"images": 20})
    write_list(root, "filename,label", *(f"{n}.jpg,{'ab'[n % 2]}" for n in range(20)))
    assert [len(table) for table in tables(root).present()] == [14, 2, 4]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0.jpg,,train", r"labels.csv:2: needs a filename and a label, got '0.jpg' and ''"),
        ("0.jpg,a,tset", r"labels.csv:2: split must be one of train, .*, got 'tset'"),
        ("../0.jpg,a,train", r"stays in it, got '../0.jpg'"),
        ("9.jpg,a,train", r"1 of 1 listed files do not exist"),
        ("0.jpg,a,train\n0.jpg,b,train", r"labels.csv lists 1 image twice"),
    ],
)
def test_what_is_wrong_with_a_list_is_told(make_tree: MakeTree, line: str, message: str) -> None:
    root = make_tree({"images": 1})
    write_list(root, "filename,label,split", line)
    with pytest.raises(DataError, match=message):
        tables(root)


def test_sub_folders_of_classes_are_counted(make_tree: MakeTree) -> None:
    root = make_tree({"train/a/north": 1, "train/a/south": 2, "train/b": 2, "val/a": 1, "val/b": 1})
    assert "class a: 2 sub-folders as one" in notes(root)["nested"]
    assert "class b" not in notes(root)["nested"]


def test_classes_that_differ_in_case_only_are_told_apart(make_tree: MakeTree) -> None:
    root = make_tree({"train/Hat": 2, "train/shoe": 2, "test/hat": 1, "test/shoe": 1})
    assert notes(root)["case"].endswith(
        "names of classes differ in case only; rename those that are one class: Hat and hat"
    )
    with pytest.raises(DataError, match="only in train: Hat; only in test: hat"):
        tables(root)


def test_a_folder_of_data_sets_is_none(make_tree: MakeTree) -> None:
    root = make_tree({"one/train/a": 1, "two/train/a": 1})
    with pytest.raises(DataError, match=r"holds data sets and is none itself; write one of them, such as .*/one"):
        tables(root)
