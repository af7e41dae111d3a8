"""All problems of a data set at once."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from attnsearch.config.data import FolderData
from attnsearch.data.check import check_data
from attnsearch.data.tables import build_tables
from attnsearch.errors import DataError


def found(root: Path, **settings: object) -> list[tuple[str, str, bool]]:
    values = {"image_size_px": 16, "crop_ratio": 1.0, **settings}
    problems = check_data(FolderData(root=str(root), **values))  # type: ignore[arg-type]
    return [(problem.kind, problem.where, problem.is_error) for problem in problems]


def test_a_sound_data_set_has_no_problems(make_tree: Callable[..., Path]) -> None:
    assert found(make_tree({"train/a": 4, "train/b": 4}, size_hw=(16, 16))) == []


def test_every_kind_of_fault_is_found_in_one_pass(make_tree: Callable[..., Path]) -> None:
    counts = {"train/a": 3, "train/b": 2, "train/c": 1, "train/empty": 0, "test/a": 1, "test/b": 1, "test/empty": 1}
    root = make_tree(counts, size_hw=(16, 20))
    (root / "train/a/0.jpg").write_text("text")
    whole = (root / "train/a/1.jpg").read_bytes()
    (root / "train/a/1.jpg").write_bytes(whole[: len(whole) // 2])
    shutil.copy(root / "train/b/0.jpg", root / "test/b/7.jpg")
    assert found(root) == [
        ("class_in_one_split", str(root), True),
        ("empty_class", str(root / "train/empty"), True),
        ("unreadable", "train/a/0.jpg", True),
        ("unreadable", "train/a/1.jpg", True),
        ("duplicate", "train/b/0.jpg", True),
    ]


def test_pictures_smaller_than_the_crop_are_a_warning(make_tree: Callable[..., Path]) -> None:
    root = make_tree({"train/a": 1, "train/b": 1, "val/a": 1, "val/b": 1}, size_hw=(12, 40))
    ids = ["train/a/0.jpg", "train/b/0.jpg", "val/a/0.jpg", "val/b/0.jpg"]
    assert found(root) == [("small", image_id, False) for image_id in ids]
    assert found(root, image_size_px=16, crop_ratio=1.0)[0][1] == "train/a/0.jpg"


def test_a_held_out_copy_of_a_training_picture_is_a_duplicate(make_tree: Callable[..., Path]) -> None:
    root = make_tree({"train/a": 1, "train/b": 2}, size_hw=(16, 16))
    shutil.copy(root / "train/a/0.jpg", root / "train/a/1.jpg")
    assert found(root, val_share=0.5) == [("duplicate", "train/a/0.jpg", True)]


def test_a_missing_folder_is_one_problem(tmp_path: Path) -> None:
    assert [row[0] for row in found(tmp_path / "none")] == ["layout"]


def test_a_class_that_cannot_be_split_is_a_problem(make_tree: Callable[..., Path]) -> None:
    assert [row[0] for row in found(make_tree({"train/a": 1, "train/b": 2}, size_hw=(16, 16)))] == ["layout"]


def test_names_that_are_not_utf8_are_listed_readably_and_refused(make_tree: Callable[..., Path]) -> None:
    root = make_tree({"train/a": 2, "train/b": 2, "test/a": 1, "test/b": 1}, size_hw=(16, 16))
    wrong = Path(os.fsdecode(os.fsencode(root) + b"/train/a/caf\xe9.jpg"))
    (root / "train/a/0.jpg").rename(wrong)
    assert found(root) == [("name", "train/a/caf\\xe9.jpg", True)]
    cfg = FolderData(root=str(root), image_size_px=16, crop_ratio=1.0)
    with pytest.raises(DataError, match=r"1 of 6 images have a name that is not UTF-8; .*\n  train/a/caf\\xe9\.jpg$"):
        build_tables(cfg)
    wrong.rename(root / "train/a/café.jpg")
    assert found(root) == []


def test_classes_whose_names_are_not_utf8_are_refused(make_tree: Callable[..., Path]) -> None:
    root = make_tree({"train/a": 2, "train/b": 2}, size_hw=(16, 16))
    (root / "train/a").rename(os.fsdecode(os.fsencode(root) + b"/train/\xff"))
    assert [row[:2] for row in found(root)] == [("name", "train/\\xff/0.jpg")]
