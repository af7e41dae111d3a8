"""The drawing surface: rectangles, part numbers in masks, palettes of backgrounds."""

import numpy as np
from PIL import Image

from attnsearch.data.synthetic.canvas import Canvas, background


def box(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def test_the_mask_holds_the_part_that_is_painted_last() -> None:
    canvas = Canvas(Image.new("RGB", (20, 40)))
    canvas.paint(box(2, 2, 12, 30), (255, 0, 0), part=1)
    canvas.paint(box(6, 10, 18, 20), (0, 255, 0), part=3)
    canvas.paint(box(6, 16, 18, 18), (0, 0, 255))
    image, mask = canvas.finish()
    assert image.size == mask.size == (20, 40)
    numbers = np.asarray(mask)
    assert (numbers[5, 5], numbers[12, 10], numbers[17, 10], numbers[28, 5], numbers[35, 5]) == (1, 3, 0, 1, 0)
    assert set(np.unique(numbers)) == {0, 1, 3}


def test_a_pixel_belongs_to_the_part_that_covers_most_of_it() -> None:
    canvas = Canvas(Image.new("RGB", (6, 3)))
    canvas.paint(box(0, 0, 1.4, 3), (255, 0, 0), part=1)  # two thirds of the second pixel
    canvas.paint(box(1.7, 0, 4, 3), (0, 255, 0), part=2)
    _, mask = canvas.finish()
    assert np.asarray(mask)[1].tolist() == [1, 1, 2, 2, 2, 0]


def test_a_canvas_without_parts_has_an_empty_mask() -> None:
    canvas = Canvas(Image.new("RGB", (4, 8)))
    canvas.paint(box(0, 0, 4, 8), (255, 0, 0))
    assert not np.asarray(canvas.finish()[1]).any()


def test_a_background_has_the_size_and_the_colours_that_are_asked_for() -> None:
    scene = background(np.random.default_rng(0), (48, 24), ((200, 40, 40), (240, 60, 60)))
    assert scene.size == (24, 48)
    red, green, blue = np.asarray(scene).reshape(-1, 3).mean(axis=0)
    assert red > 180
    assert max(green, blue) < 80
