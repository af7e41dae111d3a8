"""The charts of a report, SVG in the page and PDF beside it."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from attnsearch.evaluation.compare import MetricMean
from attnsearch.files import atomic_path
from attnsearch.metrics.registry import higher_is_better, title_of
from attnsearch.metrics.statistics import Floats
from attnsearch.report.facts import StudyFacts
from attnsearch.search.trials import TrialRow

if TYPE_CHECKING:
    import pandas as pd

    from attnsearch.search.history import History

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000")
"""Okabe and Ito's, told apart with any colour vision."""
_TRAIN, _OTHERS, _INK, _FAINT = "#9aa1a9", "#d4d8dd", "#1f2328", "#6a737d"
_WIDTH_IN = 8.6
MAX_WRITTEN = 25
"""Rows of a matrix up to which there is room for names and numbers."""
_RC: dict[Any, Any] = {
    **{"font.size": 8.5, "font.family": "DejaVu Sans", "axes.edgecolor": "#aab0b7", "axes.labelcolor": _INK},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 9, "axes.titlecolor": _INK},
    **{"xtick.color": _FAINT, "ytick.color": _FAINT, "axes.linewidth": 0.8, "legend.frameon": False},
    **{"axes.grid": True, "grid.color": "#eceff2", "grid.linewidth": 0.8, "axes.axisbelow": True},
    **{"svg.fonttype": "none", "pdf.fonttype": 42, "text.parse_math": False},  # a name may have dollar signs
}


def new_figure(height_in: float) -> Figure:
    """A figure as wide as the page."""
    return Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")


def to_svg(figure: Figure, name: str, title: str) -> str:
    """The figure as an `<svg>` element whose text is text; `name` keeps its ids apart from those of other figures."""
    text = io.StringIO()
    with matplotlib.rc_context({**_RC, "svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\1{name}-", svg)
    svg = re.sub(r"font: ([^;]*?)px 'DejaVu Sans'", r"font: \1px 'DejaVu Sans', Verdana, sans-serif", svg)
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'width="100%"', svg, count=1)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)


def save_pdf(figure: Figure, path: Path) -> None:
    """Writes the figure as PDF, whole or not at all."""
    with matplotlib.rc_context(_RC), atomic_path(path) as temporary:
        figure.savefig(temporary, format="pdf", metadata={"CreationDate": None})


def styled(draw: Callable[..., Figure], *arguments: Any) -> Figure:
    """Calls a drawing function under the style of the report."""
    with matplotlib.rc_context(_RC):
        return draw(*arguments)


def draw_learning_curves(facts: StudyFacts) -> Figure:
    """The monitored metric and the loss by epoch: the best trial in colour, its best epoch marked, others pale."""
    figure = new_figure(2.5)
    monitored = facts.leading if facts.config is None else facts.config.monitor.partition("/")[2]
    names = (facts.leading if monitored == "loss" else monitored, "loss")
    for axes, name in zip(figure.subplots(1, 2), names, strict=True):
        _draw_curves(axes, facts, name)
    return figure


def _draw_curves(axes: Axes, facts: StudyFacts, name: str) -> None:
    best = facts.best
    others = [epochs for number, epochs in facts.epochs.items() if best is None or number != best.number]
    for index, epochs in enumerate(others):
        _draw_line(axes, epochs, f"val/{name}", color=_OTHERS, linewidth=0.9, label="" if index else "other trials")
    if best is not None and best.number in facts.epochs:
        _draw_best(axes, facts.epochs[best.number], best, name)
    axes.set(xlabel="epoch", title=name.replace("_", " "))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7.5)


def _draw_best(axes: Axes, epochs: pd.DataFrame, best: TrialRow, name: str) -> None:
    """Training and validation of the best trial, and its best epoch."""
    _draw_line(axes, epochs, f"train/{name}", color=_TRAIN, linewidth=1.4, linestyle=(0, (4, 2)), label="train")
    _draw_line(axes, epochs, f"val/{name}", color=COLOURS[0], linewidth=1.8, label=f"validation, trial {best.number}")
    row = epochs.loc[epochs["epoch"] == best.best_epoch]
    if len(row) and f"val/{name}" in row:
        point = (row["epoch"], row[f"val/{name}"])
        axes.plot(*point, "o", color=COLOURS[0], markersize=6, label="best epoch", markeredgecolor="white")


def _draw_line(axes: Axes, epochs: pd.DataFrame, key: str, **style: Any) -> None:
    if key in epochs:
        axes.plot(epochs["epoch"], epochs[key], marker="." if len(epochs) == 1 else "", **style)


def draw_history(history: History) -> Figure:
    """The best value, or the hypervolume of the front, by the number of complete trials."""
    figure = new_figure(2.2)
    axes = figure.subplots()
    axes.step(range(1, len(history.values) + 1), history.values, where="post", color=COLOURS[0], linewidth=1.8)
    axes.plot(range(1, len(history.values) + 1), history.values, ".", color=COLOURS[0])
    label = history.measure if history.n_bounding else f"best {history.measure}"
    axes.set(xlabel="complete trials", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def draw_importances(fractions: Mapping[str, Mapping[str, float]]) -> Figure:
    """One bar per hyperparameter and objective."""
    names = list(dict.fromkeys(name for one in fractions.values() for name in one))
    figure = new_figure(0.7 + 0.26 * len(names) * max(1, len(fractions) ** 0.5))
    axes = figure.subplots()
    height = 0.8 / len(fractions)
    for index, (objective, one) in enumerate(fractions.items()):
        places = np.arange(len(names)) + (index - (len(fractions) - 1) / 2) * height
        values = [one.get(name, 0.0) for name in names]
        axes.barh(places, values, height=0.9 * height, color=COLOURS[index % len(COLOURS)], label=objective)
        for place, value in zip(places, values, strict=True):
            axes.text(value + 0.008, place, f"{value:.2f}", va="center", color=_FAINT, fontsize=7.5)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel="importance (PED-ANOVA); the importances of one objective sum to 1")
    axes.grid(axis="y", visible=False)
    if len(fractions) > 1:
        axes.legend(fontsize=7.5)
    return figure


def draw_front(facts: Sequence[StudyFacts], x_key: str, y_key: str) -> Figure:
    """All complete trials of an experiment in two metrics; those that no other beats in both are joined."""
    figure = new_figure(3.4)
    axes = figure.subplots()
    for index, one in enumerate(facts):
        points = {trial.number: point for trial in one.rows.trials if (point := _point(trial, x_key, y_key))}
        if not points:
            continue
        colour = COLOURS[index % len(COLOURS)]
        axes.plot(*zip(*points.values(), strict=True), "o", color=colour, alpha=0.75, label=one.name)
        if one.best is not None and one.best.number in points:
            ring: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": colour, "markeredgewidth": 1.4}
            axes.plot(*points[one.best.number], "o", markersize=11, **ring)
    front = pareto_front(facts, x_key, y_key)
    if len(front) > 1:
        axes.plot(*zip(*front, strict=True), color=_FAINT, linewidth=1, zorder=0, label="Pareto front")
    axes.set(xlabel=_with_direction(x_key), ylabel=_with_direction(y_key))
    axes.legend(fontsize=7.5)
    return figure


def pareto_front(facts: Sequence[StudyFacts], x_key: str, y_key: str) -> list[tuple[float, float]]:
    """Two metrics of the complete trials of an experiment that no other beats in both, along x."""
    trials = [trial for one in facts for trial in one.rows.trials]
    points = [point for trial in trials if (point := _point(trial, x_key, y_key))]
    return front_of_points(points, higher_is_better(x_key), higher_is_better(y_key))


def _point(trial: TrialRow, x_key: str, y_key: str) -> tuple[float, float] | None:
    """Two metrics of a complete trial, if both are defined."""
    x, y = (float(trial.metrics.get(key, math.nan)) for key in (x_key, y_key))
    return (x, y) if trial.state == "complete" and math.isfinite(x + y) else None


def front_of_points(points: Sequence[tuple[float, float]], x_up: bool, y_up: bool) -> list[tuple[float, float]]:
    """The points that no other beats in both coordinates, along x."""
    signs = (1 if x_up else -1, 1 if y_up else -1)
    best: list[tuple[float, float]] = []
    for x, y in sorted(set(points), key=lambda point: (-signs[0] * point[0], -signs[1] * point[1])):
        if not best or signs[1] * y > signs[1] * best[-1][1]:
            best.append((x, y))
    return sorted(best)


def _with_direction(key: str) -> str:
    return f"{title_of(key)} ({'higher' if higher_is_better(key) else 'lower'} is better)"


def draw_confusion(matrix: NDArray[np.int64], names: Sequence[str]) -> Figure:
    """Counts (n_classes, n_classes), coloured by the fraction of the true class; numbers where there is room."""
    figure = _matrix_figure(len(names))
    axes = figure.subplots()
    fractions = matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
    _draw_matrix(axes, fractions, names, [[str(count) if count else "" for count in row] for row in matrix.tolist()])
    axes.set(xlabel="predicted", ylabel="true")
    return figure


def _matrix_figure(n_names: int) -> Figure:
    size = (min(_WIDTH_IN, 2.2 + 0.36 * n_names), min(7.0, 1.6 + 0.33 * n_names))
    return Figure(figsize=size, layout="constrained")


def _draw_matrix(axes: Axes, fractions: Floats, names: Sequence[str], texts: Sequence[Sequence[str]]) -> None:
    """Fractions (n, n), the darker the larger, with a text in each cell that has one, where there is room."""
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.grid(visible=False)
    if len(names) > MAX_WRITTEN:
        return
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    for row, column in zip(*np.nonzero(~np.isnan(fractions)), strict=True):
        ink = "white" if fractions[row, column] > 0.55 else _INK
        text = texts[row][column]
        axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=7)


def draw_levels(levels: Mapping[str, Sequence[MetricMean]]) -> Figure:
    """Mean and 95 % interval by study, a panel for each metric.

    Args:
        levels: metric -> its mean under each study.
    """
    n_columns = min(3, len(levels))
    n_rows = -(-len(levels) // n_columns)
    n_studies = max(len(rows) for rows in levels.values())
    figure = new_figure(n_rows * (0.75 + 0.22 * n_studies))
    grid = figure.subplots(n_rows, n_columns, squeeze=False)
    for axes in grid.flat[len(levels) :]:
        axes.set_visible(False)
    for index, (axes, (metric, rows)) in enumerate(zip(grid.flat, levels.items(), strict=False)):
        for place, level in enumerate(rows):
            colour = COLOURS[place % len(COLOURS)]
            axes.plot([level.low, level.high], [place, place], color=colour, linewidth=2, alpha=0.5)
            axes.plot(level.mean, place, "o", color=colour, markersize=5)
        axes.set_yticks(range(len(rows)), [level.name if index % n_columns == 0 else "" for level in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        arrow = "→" if higher_is_better(f"val/{metric}") else "←"
        axes.set_title(f"{title_of(metric)} {arrow}")
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(4))
    return figure


def draw_cmc(curves: Mapping[str, Floats]) -> Figure:
    """CMC curves (K,) by study, from rank 1."""
    figure = new_figure(3.0)
    axes = figure.subplots()
    for index, (name, curve) in enumerate(curves.items()):
        axes.plot(np.arange(1, len(curve) + 1), curve, color=COLOURS[index % len(COLOURS)], label=name)
    axes.set(xlabel="rank", ylabel="fraction of queries with a match up to it", xlim=(0.5, None), ylim=(None, 1.02))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=7.5, loc="lower right")
    return figure


def draw_cameras(matrix: Floats, names: Sequence[str]) -> Figure:
    """mAP (n_cameras, n_cameras) of the queries of a camera, in rows, against the gallery of another, in columns."""
    figure = _matrix_figure(len(names))
    axes = figure.subplots()
    _draw_matrix(axes, matrix, names, [[f"{value:.2f}" for value in row] for row in matrix])
    axes.set(xlabel="camera of the gallery", ylabel="camera of the query")
    return figure
