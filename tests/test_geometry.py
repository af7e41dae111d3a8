"""Map cell, model input and original picture."""

import numpy as np
import pytest

from attnsearch import geometry


def crop(size_hw: object, resize: geometry.ResizeRule) -> list[float]:
    # 28 pixels out of 32: two pixels are cut on each side, 1/16 of the side.
    return geometry.crop_box(size_hw, image_size_px=28, crop_ratio=0.875, resize=resize).tolist()  # type: ignore[arg-type]


def test_squash_cuts_each_side_in_proportion() -> None:
    assert crop((160, 320), "squash") == [20.0, 10.0, 300.0, 150.0]  # landscape: 320/16 = 20, 160/16 = 10
    assert crop((320, 160), "squash") == [10.0, 20.0, 150.0, 300.0]  # portrait


def test_crop_takes_the_centre_square_first() -> None:
    assert crop((160, 320), "crop") == [90.0, 10.0, 230.0, 150.0]  # square from x = 80, then 160/16 = 10
    assert crop((320, 160), "crop") == [10.0, 90.0, 150.0, 230.0]


def test_a_whole_crop_sees_the_whole_picture() -> None:
    box = geometry.crop_box((30, 50), image_size_px=16, crop_ratio=1.0, resize="squash")
    assert box.tolist() == [0.0, 0.0, 50.0, 30.0]


def test_an_odd_margin_is_rounded_as_by_torchvision() -> None:
    # 96 of 109: margin 13, round(6.5) = 6 to the left and 7 to the right.
    box = geometry.crop_box((109, 109), image_size_px=96, crop_ratio=0.875, resize="squash")
    assert box == pytest.approx([6, 6, 102, 102])


def test_many_sizes_give_one_box_each() -> None:
    boxes = geometry.crop_box([[160, 320], [320, 160]], image_size_px=28, crop_ratio=0.875, resize="crop")
    assert boxes.tolist() == [[90.0, 10.0, 230.0, 150.0], [10.0, 90.0, 150.0, 230.0]]


def test_cells_tile_the_crop_box_row_by_row() -> None:
    box = geometry.cell_box([20, 10, 300, 150], map_hw=(7, 14), row=[0, 6], column=[1, 13])
    assert box.tolist() == [[40.0, 10.0, 60.0, 30.0], [280.0, 130.0, 300.0, 150.0]]


def test_a_cell_outside_the_map_is_refused() -> None:
    with pytest.raises(ValueError, match="row 7, column 0"):
        geometry.cell_box([0, 0, 1, 1], map_hw=(7, 14), row=7, column=0)


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="-3"):
        geometry.source_box((-3, 4), "squash")


def test_points_go_to_the_input_and_back() -> None:
    box = [90.0, 10.0, 230.0, 150.0]  # 140 original pixels over 28 input pixels: 5 each
    points = np.array([[90.0, 10.0], [160.0, 15.0]])
    seen = geometry.original_to_input(points, box, image_size_px=28)
    assert seen.tolist() == [[0.0, 0.0], [14.0, 1.0]]
    assert geometry.input_to_original(seen, box, image_size_px=28).tolist() == points.tolist()


def test_a_point_falls_into_the_cell_that_holds_it() -> None:
    box = [20.0, 10.0, 300.0, 150.0]  # cells of 20 x 20 pixels
    cells = geometry.original_to_cell([[20, 10], [299, 149], [41, 29]], box, map_hw=(7, 14))
    assert cells.tolist() == [[0, 0], [6, 13], [0, 1]]


def test_an_unseen_or_missing_point_has_no_cell() -> None:
    points = [[19.0, 50.0], [300.0, 50.0], [np.nan, np.nan]]
    cells = geometry.original_to_cell(points, [20, 10, 300, 150], map_hw=(7, 14))
    assert cells.tolist() == [[-1, -1], [-1, -1], [-1, -1]]
