"""Map cell, model input and original image."""

import numpy as np
import pytest

from attnsearch import geometry


def crop(size_hw: object, resize: geometry.ResizeRule) -> list[float]:
    # 28 pixels out of 32: two pixels are cut on each side, 1/16 of the side.
    return geometry.crop_box(size_hw, image_hw=(28, 28), crop_ratio=0.875, resize=resize).tolist()  # type: ignore[arg-type]


def test_squash_cuts_each_side_in_proportion() -> None:
    assert crop((160, 320), "squash") == [20.0, 10.0, 300.0, 150.0]  # landscape: 320/16 = 20, 160/16 = 10
    assert crop((320, 160), "squash") == [10.0, 20.0, 150.0, 300.0]  # portrait


def test_crop_takes_the_centre_square_first() -> None:
    assert crop((160, 320), "crop") == [90.0, 10.0, 230.0, 150.0]  # square from x = 80, then 160/16 = 10
    assert crop((320, 160), "crop") == [10.0, 90.0, 150.0, 230.0]


def test_a_whole_crop_sees_the_whole_image() -> None:
    box = geometry.crop_box((30, 50), image_hw=(16, 16), crop_ratio=1.0, resize="squash")
    assert box.tolist() == [0.0, 0.0, 50.0, 30.0]


def test_an_odd_margin_is_rounded_as_by_torchvision() -> None:
    # 96 of 109: margin 13, round(6.5) = 6 to the left and 7 to the right.
    box = geometry.crop_box((109, 109), image_hw=(96, 96), crop_ratio=0.875, resize="squash")
    assert box == pytest.approx([6, 6, 102, 102])


def test_many_sizes_give_one_box_each() -> None:
    boxes = geometry.crop_box([[160, 320], [320, 160]], image_hw=(28, 28), crop_ratio=0.875, resize="crop")
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


def test_points_go_to_the_input() -> None:
    box = [90.0, 10.0, 230.0, 150.0]  # 140 original pixels over 28 input pixels: 5 each
    points = np.array([[90.0, 10.0], [160.0, 15.0]])
    assert geometry.original_to_input(points, box, image_hw=(28, 28)).tolist() == [[0.0, 0.0], [14.0, 1.0]]
    assert geometry.original_to_input(points, box, image_hw=(28, 14)).tolist() == [[0.0, 0.0], [7.0, 1.0]]


RECTANGLES = [(48, 32), (32, 48), (256, 128), (17, 61)]
ORIGINALS = [(160, 320), (320, 160), (48, 32), (101, 97), (1, 50)]


@pytest.mark.parametrize("image_hw", RECTANGLES)
@pytest.mark.parametrize("size_hw", ORIGINALS)
def test_crop_is_the_largest_centred_part_of_the_inputs_aspect(
    size_hw: tuple[int, int], image_hw: tuple[int, int]
) -> None:
    aspect = image_hw[0] / image_hw[1]
    left, top, right, bottom = geometry.source_box(size_hw, "crop", aspect=aspect)
    assert (bottom - top) / (right - left) == pytest.approx(aspect)
    assert (left + right, top + bottom) == pytest.approx(size_hw[::-1])  # centred
    assert min(left, top) == pytest.approx(0, abs=1e-9)  # one side is whole, the other not exceeded


@pytest.mark.parametrize("image_hw", RECTANGLES)
@pytest.mark.parametrize("size_hw", ORIGINALS)
def test_pad_shows_the_whole_image_at_the_top_left(size_hw: tuple[int, int], image_hw: tuple[int, int]) -> None:
    aspect = image_hw[0] / image_hw[1]
    left, top, right, bottom = geometry.source_box(size_hw, "pad", aspect=aspect)
    assert (left, top) == (0, 0)
    assert bottom / right == pytest.approx(aspect)
    assert bottom >= size_hw[0]
    assert right >= size_hw[1]
    padded = geometry.padded_hw(size_hw, image_hw)
    assert (padded <= image_hw).all()
    assert (padded == image_hw).any()  # one side is full
    expected = np.array(size_hw) * (image_hw[0] / bottom)  # one scale for both sides
    assert padded == pytest.approx(np.maximum(1, expected), abs=0.5)


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size_hw", ORIGINALS)
def test_turning_image_and_input_turns_the_box(size_hw: tuple[int, int], resize: geometry.ResizeRule) -> None:
    ratio = 1.0 if resize == "pad" else 0.875
    upright = geometry.crop_box(size_hw, image_hw=(48, 32), crop_ratio=ratio, resize=resize)
    lying = geometry.crop_box(size_hw[::-1], image_hw=(32, 48), crop_ratio=ratio, resize=resize)
    assert lying == pytest.approx(upright[[1, 0, 3, 2]])


def test_a_rectangular_input_cuts_each_axis_by_its_own_offset() -> None:
    # 48 of int(48 / 0.875) = 54: 3 rows are cut at the top; 32 of 36: 2 columns at the left.
    box = geometry.crop_box((54, 36), image_hw=(48, 32), crop_ratio=0.875, resize="squash")
    assert box == pytest.approx([2, 3, 34, 51])
