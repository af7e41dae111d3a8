"""Figures that are written beside results: learning curves, a contact sheet of saliency, tests between models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray

from attnsearch.data.tables import ImageTable
from attnsearch.figures.explanation import Explanation, ImageToDraw, from_archive, read_image
from attnsearch.figures.grid import Grid, Panel, PanelRow, Style, equally_high
from attnsearch.figures.kinds import DrawStyle, caption_of, draw_cell, scale_of
from attnsearch.figures.panels import Sheets
from attnsearch.metrics.registry import find_metric, leading_metric, title_of
from attnsearch.types import AttentionArchive, Direction

if TYPE_CHECKING:
    import pandas as pd

N_COLUMNS, N_ROWS = 4, 3
ALPHA = 0.05
"""Significance level: a circle is large where p lies under it."""
_SHEET_STYLE = Style(dpi=110)
_LARGE, _SMALL = 0.3, 0.1  # radii in units of a cell
_COLOURS = "plasma"


def draw_curves(epochs: pd.DataFrame, path: Path) -> None:
    """The loss by epoch beside the accuracy, or the mAP and the rank-1 of retrieval, as a PNG.

    Args:
        epochs: the per-epoch CSV of a trial.
    """
    names = _drawn(epochs)
    figure = Figure(figsize=(4 * len(names), 3), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        _draw(axes, epochs, name)
    figure.savefig(path, dpi=100)


def _drawn(epochs: pd.DataFrame) -> list[str]:
    """The loss and what tells how good a trial is, of what was measured of it."""
    leading = leading_metric({str(column).removeprefix("val_") for column in epochs})
    return list(dict.fromkeys(["loss", leading, leading.replace("mAP", "rank1")]))


def _draw(axes: Axes, epochs: pd.DataFrame, name: str) -> None:
    for split, colour in (("train", "tab:grey"), ("val", "tab:blue")):
        if f"{split}_{name}" in epochs:
            axes.plot(epochs["epoch"], epochs[f"{split}_{name}"], color=colour, label=split, marker=".")
    axes.set(xlabel="epoch", ylabel=find_metric(name).title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def contact_sheet(archive: AttentionArchive, table: ImageTable) -> Grid:
    """Up to twelve images in four columns, spread evenly over the archive, with their true and predicted classes.

    In re-identification they are queries, with their identity and that of the nearest gallery image.

    Args:
        table: the archive's split, which knows where the images lie.
    Raises:
        DataError: an image cannot be read.
        ValueError: the archive has no saliency.
    """
    if archive.saliency is None:
        raise ValueError("a contact sheet needs saliency, and the archive has none")
    explanations = list(from_archive(archive, _spread(archive, table)))
    cells = [_cell(explanation) for explanation in explanations]
    rows = [PanelRow(equally_high(cells[start : start + N_COLUMNS])) for start in range(0, len(cells), N_COLUMNS)]
    return Grid(rows, scale=scale_of(DrawStyle()), caption=caption_of(explanations))


def write_contact_sheet(archive: AttentionArchive, table: ImageTable, path: Path) -> None:
    """Writes `contact_sheet` as a PNG.

    Raises:
        DataError, ValueError: as `contact_sheet`.
    """
    _sheets().save(contact_sheet(archive, table), path)


@cache
def _sheets() -> Sheets:
    """One figure for the sheets of all trials of a process: its panels are made once."""
    return Sheets(_SHEET_STYLE)


def _spread(archive: AttentionArchive, table: ImageTable) -> list[ImageToDraw]:
    paths = dict(zip(table.image_ids, table.paths, strict=True))
    places = np.flatnonzero(_is_answered(archive))
    chosen = places[np.linspace(0, len(places) - 1, min(N_COLUMNS * N_ROWS, len(places))).round().astype(int)]
    ids = [archive.image_ids[place] for place in chosen]
    names = [archive.class_names[int(archive.labels[place])] for place in chosen]
    return [ImageToDraw(image_id, paths[image_id], true) for image_id, true in zip(ids, names, strict=True)]


def _is_answered(archive: AttentionArchive) -> NDArray[np.bool_]:
    """(N,) images with a prediction, which gallery images have none of; all where there is no query."""
    is_query = np.isfinite(archive.confidences)
    has_queries = archive.retrieval is not None and bool(is_query.any())
    return is_query if has_queries else np.ones(len(archive.image_ids), dtype=bool)


def _cell(explanation: Explanation) -> Panel:
    """An overlay between its true class and its prediction."""
    image = read_image(explanation.source, width_px=_SHEET_STYLE.width_px)
    return draw_cell(explanation, image, DrawStyle(), as_parts=False, title=explanation.true or "")


@dataclass(frozen=True, eq=False)
class ModelTests:
    """The tests between M models in one metric.

    Attributes:
        direction: of the metric; larger is better for `maximize`.
        means: of the models.
        p_values: (M, M), symmetric; NaN where a test is undefined: its circle is small.
    """

    metric: str
    direction: Direction
    means: Sequence[float]
    p_values: NDArray[np.float64]


def draw_tests(names: Sequence[str], tests: Sequence[ModelTests], path: Path) -> None:
    """A circle for each pair of models and metric, as a PNG: large where they differ, coloured by how much.

    Each metric has a panel, in which the worst model comes first.

    Args:
        names: of M models.
    Raises:
        ValueError: fewer than two models, or no metric.
    Source: BR-NPA (Gomez et al. 2022), released code `TristanGomez44/br_npa` code/processResults.py. Differences: all
        metrics in one figure; the p-values come from the caller, corrected or not; equal means do not divide by zero.
    """
    if len(names) < 2 or not tests:
        raise ValueError(f"a comparison needs two models and a metric, got {len(names)} and {len(tests)}")
    n_columns = min(3, len(tests))
    n_rows = -(-len(tests) // n_columns)
    side_in = 1.2 + 0.5 * len(names) + 0.11 * max(map(len, names))
    figure = Figure(figsize=(side_in * n_columns, side_in * n_rows), layout="constrained")
    grid = figure.subplots(n_rows, n_columns, squeeze=False)
    for axes in grid.flat[len(tests) :]:
        axes.set_visible(False)
    for axes, one in zip(grid.flat, tests, strict=False):
        _draw_panel(figure, axes, names, one)
    figure.supxlabel(f"large circle: p < {ALPHA:g}", fontsize="medium")
    figure.savefig(path, dpi=110, format="png", bbox_inches="tight", pad_inches=0.1)  # else long names are cut off


def _draw_panel(figure: Figure, axes: Axes, names: Sequence[str], tests: ModelTests) -> None:
    sign = 1.0 if tests.direction == "maximize" else -1.0
    order = sorted(range(len(names)), key=lambda index: (sign * tests.means[index], names[index]))
    gaps = np.array([[abs(tests.means[i] - tests.means[j]) for j in order] for i in order])
    colours = ScalarMappable(Normalize(0.0, float(gaps.max()) or 1.0), matplotlib.colormaps[_COLOURS])
    for column, i in enumerate(order):
        for row, j in list(enumerate(order))[column:]:
            radius = _LARGE if tests.p_values[i, j] < ALPHA else _SMALL
            axes.add_patch(Circle((column, row), radius, color=colours.to_rgba(gaps[column, row])))
    axes.set_yticks(range(len(names)), [names[index] for index in order], parse_math=False)
    axes.set_xticks(
        range(len(names)), [names[index] for index in order], rotation=45, ha="right", rotation_mode="anchor",
        parse_math=False,
    )  # fmt: skip
    axes.tick_params(length=0)
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5), aspect="equal")  # the first row at the top
    axes.set_title(title_of(tests.metric))
    axes.spines[:].set_visible(False)
    figure.colorbar(colours, ax=axes, label="difference", shrink=0.8)
