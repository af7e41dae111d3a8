"""The page of a data card holds all that it shows."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from attnsearch.config.data import FolderData
from attnsearch.data.card_page import MAX_PER_CLASS, render_card, write_card_page
from attnsearch.data.check import check_data

MakeTree = Callable[..., Path]


def page_of(root: Path) -> str:
    found = check_data(FolderData(root=str(root)))
    assert found.card is not None
    return render_card(found.card, found.problems)


def test_a_page_shows_some_images_of_each_class_and_loads_nothing(make_tree: MakeTree) -> None:
    page = page_of(make_tree({"train/a": MAX_PER_CLASS + 5, "train/b": 4, "val/a": 2, "val/b": 2}))
    assert page.count("data:image/jpeg;base64,") == MAX_PER_CLASS + 6
    assert not re.findall(r"(?:src|href)=\"(?!data:image/jpeg)", page)
    assert "prefers-color-scheme: dark" in page


def test_a_page_shows_the_images_of_one_photograph_and_the_errors(make_tree: MakeTree) -> None:
    root = make_tree({"train/a": 3, "train/b": 3, "val/a": 2, "val/b": 2})
    (root / "val/b/9.jpg").write_bytes((root / "train/a/0.jpg").read_bytes())
    page = page_of(root)
    assert "in two classes" in page
    assert page.count("<figcaption>") == 2
    assert "<strong>Error.</strong>" in page


def test_names_are_escaped(make_tree: MakeTree) -> None:
    page = page_of(make_tree({"train/<b>x": 3, "train/y": 3}))
    assert "<b>x" not in page
    assert "&lt;b&gt;x" in page


def test_an_image_that_is_gone_leaves_a_gap(make_tree: MakeTree, tmp_path: Path) -> None:
    root = make_tree({"train/a": 3, "train/b": 3})
    found = check_data(FolderData(root=str(root)))
    assert found.card is not None
    (root / "train/a/0.jpg").unlink()
    write_card_page(found.card, found.problems, tmp_path / "card.html")
    assert (tmp_path / "card.html").read_text().count("data:image/jpeg;base64,") == 5
