"""What the explorer paints, pixel by pixel, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from attnsearch import geometry
from tests.explorer.browsing import Watched, base_of
from tests.explorer.built import CROP_RATIO, HOT, IMAGE_HW, MAP_HW, Built, build, serving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["squash", "crop"])
def turned(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Built, str]]:
    """A server on images that are landscape, portrait, turned by EXIF and square, under both resize rules."""
    rule = str(request.param)
    built = build(tmp_path_factory.mktemp(rule), resize=rule, n_trials=1, n_per_class=2)
    with serving(built) as served:
        yield rule, built, base_of(served)


SIZES_HW = {0: (64, 96), 1: (96, 64), 2: (100, 60), 3: (80, 80)}
"""Height and width as a person sees the image; the third file is 60 x 100, turned by EXIF."""


@pytest.mark.parametrize("row", SIZES_HW)
def test_hot_cell_lies_on_the_right_pixels_of_the_original(
    turned: tuple[str, Built, str], browser: Any, row: int
) -> None:
    """In the size of the original, exactly the pixels whose centres lie in the cell's box are painted."""
    rule, _, base = turned
    height, width = SIZES_HW[row]
    box = geometry.crop_box((height, width), image_hw=IMAGE_HW, crop_ratio=CROP_RATIO, resize=rule)  # type: ignore[arg-type]
    left, top, right, bottom = geometry.cell_box(box, map_hw=MAP_HW, row=HOT[0], column=HOT[1])
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    expected = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    one = Watched(browser, base)
    query = "?map=map0&smooth=0&opacity=100&colours=viridis&original=1"
    page = one.open(f"/attention/image/here/hunt/0/{row}{query}")
    one.wait("document.body.dataset.ready === '1'")
    assert page.evaluate("[canvas.height, canvas.width]") == [height, width]
    pixels = page.evaluate("[...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]")
    painted = np.array(pixels).reshape(height, width, 4)[..., :3]
    one.context.close()
    assert one.problems == []
    hot = np.abs(painted - np.array([253, 231, 36])).max(axis=-1) <= 2  # the last colour of viridis
    assert expected.any()
    np.testing.assert_array_equal(hot, expected)


def test_smooth_map_is_bilinear_between_cell_centres(turned: tuple[str, Built, str], browser: Any) -> None:
    """One hot cell falls off as (1 - |dx|)(1 - |dy|) in cells from its centre; opacity follows the strength."""
    rule, _, base = turned
    height, width = SIZES_HW[3]
    box = geometry.crop_box((height, width), image_hw=IMAGE_HW, crop_ratio=CROP_RATIO, resize=rule)  # type: ignore[arg-type]
    one = Watched(browser, base)
    page = one.open("/attention/image/here/hunt/0/3")
    script = """async () => {
      const { mapImage } = await import('/attention/static/paint.js');
      const map = { h: 4, w: 5, values: new Float32Array(20) };
      map.values[1 * 5 + 3] = 1;
      const [left, top, right, bottom] = BOX;
      const view = { opacity: 1, colours: 'viridis', smooth: true, isUniform: false };
      const layer = mapImage({ width: 80, height: 80 }, map, { left, top, right, bottom }, view, { low: 0, high: 1 });
      return { left: layer.left, top: layer.top, w: layer.image.width, data: [...layer.image.data] };
    }""".replace("BOX", str([float(edge) for edge in box]))
    layer = page.evaluate(script)
    one.context.close()
    alpha = np.array(layer["data"]).reshape(-1, layer["w"], 4)[..., 3] / 255
    x = layer["left"] + np.arange(alpha.shape[1]) + 0.5
    y = layer["top"] + np.arange(alpha.shape[0]) + 0.5
    across = np.clip(1 - np.abs((x - box[0]) / (box[2] - box[0]) * 5 - 3.5), 0, 1)
    rows = (y - box[1]) / (box[3] - box[1]) * 4 - 0.5
    down = np.clip(1 - np.abs(rows - 1), 0, 1)
    np.testing.assert_allclose(alpha, down[:, None] * across[None, :], atol=1 / 255 + 1e-6)


def test_cells_in_the_padding_neither_show_nor_set_the_scale(watched: Watched) -> None:
    """A map of 4 x 4 cells over a square of 100 px: an image of 100 x 60 px reaches into three rows of 25 px."""
    page = watched.open("/attention/")
    script = """async () => {
      const { onImage, rangeOf } = await import('/attention/static/field.js');
      const map = { h: 4, w: 4, values: Float32Array.from({ length: 16 }, (_, cell) => cell) };
      const wide = onImage(map, [60, 100], [0, 0, 100, 100]);
      const tall = onImage(map, [100, 50], [0, 0, 100, 100]);
      const whole = onImage(map, [100, 100], [10, 10, 90, 90]);
      const told = ({ map, box }) => [map.h, map.w, box, rangeOf([map]).high];
      return [wide, tall, whole].map(told);
    }"""
    assert page.evaluate(script) == [
        [3, 4, [0, 0, 100, 75], 11],
        [4, 2, [0, 0, 50, 100], 13],
        [4, 4, [10, 10, 90, 90], 15],
    ]


def test_mask_hides_the_strongest_cells_in_the_order_of_the_map(turned: tuple[str, Built, str], browser: Any) -> None:
    """A fraction of 5 % of 20 cells is the one hot cell: hidden by deletion, alone kept by insertion."""
    _, _, base = turned
    one = Watched(browser, base)
    shares = []
    for mask in ("deletion", "insertion"):
        page = one.open(f"/attention/image/here/hunt/0/3?map=map0&mask={mask}&share=5&original=1")
        one.wait("document.body.dataset.ready === '1'")
        pixels = page.evaluate("[...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]")
        painted = np.array(pixels).reshape(80, 80, 4)[..., :3]
        filled = np.abs(painted - np.array([124, 116, 104])).max(axis=-1) == 0
        shares.append(filled[20:60, 20:60].mean())  # the model's view: the middle half
    one.context.close()
    assert one.problems == []
    assert shares == pytest.approx([1 / 20, 19 / 20], abs=0.01)


def test_colour_tables_are_those_of_matplotlib(watched: Watched) -> None:
    from matplotlib import colormaps

    page = watched.open("/attention/")
    script = """async () => {
      const { TABLES } = await import('/attention/static/colours.js');
      return Object.fromEntries(Object.entries(TABLES).map(([name, table]) => [name, [...table]]));
    }"""
    tables = page.evaluate(script)
    assert sorted(tables) == ["RdBu", "inferno", "turbo", "viridis"]
    for name, table in tables.items():
        np.testing.assert_array_equal(np.reshape(table, (256, 3)), colormaps[name](np.arange(256), bytes=True)[:, :3])
