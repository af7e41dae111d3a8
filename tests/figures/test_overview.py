"""The overview of a trial: a column per image, and a line per number with its floors."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from attnsearch.figures import overview
from attnsearch.figures.explanation import Explanation
from attnsearch.figures.overview import Level, ShownImage, draw_overview

LEVELS = [
    Level("accuracy", 0.98, 0.95, 0.99, {"chance": 0.125}, "0.980 (0.950 to 0.990)"),
    Level("energy in mask", 0.3, math.nan, math.nan, {"flat map": 0.03, "untrained": 0.05}, "0.300"),
]


def shown(n_maps: int = 2) -> ShownImage:
    maps = {f"vector_{index}": np.eye(4, dtype=np.float32) for index in range(n_maps)}
    return ShownImage(
        Explanation(
            image_id="a.jpg",
            class_names=("hat", "shoe"),
            predicted="hat",
            probabilities=np.array([0.9, 0.1], dtype=np.float32),
            size_hw=(40, 40),
            crop_box=np.array([0.0, 0.0, 40.0, 40.0]),
            maps=maps,
            saliency=np.eye(4, dtype=np.float32),
            target="hat",
            true="hat",
            source=Image.new("RGB", (40, 40), (80, 120, 200)),
        )
    )


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is made."""
    figures: list[Figure] = []
    monkeypatch.setattr(overview, "Figure", lambda **settings: figures.append(Figure(**settings)) or figures[-1])
    return figures


def test_every_image_is_a_column_and_every_number_a_line(drawn: list[Figure], tmp_path: Path) -> None:
    draw_overview("title", "subtitle", [shown(), shown()], LEVELS, tmp_path / "x.png")
    *panels, levels = drawn[0].axes
    assert len(panels) == 2 * 3
    assert [label.get_text() for label in levels.get_yticklabels()] == ["accuracy", "energy in mask"]
    texts = [text.get_text() for text in levels.texts]
    assert texts == ["chance", "0.980 (0.950 to 0.990)", "flat map, untrained", "0.300"]
    assert "✓ hat 0.90" in [text.get_text() for axes in panels for text in axes.texts]


def test_a_family_without_maps_has_no_row_of_them(drawn: list[Figure], tmp_path: Path) -> None:
    draw_overview("title", "subtitle", [shown(n_maps=0)], LEVELS, tmp_path / "x.png")
    assert len(drawn[0].axes) == 2 + 1


def test_true_parts_are_outlined_where_they_lie(tmp_path: Path) -> None:
    mask = np.zeros((40, 40), dtype=np.uint8)
    mask[5:15, 20:30] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    axes = Figure().subplots()
    overview._outline(axes, tmp_path / "mask.png", (80, 80))
    (path,) = axes.collections[0].get_paths()
    low, high = path.get_extents().min, path.get_extents().max
    assert np.allclose(low, (39.5, 9.5), atol=1.5)
    assert np.allclose(high, (59.5, 29.5), atol=1.5)


def test_nothing_touches_the_edges(tmp_path: Path) -> None:
    draw_overview("title", "subtitle", [shown()] * 6, LEVELS, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        ink = np.asarray(image.convert("L"))
    assert [int(edge.min()) for edge in (ink[:3], ink[-3:], ink[:, :3], ink[:, -3:])] == [255] * 4


def test_a_picture_of_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs an image"):
        draw_overview("title", "subtitle", [], LEVELS, tmp_path / "x.png")
