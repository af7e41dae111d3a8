"""Ranked galleries as figures: places by pixels, texts and colours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnsearch.figures.grid import RIGHT, WRONG, Frame, Grid, Panel, Style, measure
from attnsearch.figures.kinds import DrawStyle, FigureContext, ImageMaps
from attnsearch.figures.panels import Sheets
from attnsearch.figures.rankings import Rankings
from attnsearch.figures.ranks import REMOVED, RankFigure, rank_list
from attnsearch.types import MatchRule
from tests.matches import GALLERY, N_QUERIES, ranked_split

GREY = 100
CELLS = DrawStyle(rule="cells")


def hot(row: int, column: int, height: float = 1.0) -> np.ndarray:
    one = np.zeros((8, 4), dtype=np.float32)
    one[row, column] = height
    return one


def context(saliency: np.ndarray | None, *, height: int = 128, style: DrawStyle = CELLS) -> FigureContext:
    """A grey image of a person's format."""
    maps = ImageMaps(
        image_id="",
        class_names=(),
        predicted="",
        probabilities=np.zeros(0, dtype=np.float32),
        size_hw=(height, 64),
        crop_box=np.array([0.0, 0.0, 64.0, height]),
        maps={},
        saliency=saliency,
        target="",
    )
    return FigureContext(maps, np.full((height, 64, 3), GREY, dtype=np.uint8), style)


def figure(
    *, with_removed: bool = False, style: DrawStyle = CELLS, rule: MatchRule = "camera", maps: bool = True
) -> RankFigure:
    """The list of the first query; its own map is twice as strong as those of the gallery."""
    rankings = Rankings(ranked_split(rule))
    contexts = {
        row: context(hot(row % 8, row % 4, 2.0 if row < N_QUERIES else 1.0) if maps else None, style=style)
        for row in range(N_QUERIES + len(GALLERY))
    }
    return RankFigure([rank_list(rankings, 0, with_removed=with_removed)], rankings, contexts, style)


def texts(panel: Panel) -> tuple[str, ...]:
    return panel.note, *panel.details


def test_each_image_says_rank_cosine_identity_and_camera() -> None:
    upper, lower = figure().grid().rows
    assert upper.header == "0.jpg: AP 0.417, first match at rank 2"
    assert texts(lower.panels[0]) == ("query", "2 matches", "0005", "camera 1")
    assert texts(lower.panels[1]) == ("✗ rank 1", "cos 0.529", "distractor", "camera 2")
    assert texts(lower.panels[2]) == ("✓ rank 2", "cos 0.457", "0005", "camera 3")
    assert [panel.is_correct for panel in lower.panels] == [None, False, True, False, False, False, True]
    assert not any(panel.note or panel.details for panel in upper.panels)


def test_frames_are_green_red_and_dashed() -> None:
    grid = figure().grid()
    frames = [None, Frame(WRONG, is_dashed=True), Frame(RIGHT), *[Frame(WRONG)] * 3, Frame(RIGHT)]
    assert [[panel.frame for panel in row.panels] for row in grid.rows] == [frames, frames]
    assert [entry for entry, _ in grid.legend] == [Frame(RIGHT), Frame(WRONG), Frame(WRONG, is_dashed=True)]
    assert [name[0] for _, name in grid.legend] == ["✓", "✗", "✗"]


def test_removed_images_are_faded_and_have_no_rank() -> None:
    grid = figure(with_removed=True).grid()
    panel = grid.rows[1].panels[1]
    assert texts(panel) == ("– same camera", "cos 0.600", "0005", "camera 1")
    assert (panel.is_correct, panel.frame) == (None, Frame(REMOVED))
    assert np.ptp(panel.pixels, axis=2).max() == 0  # grey, the overlay too
    assert panel.pixels.min() > 255 * 0.6 - 1
    assert grid.legend[-1] == (Frame(REMOVED), "– same camera and identity: removed, no rank")


def test_without_cameras_the_group_removes() -> None:
    grid = figure(with_removed=True, rule="group").grid()
    assert texts(grid.rows[1].panels[1]) == ("– same group", "cos 0.600", "0005")


def test_saliency_lies_on_its_cell_under_one_scale() -> None:
    row = figure().grid().rows[1]
    weak = row.panels[2].pixels[4 * 16 + 8, 8]  # row 4 of the split: cell 4, 0 of 16 x 16 px
    assert row.panels[2].pixels[8, 8].tolist() == [GREY] * 3
    strong = row.panels[0].pixels[8, 8]
    assert strong[0] > 200 > weak[0] > GREY  # half of the scale, since the query's map is twice as strong
    own = figure(style=replace(CELLS, own_scale=True)).grid()
    np.testing.assert_array_equal(own.rows[1].panels[2].pixels[4 * 16 + 8, 8], strong)


def test_frames_stand_around_their_images(tmp_path: Path) -> None:
    grid, style = figure().grid(), Style(dpi=100, width_in=0.6)
    Sheets(style).save(grid, tmp_path / "a.png")
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    extent = measure(grid, 0.6)
    y = round((extent.row_tops[0] + extent.row_heights[0] / 2) * 100)
    assert extent.row_heights[0] == pytest.approx(1.2)
    for column, colour in ((2, RIGHT), (3, WRONG)):
        rgb = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
        for edge in (extent.lefts[column], extent.lefts[column] + 0.6):
            x = round(edge * 100)
            assert np.abs(pixels[y, x - 2 : x + 3] - rgb).sum(axis=1).min() < 12
        assert pixels[y, round((extent.lefts[column] + 0.3) * 100)].tolist() == [GREY] * 3
    assert extent.lefts[1] - extent.lefts[0] > extent.lefts[2] - extent.lefts[1] + 0.1  # the gap behind the query


def test_without_maps_there_is_one_row() -> None:
    grid = figure(maps=False).grid("chosen")
    assert len(grid.rows) == 1
    assert texts(grid.rows[0].panels[2])[0] == "✓ rank 2"
    assert (grid.scale, grid.caption) == (None, "chosen")


def test_one_list_without_a_map_leaves_those_of_the_others() -> None:
    rankings = Rankings(ranked_split("camera"))
    lists = [rank_list(rankings, query, n_shown=2) for query in range(2)]
    rows = {row for one in lists for row in one.rows}
    bare = next(row for row in lists[0].rows if row not in lists[1].rows and row >= N_QUERIES)
    images = {row: context(None if row == bare else hot(0, 0)) for row in rows}
    grid = RankFigure(lists, rankings, images, CELLS).grid()
    assert [bool(row.header) for row in grid.rows] == [True, True, False]  # images; then images and overlays
    assert grid.scale is not None


def test_lower_images_stand_in_the_middle() -> None:
    one = figure()
    images = {**one.images, 3: context(hot(0, 0), height=96)}
    panels = replace(one, images=images).grid().rows[0].panels
    assert {panel.pixels.shape for panel in panels} == {(128, 64, 3)}
    assert panels[1].pixels[[0, 15, 16, 111, 112, 127], 5, 0].tolist() == [255, 255, GREY, GREY, 255, 255]


def test_text_stays_text(tmp_path: Path) -> None:
    Sheets(Style(format="svg")).save(figure(with_removed=True).grid("4 queries, seed 3"), tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    header = "0.jpg: AP 0.417, first match at rank 2"
    for words in (header, "✓ rank 2", "✗ rank 1", "– same camera", "4 queries, seed 3"):
        assert words in text


def test_a_query_without_a_match() -> None:
    one, retrieval = figure(), ranked_split()
    labels = np.where(retrieval.labels == retrieval.labels[0], retrieval.labels[1], retrieval.labels)
    labels[0] = retrieval.labels[0]
    alone = replace(retrieval, labels=labels, average_precision=np.array([np.nan, 1.0]))
    grid = replace(one, rankings=Rankings(alone)).grid()
    assert grid.rows[0].header == "0.jpg: no match in the gallery"
    assert grid.rows[1].panels[0].details[0] == "0 matches"


def test_lists_are_as_long_as_asked_for() -> None:
    rankings = Rankings(ranked_split())
    assert [image.rank for image in rank_list(rankings, 0).images] == [1, 2, 3, 4, 5, 6]
    assert [image.rank for image in rank_list(rankings, 0, n_shown=3, with_removed=True).images] == [None, 1, 2]
    assert rank_list(rankings, 0, n_shown=1).rows == (0, 3)


def test_several_queries_have_their_headers() -> None:
    one = figure()
    grid: Grid = replace(one, lists=[one.lists[0], rank_list(one.rankings, 1)]).grid()
    assert [row.header[:6] for row in grid.rows] == ["0.jpg:", "", "1.jpg:", ""]
    tops = measure(grid, 0.6).row_tops
    assert tops[2] - tops[1] > tops[1] - tops[0]
