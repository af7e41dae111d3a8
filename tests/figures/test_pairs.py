"""Figures of two images: what matched what, by pixels and texts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnsearch.figures.grid import Grid, Style, measure
from attnsearch.figures.kinds import DrawStyle, ImageMaps
from attnsearch.figures.pairs import COLOURS, Match, draw_pair, strongest_pairs
from attnsearch.figures.panels import Sheets

GREY = 100
CELLS = DrawStyle(rule="cells")
H, W = 8, 4


def planted(*pairs: tuple[int, int, float]) -> np.ndarray:
    """(P, R) for two grids of 8 x 4 cells."""
    matrix = np.full((H * W, H * W), -0.001, dtype=np.float32)
    for one, other, value in pairs:
        matrix[one, other] = value
    return matrix


PAIRS = planted((5, 30, 0.3), (5, 29, 0.2), (9, 30, 0.2), (9, 2, 0.1))


def explanation(cosine: float = 0.5, true: str | None = "0005") -> ImageMaps:
    return ImageMaps(
        image_id="query/a.jpg",
        class_names=(),
        predicted=None,
        probabilities=np.zeros(0, dtype=np.float32),
        size_hw=(128, 64),
        crop_box=np.array([0.0, 0.0, 64.0, 128.0]),
        maps={},
        saliency=None,
        target="similarity to b.jpg",
        true=true,
        cosine=cosine,
    )


def match(pairs: np.ndarray | None = PAIRS, *, height: int = 128, true: str | None = "0005") -> Match:
    matrix = PAIRS if pairs is None else pairs
    return Match(
        image_id="gallery/b.jpg",
        source=Path("b.jpg"),
        true=true,
        size_hw=(height, 64),
        crop_box=np.array([0.0, 0.0, 64.0, height]),
        own_map=matrix.sum(axis=1).reshape(H, W),
        map=matrix.sum(axis=0).reshape(H, W),
        pairs=None if pairs is None else pairs.reshape(H, W, H, W),
        method="gradient_rollout" if pairs is None else "pair",
    )


def figure(one: Match, *, style: DrawStyle = CELLS, explained: ImageMaps | None = None) -> Grid:
    images = [np.full((height, 64, 3), GREY, dtype=np.uint8) for height in (128, one.size_hw[0])]
    return draw_pair(explained or explanation(), one, (images[0], images[1]), style)


def test_each_cell_is_in_one_pair_at_most() -> None:
    assert [pair[:2] for pair in strongest_pairs(PAIRS)] == [(5, 30), (9, 2)]
    assert [pair[2] for pair in strongest_pairs(PAIRS)] == pytest.approx([0.3, 0.1])
    assert strongest_pairs(PAIRS, 1) == strongest_pairs(PAIRS)[:1]
    assert strongest_pairs(np.full((3, 2), -1.0, dtype=np.float32)) == []


def test_a_figure_says_cosine_identities_and_which_map_it_is() -> None:
    grid = figure(match())
    (row,) = grid.rows
    assert row.header == "cosine 0.500, ✓ same identity"
    assert [panel.title for panel in row.panels] == ["a.jpg", *["what each cell adds to the cosine"] * 2, "b.jpg"]
    assert [panel.note for panel in row.panels] == ["identity 0005", "", "", "identity 0005"]
    assert figure(match(true="0007")).rows[0].header == "cosine 0.500, ✗ other identity"
    assert figure(match(true=None)).rows[0].header == "cosine 0.500"
    assert "add up to the cosine" in grid.caption


def test_marks_lie_on_their_cells_and_are_linked() -> None:
    grid = figure(match())
    (row,) = grid.rows
    first, second = row.panels[1].marks, row.panels[2].marks
    assert [mark.box for mark in first] == [(16, 16, 32, 32), (16, 32, 32, 48)]  # cells 5 and 9 of 16 px
    assert [mark.box for mark in second] == [(32, 112, 48, 128), (32, 0, 48, 16)]  # cells 30 and 2
    assert [mark.text for mark in first] == [mark.text for mark in second] == ["1", "2"]
    assert row.links == [((1, 0), (2, 0)), ((1, 1), (2, 1))]
    assert grid.legend == [(COLOURS[0], "pair 1 adds 0.3"), (COLOURS[1], "pair 2 adds 0.1")]


def test_maps_have_one_scale_that_begins_at_nothing() -> None:
    grid = figure(match())
    panels = grid.rows[0].panels
    highest = float(PAIRS.sum(axis=0).max())  # of cell 30, which two cells match
    assert grid.scale == ("inferno", "0 or less", f"{highest:.3g} of the cosine")
    assert panels[2].pixels[120, 40, 0] > 200
    assert panels[1].pixels[24, 24].tolist() != panels[2].pixels[120, 40].tolist()
    assert panels[1].pixels[8, 8].tolist() == [GREY] * 3  # what lowers the cosine stays clear
    own = figure(match(), style=replace(CELLS, own_scale=True))
    assert own.rows[0].panels[1].pixels[24, 24].tolist() == panels[2].pixels[120, 40].tolist()


def test_occlusion_on_larger_cells_keeps_the_pairs_of_small_ones() -> None:
    halved = np.arange(H * W / 4, dtype=np.float32).reshape(H // 2, W // 2)
    occluded = replace(match(), method="occlusion", own_map=halved, map=halved)
    grid, exact = figure(occluded), figure(match())
    assert [panel.title for panel in grid.rows[0].panels[1:3]] == ["what the cosine loses without each cell"] * 2
    assert grid.scale == ("inferno", "0 or less", "7 of the cosine")
    for side in (1, 2):
        assert grid.rows[0].panels[side].marks == exact.rows[0].panels[side].marks
    assert "mean colour" in grid.caption
    assert "each cell once" in grid.caption


def test_a_rollout_joins_no_cells() -> None:
    grid = figure(match(None))
    (row,) = grid.rows
    assert (row.links, grid.legend) == ([], [])
    assert row.panels[1].title == "gradient rollout of the cosine"
    assert not row.panels[1].marks
    assert "each cell once" not in grid.caption
    assert grid.scale == ("inferno", "0", "most salient, scaled per panel")


def test_images_of_other_formats_stand_in_the_middle_with_their_marks() -> None:
    (row,) = figure(match(height=96)).rows
    assert {panel.pixels.shape for panel in row.panels} == {(128, 64, 3)}
    assert row.panels[3].pixels[[0, 15, 16, 111, 112], 5, 0].tolist() == [255, 255, GREY, GREY, 255]
    assert row.panels[2].marks[0].box == (32, 16 + 84, 48, 16 + 96)


def test_cells_of_padding_are_not_marked() -> None:
    """The model saw twice the width of both images: columns 2 and 3 of the maps are padding."""
    padded = np.array([0.0, 0.0, 128.0, 128.0])
    pairs = planted((2, 30, 0.9), (5, 31, 0.8), (5, 29, 0.3))
    one = replace(match(pairs), crop_box=padded)
    (row,) = figure(one, explained=replace(explanation(), crop_box=padded)).rows
    assert [mark.box for mark in row.panels[1].marks] == [(32, 16, 64, 32)]  # cell 5, of 32 x 16 px
    assert [mark.box for mark in row.panels[2].marks] == [(32, 112, 64, 128)]  # cell 29


def test_numbers_are_drawn_on_their_cells(tmp_path: Path) -> None:
    grid, style = figure(match()), Style(dpi=100, width_in=1.28)
    Sheets(style).save(grid, tmp_path / "a.png")
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    extent = measure(grid, 1.28)
    rgb = [int(COLOURS[0][start : start + 2], 16) for start in (1, 3, 5)]
    for panel, (x, y) in ((1, (24, 24)), (2, (40, 120))):  # middle of the cell, in pixels of an image of half the size
        left, top = extent.lefts[panel] * 100 + 2 * x, extent.row_tops[0] * 100 + 2 * y
        around = pixels[round(top) - 8 : round(top) + 9, round(left) - 8 : round(left) + 9]
        assert (np.abs(around - rgb).sum(axis=2) < 12).sum() > 60  # the disc of the number


def test_text_stays_text(tmp_path: Path) -> None:
    Sheets(Style(format="svg")).save(figure(match()), tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    for words in ("cosine 0.500, ✓ same identity", "pair 1 adds 0.3", "what each cell adds to the cosine"):
        assert words in text


def test_nothing_of_a_pair_is_left_on_the_next_sheet(tmp_path: Path) -> None:
    sheets = Sheets(Style(dpi=60))
    sheets.save(figure(match(None)), tmp_path / "a.png")
    sheets.save(figure(match()), tmp_path / "b.png")
    sheets.save(figure(match(None)), tmp_path / "c.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "c.png").read_bytes()
