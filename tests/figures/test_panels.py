"""Sheets of panels: sizes, text, and one figure used again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnsearch.figures.grid import Grid, Panel, PanelRow, Style
from attnsearch.figures.panels import Sheets

STYLE = Style(dpi=100, width_in=1.0)


def plain(colour: tuple[int, int, int], height: int = 100, **text: str) -> Panel:
    return Panel(np.full((height, 100, 3), colour, dtype=np.uint8), **text)


def drawn(grid: Grid, path: Path, sheets: Sheets | None = None) -> np.ndarray:
    (sheets or Sheets(STYLE)).save(grid, path)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_panels_keep_their_colours_and_order(tmp_path: Path) -> None:
    pixels = drawn(Grid([PanelRow([plain((250, 0, 0)), plain((0, 0, 250))])]), tmp_path / "a.png")
    middle = pixels[pixels.shape[0] // 2]
    assert middle[50].tolist() == [250, 0, 0]
    assert middle[-50].tolist() == [0, 0, 250]


def test_rows_are_as_high_as_their_pictures(tmp_path: Path) -> None:
    pixels = drawn(Grid([PanelRow([plain((250, 0, 0), 200)]), PanelRow([plain((0, 0, 250), 50)])]), tmp_path / "a.png")
    column = pixels[:, pixels.shape[1] // 2]
    assert (column == [250, 0, 0]).all(axis=1).sum() == pytest.approx(200, abs=2)
    assert (column == [0, 0, 250]).all(axis=1).sum() == pytest.approx(50, abs=2)


def test_nothing_of_a_sheet_is_left_on_the_next(tmp_path: Path) -> None:
    sheets = Sheets(STYLE)
    small = Grid([PanelRow([plain((9, 9, 9))])])
    first = drawn(small, tmp_path / "a.png", sheets)
    rows = [PanelRow([plain((0, 99, 0), note="✗ x", title="t")] * 3, label="label")] * 2
    drawn(Grid(rows, columns="abc", legend=[("red", "r")], scale=("jet", "low", "high")), tmp_path / "b.png", sheets)
    assert (drawn(small, tmp_path / "c.png", sheets) == first).all()


@pytest.mark.parametrize("kind", ["pdf", "svg"])
def test_text_stays_text(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    Sheets(Style(format=kind)).save(Grid([PanelRow([plain((9, 9, 9))])], columns=["Albatross"]), path)
    assert (b"Albatross" in path.read_bytes()) == (kind == "svg")
    assert (b"/FontFile2" in path.read_bytes()) == (kind == "pdf")


def test_same_sheet_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Sheets(Style(format="pdf")).save(Grid([PanelRow([plain((9, 9, 9))])]), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_long_column_names_are_tilted_and_whole(tmp_path: Path) -> None:
    name = "a study with a name that is far wider than its column"
    path = tmp_path / "a.svg"
    Sheets(Style(width_in=1, format="svg")).save(Grid([PanelRow([plain((9, 9, 9))])], columns=[name]), path)
    assert name in path.read_text()


def test_empty_sheet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        Sheets().save(Grid([]), tmp_path / "a.png")


def test_dollars_in_names_are_no_mathematics(tmp_path: Path) -> None:
    name = r"x_$^{_$.jpg"
    panel = plain((9, 9, 9), title=name, note=name)
    grid = Grid([PanelRow([panel], label=name, header=name)], columns=[name], caption=name)
    Sheets(Style(format="svg", width_in=2.0)).save(grid, tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text().count(f">{name}<") == 6
