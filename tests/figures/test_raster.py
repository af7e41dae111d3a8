"""Maps on the pixels of the original image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnsearch import geometry
from attnsearch.data.images import decode_resized
from attnsearch.errors import UsageError
from attnsearch.figures import raster
from attnsearch.figures.explanation import read_image
from attnsearch.figures.raster import outlines

with np.load(Path(__file__).parents[1] / "golden" / "intr_heatmap.npz") as stored:
    GOLDEN = dict(stored)
MAP_HW = (7, 7)
SIZES = {"landscape": (90, 150), "portrait": (160, 70), "square": (100, 100)}


def hot(row: int, column: int, map_hw: tuple[int, int] = MAP_HW) -> raster.Floats:
    one = np.zeros(map_hw, dtype=np.float32)
    one[row, column] = 1
    return one


@pytest.mark.parametrize("case", [name.split("/")[0] for name in GOLDEN if name.endswith("/attention")])
def test_levels_are_those_of_the_published_drawing_of_intr(case: str) -> None:
    attention, expected, resized = (GOLDEN[f"{case}/{name}"] for name in ("attention", "level_u8", "resized_cubic"))
    height, width = expected.shape
    placed = raster.place(attention, (0, 0, width, height), (height, width))
    np.testing.assert_allclose(placed, resized, atol=1e-6)
    np.testing.assert_array_equal(raster.levels(placed, raster.limits(placed)), expected)


@pytest.mark.parametrize("rule", raster.RULES)
@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("cell", [(1, 1), (2, 4), (0, 5)])
def test_hot_cell_lands_on_its_place_of_the_original(
    cell: tuple[int, int], shape: str, resize: geometry.ResizeRule, rule: raster.Rule
) -> None:
    size_hw = SIZES[shape]
    box = geometry.crop_box(size_hw, image_hw=(56, 56), crop_ratio=1 if resize == "pad" else 0.875, resize=resize)
    cell = (cell[0], cell[1] // 2) if resize == "pad" else cell  # the right half may be padding
    left, top, right, bottom = geometry.cell_box(box, map_hw=MAP_HW, row=cell[0], column=cell[1])
    placed = raster.place(hot(*cell), box, size_hw, rule)
    y, x = np.unravel_index(np.nanargmax(placed), size_hw)
    assert left <= x + 0.5 <= right
    assert top <= y + 0.5 <= bottom
    assert np.nanmax(placed) > 0.9


@pytest.mark.parametrize("shape", SIZES)
def test_cells_cover_their_boxes_to_the_pixel(shape: str) -> None:
    size_hw = SIZES[shape]
    box = geometry.crop_box(size_hw, image_hw=(56, 56), crop_ratio=0.875, resize="squash")
    placed = raster.place(hot(2, 4), box, size_hw, "cells")
    rows, columns = np.nonzero(placed == 1)
    found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert found == pytest.approx(geometry.cell_box(box, map_hw=MAP_HW, row=2, column=4), abs=0.5)


def test_hot_cell_of_a_rotated_photograph_lies_where_the_model_saw_it(tmp_path: Path) -> None:
    """A red patch, stored lying on its side: the cell that is reddest in the model's input is drawn over it."""
    pixels = np.full((80, 120, 3), 128, dtype=np.uint8)
    pixels[10:26, 20:36] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° clockwise
    path = tmp_path / "turned.png"
    Image.fromarray(pixels).save(path, exif=exif)
    square, size_hw = decode_resized(path, geometry.Resizing((56, 56), "squash"))
    redness = (square[..., 0].astype(float) - square[..., 2]).reshape(7, 8, 7, 8).mean(axis=(1, 3))
    row, column = np.unravel_index(redness.argmax(), redness.shape)
    picture = read_image(path, width_px=80)
    assert size_hw == picture.shape[:2] == (120, 80)
    placed = raster.place(hot(int(row), int(column)), (0, 0, 80, 120), size_hw)
    y, x = np.unravel_index(placed.argmax(), size_hw)
    assert picture[y, x].tolist() == [255, 0, 0]


def test_outline_encloses_the_hot_cell() -> None:
    size_hw, box = (90, 150), geometry.crop_box((90, 150), image_hw=(56, 56), crop_ratio=0.875, resize="crop")
    left, top, right, bottom = geometry.cell_box(box, map_hw=MAP_HW, row=3, column=5)
    (line,) = outlines(raster.place(hot(3, 5), box, size_hw), 98)
    assert line.mean(axis=0) == pytest.approx([(left + right) / 2, (top + bottom) / 2], abs=0.5)
    assert (line[0] == line[-1]).all()


def test_outline_closes_along_the_edge_of_the_view() -> None:
    (line,) = outlines(raster.place(hot(0, 0), (0, 0, 60, 60), (60, 60)), 99)
    assert (line[0] == line[-1]).all()
    assert line.min() == pytest.approx(0, abs=0.5)


def test_colours_are_red_green_and_blue_in_this_order() -> None:
    black = np.zeros((1, 1, 3), dtype=np.uint8)
    level = np.array([200, 100, 50], dtype=np.uint8).reshape(3, 1, 1)
    assert raster.lay_parts(black, level)[0, 0].tolist() == [200, 100, 50]
    jet = raster.palette("jet")
    assert jet[230][0] > jet[230][2]  # strong is red
    assert jet[20][2] > jet[20][0]  # weak is blue


def test_overlay_keeps_the_order_of_the_channels() -> None:
    red = np.zeros((2, 2, 3), dtype=np.uint8)
    red[..., 0] = 255
    weakest = np.zeros((2, 2), dtype=np.uint8)
    assert (raster.lay_over(red, weakest, np.ones((2, 2), dtype=bool)) == red).all()


@pytest.mark.parametrize("value", [0.0, 3.5, np.nan])
def test_constant_map_draws_nothing_and_no_warning(value: float) -> None:
    placed = raster.place(np.full((3, 4), value, dtype=np.float32), (0, 0, 20, 10), (10, 20))
    assert not raster.levels(placed, raster.limits(placed)).any()
    assert outlines(placed) == ()


def test_unseen_pixels_are_dark_and_have_no_value() -> None:
    placed = raster.place(np.ones((2, 2)), (5, 0, 15, 10), (10, 20))
    assert np.isnan(placed[:, :5]).all()
    assert np.isfinite(placed[:, 5:15]).all()
    white = np.full((10, 20, 3), 255, dtype=np.uint8)
    drawn = raster.lay_over(white, raster.levels(placed, raster.limits(placed)), raster.seen((5, 0, 15, 10), (10, 20)))
    assert (drawn[:, :5] == 102).all()  # 255 * 0.4
    assert (drawn[:, 5:15] == 255).all()


def test_panels_that_share_bounds_can_be_compared() -> None:
    weak, strong = np.array([0.0, 1.0], dtype=np.float32), np.array([0.0, 4.0], dtype=np.float32)
    assert raster.levels(weak, (0, 4)).tolist() == [0, 63]  # 255 / 4, truncated
    assert raster.levels(strong, (0, 4)).tolist() == [0, 255]


def test_four_parts_are_refused() -> None:
    with pytest.raises(UsageError, match="got 4"):
        raster.lay_parts(np.zeros((1, 1, 3), dtype=np.uint8), np.zeros((4, 1, 1), dtype=np.uint8))


def test_unknown_colours_are_named() -> None:
    with pytest.raises(UsageError, match="'infernal'"):
        raster.palette("infernal")


def test_a_scale_starts_at_zero_and_a_flat_map_looks_flat() -> None:
    """A map of 1 with a ripple of 1 % takes 1 % of the colours; a signed map keeps its range."""
    rippled = np.ones((2, 2), dtype=np.float32)
    rippled[0, 0] = 1.01
    placed = raster.place(rippled, (0, 0, 8, 8), (8, 8))
    bounds = raster.from_zero([rippled], [placed])
    assert bounds == (0.0, placed.max())
    drawn = raster.levels(placed, bounds)
    assert 250 <= drawn.min() < drawn.max() == 255
    signed = np.array([[-1.0, 2.0]], dtype=np.float32)
    assert raster.from_zero([rippled, signed], [placed, signed]) == (-1.0, 2.0)


def test_what_a_cubic_rule_draws_below_zero_moves_no_scale() -> None:
    hot = np.zeros((5, 5), dtype=np.float32)
    hot[2, 2] = 1
    placed = raster.place(hot, (0, 0, 20, 20), (20, 20))
    assert placed.min() < 0
    assert raster.from_zero([hot], [placed])[0] == 0
