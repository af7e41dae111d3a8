"""Sizes of sheets, and text that must fit."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from attnsearch.figures.grid import (
    EDGE_IN,
    LINE_IN,
    SMALL_PT,
    Grid,
    Panel,
    PanelRow,
    measure,
    shorten,
    text_width,
    wrap,
)


def test_long_text_is_cut_with_dots() -> None:
    assert shorten("wide" * 20, 1.0, 8).endswith("…")
    assert shorten("short", 1.0, 8) == "short"


def test_a_long_caption_takes_as_many_lines_as_it_needs() -> None:
    panel = Panel(np.zeros((10, 10, 3), dtype=np.uint8))
    words = "each cell of one image alone was replaced by the mean colour"
    short, long = (Grid([PanelRow([panel, panel])], caption=caption) for caption in ("each cell", words))
    one, several = measure(short, 1.0), measure(long, 1.0)
    assert one.caption == ("each cell",)
    assert " ".join(several.caption) == words
    assert len(several.caption) > 1
    room = several.width - several.left - EDGE_IN
    assert all(text_width(line, SMALL_PT) <= room for line in several.caption)
    assert several.height - one.height == pytest.approx((len(several.caption) - 1) * LINE_IN)
    assert wrap("", 1.0, SMALL_PT) == []
    assert wrap(40 * "a", 1.0, SMALL_PT)[0].endswith("…")


@pytest.mark.parametrize("dpi", [72, 150, 300])
@pytest.mark.parametrize("size_pt", [7, 8])
def test_text_is_drawn_no_wider_than_measured(dpi: int, size_pt: int) -> None:
    figure = Figure(figsize=(20, 1), dpi=dpi)
    for text in ("query/0071_c3s1_000001_00.jpg: AP 0.241", "each cell of one image was replaced", "WWW iii 0123"):
        drawn = figure.text(0, 0, text, fontsize=size_pt).get_window_extent(FigureCanvasAgg(figure).get_renderer())
        assert 0.85 < drawn.width / dpi / text_width(text, size_pt) <= 1
