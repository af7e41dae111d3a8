"""The figure of pairwise tests."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from attnsearch.figures import plots
from attnsearch.figures.plots import draw_tests
from attnsearch.types import Direction

NAMES = ("a", "b", "c")
MEANS = (0.2, 0.5, 0.3)
P_VALUES = np.array([[1.0, 0.01, 0.2], [0.01, 1.0, math.nan], [0.2, math.nan, 1.0]])


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *arguments, **named: figures.append(self))
    return figures


@pytest.mark.parametrize(("direction", "order"), [("maximize", ["a", "c", "b"]), ("minimize", ["b", "c", "a"])])
def test_worst_model_comes_first(drawn: list[Figure], direction: Direction, order: list[str], tmp_path: Path) -> None:
    draw_tests(NAMES, MEANS, P_VALUES, tmp_path / "x.png", metric="deletion", direction=direction)
    labels = [label.get_text() for label in drawn[0].axes[0].get_yticklabels()]
    assert labels == order


def test_circles_are_large_where_models_differ_and_coloured_by_how_much(drawn: list[Figure], tmp_path: Path) -> None:
    draw_tests(NAMES, MEANS, P_VALUES, tmp_path / "x.png", metric="deletion", direction="maximize")
    circles = {tuple(map(int, patch.center)): patch for patch in drawn[0].axes[0].patches if isinstance(patch, Circle)}
    assert {place: circle.radius for place, circle in circles.items()} == {
        (0, 0): 0.1, (0, 1): 0.1, (0, 2): 0.3, (1, 1): 0.1, (1, 2): 0.1, (2, 2): 0.1,
    }  # fmt: skip
    plasma = matplotlib.colormaps["plasma"]
    assert circles[0, 2].get_facecolor() == pytest.approx(plasma(1.0))  # the largest difference, 0.3
    assert circles[0, 0].get_facecolor() == pytest.approx(plasma(0.0))
    assert circles[0, 1].get_facecolor() == pytest.approx(plasma(1 / 3), abs=0.02)


def test_equal_models_can_be_drawn(tmp_path: Path) -> None:
    draw_tests(("a", "b"), (0.5, 0.5), np.ones((2, 2)), tmp_path / "x.png", metric="gini", direction="maximize")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_one_model_is_no_comparison(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 1"):
        draw_tests(("a",), (0.5,), np.ones((1, 1)), tmp_path / "x.png", metric="gini", direction="maximize")


def test_level_is_that_of_the_figure() -> None:
    assert plots.ALPHA == 0.05
