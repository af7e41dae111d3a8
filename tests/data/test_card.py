"""The numbers of a data card, in 80 columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from attnsearch.config.data import FolderData
from attnsearch.data.card import DataCard
from attnsearch.data.check import check_data

MakeTree = Callable[..., Path]


def card_of(root: Path, **settings: object) -> DataCard:
    card = check_data(FolderData(root=str(root), **settings)).card  # type: ignore[arg-type]
    assert card is not None
    return card


def test_a_card_counts_images_classes_and_sides(make_tree: MakeTree) -> None:
    root = make_tree({"train/a": 6, "train/b": 2, "valid/a": 2, "valid/b": 2}, size_hw=(140, 300))
    assert card_of(root, image_size_px=150).lines() == [
        "             images  classes  smallest  largest  shorter side",
        "train             8        2  b 2       a 6      140 px",
        "validation        4        2  b 2       a 2      140 px",
        "balance      3.0 : 1 in train; always a = 0.75",
        "not used     0 files",
        "enlarged     all at 224 px, all at 150 px, none at 128 px",
        "same photo   none",
    ]


def test_long_names_of_classes_stay_whole_in_80_columns(make_tree: MakeTree) -> None:
    names = ["a" * 40, "b" * 40]
    lines = card_of(make_tree({f"train/{name}": 4 for name in names})).lines()
    assert all(len(line) <= 80 for line in lines)
    assert all(any(name in line for line in lines) for name in names)


def test_what_is_not_used_is_counted_by_its_ending_and_folder(make_tree: MakeTree) -> None:
    root = make_tree({"train/a": 3, "train/b": 3, "val/a": 2, "val/b": 2, "extra/a": 5})
    for name in ("train/a/1.HEIC", "train/a/2.heic", "val/b/film.mp4", "val/b/x.gif", "train/notes.txt", ".hidden"):
        (root / name).touch()
    (root / "masks/train/a").mkdir(parents=True)
    (root / "masks/train/a/0.png").touch()
    card = card_of(root)
    assert card.unused == {".heic": 2, ".mp4": 1, ".gif": 1, ".txt": 1, "extra/": 5}
    assert "not used     10 files: 5 extra/, 2 .heic, 1 " in "\n".join(card.lines())


def test_a_small_validation_split_is_warned_of(make_tree: MakeTree) -> None:
    root = make_tree({"train/a": 3, "train/b": 3, "val/a": 8, "val/b": 8})
    (note,) = [problem for problem in card_of(root).problems() if problem.kind == "few_images"]
    assert note.message.startswith("validation has 16 images: one image is 6 points of accuracy")
    assert not note.is_error


def test_a_card_as_plain_values_names_everything_that_is_counted(make_tree: MakeTree) -> None:
    root = make_tree({"train/a": 3, "train/b": 2, "val/a": 2, "val/b": 2})
    (root / "val/b/9.jpg").write_bytes((root / "train/a/0.jpg").read_bytes())
    values = card_of(root).values()
    assert values["splits"]["train"] == {
        **{"n_images": 5, "n_classes": 2, "classes": {"a": 3, "b": 2}, "shorter_side_px": [12, 12]}
    }
    assert values["enlarged"] == {"224": 10, "128": 10}
    assert values["same_photo"] == [{"images": ["train/a/0.jpg", "val/b/9.jpg"], "place": "in two classes"}]
    assert values["look"] == []


def test_a_card_of_nothing_unusual_has_no_problem(make_tree: MakeTree) -> None:
    card = card_of(make_tree({"train/a": 3, "train/b": 2, "val/a": 2, "val/b": 2}))
    many = replace(card.splits[1], classes={"a": 100})
    assert replace(card, splits=(card.splits[0], many)).problems() == []
