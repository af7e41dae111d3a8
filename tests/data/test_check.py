"""What is found in a data set by opening all of its images."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnsearch.config.data import FolderData, ReidFolderData, SyntheticData
from attnsearch.data import build_tables
from attnsearch.data.check import check_data, data_errors
from attnsearch.errors import DataError
from tests.data.conftest import write_image


def problems_of(root: Path, **settings: object) -> list[tuple[str, str, bool]]:
    values = {"image_size_px": 16, "crop_ratio": 1.0, **settings}
    problems = check_data(FolderData(root=str(root), **values)).problems  # type: ignore[arg-type]
    return [(one.kind, one.where, one.is_error) for one in problems if one.kind != "few_images"]


def test_a_sound_data_set_has_no_problems(make_tree: Callable[..., Path]) -> None:
    assert problems_of(make_tree({"train/a": 4, "train/b": 4}, size_hw=(16, 16))) == []


def test_every_kind_of_problem_is_found_in_one_pass(make_tree: Callable[..., Path]) -> None:
    counts = {"train/a": 3, "train/b": 2, "train/c": 1, "train/empty": 0, "test/a": 1, "test/b": 1, "test/empty": 1}
    root = make_tree(counts, size_hw=(16, 20))
    (root / "train/a/0.jpg").write_text("text")
    whole = (root / "train/a/1.jpg").read_bytes()
    (root / "train/a/1.jpg").write_bytes(whole[: len(whole) // 2])
    shutil.copy(root / "train/b/0.jpg", root / "test/b/7.jpg")
    assert problems_of(root) == [
        ("class_in_one_split", str(root), True),
        ("empty_class", str(root / "train/empty"), True),
        ("unreadable", "train/a/0.jpg", True),
        ("unreadable", "train/a/1.jpg", True),
        ("duplicate", "test/b/7.jpg", True),
    ]


def copy_of(source: Path, target: Path) -> None:
    """Writes nearly the same image."""
    Image.open(source).save(target, quality=90)


def test_a_copy_is_not_held_out_of_train_without_its_original(make_tree: Callable[..., Path]) -> None:
    root = make_tree({"train/a": 12, "train/b": 12}, size_hw=(16, 16))
    for index in range(4):
        copy_of(root / f"train/a/{index}.jpg", root / f"train/a/copy {index}.jpg")
    for seed in range(5):
        ((kind, where, is_error),) = problems_of(root, val_share=0.3, split_seed=seed)[:1]
        assert (kind, is_error) == ("duplicate", False)
        tables = build_tables(FolderData(root=str(root), image_size_px=16, val_share=0.3, split_seed=seed))
        held = {name.replace("copy ", "") for name in tables.val.image_ids}
        assert not held & {name.replace("copy ", "") for name in tables.train.image_ids}
        assert where.startswith("train/a/copy")


def test_copies_are_grouped_by_what_they_spoil(make_tree: Callable[..., Path]) -> None:
    root = make_tree({f"{split}/{name}": 3 for split in ("train", "val", "test") for name in "ab"}, size_hw=(16, 16))
    copy_of(root / "train/a/0.jpg", root / "test/b/9.jpg")
    copy_of(root / "train/a/1.jpg", root / "test/a/8.jpg")
    copy_of(root / "train/a/1.jpg", root / "val/a/8.jpg")
    copy_of(root / "val/a/1.jpg", root / "val/a/7.jpg")
    shutil.copy(root / "train/b/0.jpg", root / "val/b/6.jpg")
    cfg = FolderData(root=str(root), image_size_px=16, crop_ratio=1.0)
    in_classes, across, within, few = check_data(cfg).problems
    assert [in_classes.is_error, across.is_error, within.is_error] == [True, True, False]
    assert in_classes.message == (
        "1 photograph is there more than once, in two classes, so that a label is wrong; keep one of each:\n"
        "  train/a/0.jpg =\n    test/b/9.jpg"
    )
    assert across.message.startswith("2 photographs are there more than once, across splits, which makes scores too")
    assert "train/a/1.jpg =\n    val/a/8.jpg =\n    test/a/8.jpg" in across.message
    assert "train/b/0.jpg =\n    val/b/6.jpg" in across.message
    assert within.message.endswith("val/a/1.jpg =\n    val/a/7.jpg")
    assert few.kind == "few_images"


def test_images_of_one_colour_are_compared_by_their_bytes(make_tree: Callable[..., Path]) -> None:
    root = make_tree({"train/a": 3, "train/b": 3, "val/a": 2, "val/b": 2}, size_hw=(16, 16))
    for name in ("train/a/grey.png", "val/a/grey.png"):
        Image.new("RGB", (16, 16), "grey").save(root / name)
    Image.new("RGB", (16, 16), "red").save(root / "val/b/red.png")
    assert problems_of(root) == [("duplicate", "val/a/grey.png", True)]


@pytest.fixture
def with_copy(make_tree: Callable[..., Path]) -> FolderData:
    """Ten images, of which one of validation is a copy of one of training."""
    root = make_tree({"train/a": 3, "train/b": 3, "val/a": 2, "val/b": 2}, size_hw=(16, 16))
    copy_of(root / "train/a/0.jpg", root / "val/a/0.jpg")
    return FolderData(root=str(root), image_size_px=16, crop_ratio=1.0)


def test_errors_of_a_check_are_kept_until_a_file_changes(
    with_copy: FolderData, monkeypatch: pytest.MonkeyPatch
) -> None:
    (error,) = data_errors(with_copy, build_tables(with_copy))
    assert "across splits" in error
    monkeypatch.setattr("attnsearch.data.check.check_data", lambda _cfg: pytest.fail("computed again"))
    assert data_errors(with_copy, build_tables(with_copy)) == (error,)
    monkeypatch.undo()
    write_image(Path(with_copy.root) / "val/a/0.jpg", (20, 20))
    assert data_errors(with_copy, build_tables(with_copy)) == ()


def test_a_search_opens_no_more_images_than_it_may(with_copy: FolderData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnsearch.data.check.MAX_CHECKED", 9)
    assert data_errors(with_copy, build_tables(with_copy)) == ()
    monkeypatch.setattr("attnsearch.data.check.MAX_CHECKED", 10)
    assert len(data_errors(with_copy, build_tables(with_copy))) == 1


def test_synthetic_images_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnsearch.data.check.check_data", lambda _cfg: pytest.fail("compared"))
    cfg = SyntheticData(n_classes=2, n_train_per_class=2, n_val_per_class=1, n_test_per_class=1)
    assert data_errors(cfg, build_tables(cfg)) == ()


CLOTHING = Path(__file__).parents[3] / "shared/data/clothing-small"


def test_the_one_photograph_of_two_classes_among_thousands_is_found() -> None:
    root = Path(os.environ.get("ATTNSEARCH_CLOTHING", CLOTHING))
    if not root.is_dir():
        pytest.skip(
            f"no clothing-small at {root}: set ATTNSEARCH_CLOTHING to github.com/alexeygrigorev/clothing-dataset-small"
        )
    card = check_data(FolderData(root=str(root))).card
    assert card is not None
    (group,) = card.same
    assert [image.image_id[:21] for image in group.images] == ["train/shorts/6075b4a5", "train/skirt/637a56e4-"]
    assert group.place == "in two classes"


def test_a_class_of_copies_cannot_be_held_out(make_tree: Callable[..., Path]) -> None:
    root = make_tree({"train/a": 1, "train/b": 2}, size_hw=(16, 16))
    shutil.copy(root / "train/a/0.jpg", root / "train/a/1.jpg")
    assert ("layout", str(root), True) in problems_of(root, val_share=0.5)
    with pytest.raises(DataError, match="the 2 training images of class a show nearly the same"):
        build_tables(FolderData(root=str(root), image_size_px=16))


def test_a_missing_folder_is_one_problem(tmp_path: Path) -> None:
    assert [row[0] for row in problems_of(tmp_path / "none")] == ["layout"]


def test_a_class_that_cannot_be_split_is_a_problem(make_tree: Callable[..., Path]) -> None:
    assert [row[0] for row in problems_of(make_tree({"train/a": 1, "train/b": 2}, size_hw=(16, 16)))] == ["layout"]


def test_names_that_are_not_utf8_are_listed_readably_and_refused(make_tree: Callable[..., Path]) -> None:
    root = make_tree({"train/a": 2, "train/b": 2, "test/a": 1, "test/b": 1}, size_hw=(16, 16))
    wrong = Path(os.fsdecode(os.fsencode(root) + b"/train/a/caf\xe9.jpg"))
    (root / "train/a/0.jpg").rename(wrong)
    assert problems_of(root) == [("name", "train/a/caf\\xe9.jpg", True)]
    cfg = FolderData(root=str(root), image_size_px=16, crop_ratio=1.0)
    with pytest.raises(DataError, match=r"1 of 6 images have a name that is not UTF-8; .* train/a/caf\\xe9\.jpg$"):
        build_tables(cfg)
    wrong.rename(root / "train/a/café.jpg")
    assert problems_of(root) == []


def test_classes_whose_names_are_not_utf8_are_refused(make_tree: Callable[..., Path]) -> None:
    root = make_tree({"train/a": 2, "train/b": 2}, size_hw=(16, 16))
    (root / "train/a").rename(os.fsdecode(os.fsencode(root) + b"/train/\xff"))
    assert [row[:2] for row in problems_of(root)] == [("name", "train/\\xff/0.jpg")]


def write_persons(root: Path) -> ReidFolderData:
    """Noise, so that no two images are alike: a query each of two persons, of whom one has a match."""
    folders = {**{f"train/{who}": 4 for who in "abcdef"}, "query/x": 1, "query/y": 1, "gallery/x": 2, "gallery/z": 1}
    rng = np.random.default_rng(0)
    for folder, n_images in folders.items():
        (root / folder).mkdir(parents=True)
        for index in range(n_images):
            pixels = rng.integers(0, 256, (32, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / folder / f"c{index % 2 + (folder == 'gallery/x')}_{index}.png")
    return ReidFolderData(root=str(root), image_size_px=(32, 16), camera_pattern="c(.)_")


def test_identities_are_counted(tmp_path: Path) -> None:
    check = check_data(write_persons(tmp_path))
    assert check.problems == []
    assert check.identities is not None
    assert list(check.identities.parts) == ["train", "val", "query", "gallery"]
    assert check.identities.is_val_held_out
    assert check.identities.parts["train"].n_identities == 6  # with the two that are held out
    assert check.identities.parts["val"].n_identities == 2
    assert check.identities.counts() == {
        "queries without a match": 1,
        "near-duplicates in train or val": 0,
        "near-duplicates among matches": 0,
    }


def test_near_duplicates_of_training_images_and_of_queries_are_counted(tmp_path: Path) -> None:
    cfg = write_persons(tmp_path)
    for source, copy in (("train/a/c0_0.png", "gallery/z/c0_0.png"), ("query/x/c0_0.png", "gallery/x/c1_0.png")):
        with Image.open(tmp_path / source) as image:
            Image.fromarray(np.asarray(image) // 2 + 60).save(tmp_path / copy)  # less contrast
    check = check_data(cfg)
    (note,) = check.problems
    assert (note.kind, note.where, note.is_error) == ("near_duplicate", "gallery/z/c0_0.png", False)
    assert "(train/a/c0_0.png)" in note.message
    assert check.identities is not None
    assert (check.identities.n_near_train, check.identities.n_near_match) == (1, 1)


def test_a_near_duplicate_from_the_camera_of_the_query_is_no_match(tmp_path: Path) -> None:
    cfg = write_persons(tmp_path)
    shutil.copy(tmp_path / "query/x/c0_0.png", tmp_path / "gallery/x/c0_9.png")
    check = check_data(cfg)
    assert check.problems == []  # query and gallery are one split
    assert check.identities is not None
    assert check.identities.n_near_match == 0


def test_identities_of_broken_layouts_are_counted_too(tmp_path: Path) -> None:
    cfg = write_persons(tmp_path)
    shutil.rmtree(tmp_path / "query")
    (tmp_path / "query").mkdir()
    check = check_data(cfg)
    assert [problem.kind for problem in check.problems] == ["no_match"]
    assert check.identities is not None
    assert list(check.identities.parts) == ["train", "gallery"]
