"""The plot of `replay.py`: what each rule loses against what it saves, a panel per pool, every rule named beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

SHOWN = {
    "none": "no pruning",
    "median(8, E/5)": "median(8, E/5)",
    "median(5, E/10)": "median(5, E/10)",
    "median(5, 0)": "median(5, 0)",
    "percentile 25 (5, E/10)": "best quarter",
    "patient median (5, E/10, E/10)": "patient median",
    "Optuna SHA(1, 4)": "Optuna SHA(1, 4)",
    "Optuna SHA(2, 2)": "Optuna SHA(2, 2)",
    "Hyperband(1, E, 3)": "Hyperband",
    "halving": "halving",
    "halving, 2 finish": "2 of 25 finish",
    "halving, keep 1/3": "keep 1/3",
    "halving, brackets of 9, 2 finish": "brackets of 9",
}
"""Rules of the plot and their labels."""
OURS, OTHERS, FEWER, FRONT = "#b5352a", "#3d5a80", "#8a8a8a", "#c9a227"
TICKS = (0, 0.1, 0.3, 1, 3, 10, 30)


@dataclass(frozen=True)
class Point:
    """A rule: times fewer epochs, points of accuracy lost, and the upper end of that over other settings."""

    rule: str
    saving: float
    loss: float
    high: float = 0.0


def plot(pools: Mapping[str, Sequence[Point]], file: Path) -> None:
    """Draws a panel for each pool, by its title."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams |= {"svg.hashsalt": "replay", "font.size": 9}
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        len(pools), 1, figsize=(9.4, 0.4 + 4.4 * len(pools)), squeeze=False, layout="constrained", dpi=72
    )
    for axis, (title, points) in zip(axes[:, 0], pools.items(), strict=True):
        _panel(axis, title, points)
    axes[0, 0].plot([], [], color=OTHERS, linewidth=2, alpha=0.25, label="up to the upper end over other settings")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False)
    figure.draw_without_rendering()  # from here on places are known in pixels
    figure.set_layout_engine("none")
    for axis, points in zip(axes[:, 0], pools.values(), strict=True):
        fewer = [Point("none", 1.0, 0.0), *(point for point in points if point.rule.endswith("of the trials"))]
        _label(axis, [point for point in points if point.rule in SHOWN], [fewer, _front(points)])
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None, dpi=figure.dpi)
    plt.close(figure)


def _panel(axis: Any, title: str, points: Sequence[Point]) -> None:
    shown = [point for point in points if point.rule in SHOWN]
    axis.set_title(title, loc="left", fontsize=9)
    axis.set_yscale("symlog", linthresh=0.3, linscale=1.0)
    top = max(1.0, *(1.6 * point.loss for point in shown))
    axis.set_ylim(-0.12, top)
    axis.set_yticks([tick for tick in TICKS if tick <= top], [f"{tick:g}" for tick in TICKS if tick <= top])
    axis.minorticks_off()
    axis.set_xlim(0.55, 1.12 * max(point.saving for point in shown))
    axis.set_xlabel("times fewer epochs than without pruning")
    axis.set_ylabel("points of accuracy lost")
    axis.spines[["top", "right"]].set_visible(False)
    fewer = [Point("none", 1.0, 0.0), *(point for point in points if point.rule.endswith("of the trials"))]
    axis.plot(*_columns(fewer), "--", color=FEWER, linewidth=1, label="fewer trials, each in full")
    front = _front(points)
    axis.plot(*_columns(front), color=FRONT, linewidth=4, alpha=0.45, zorder=1, label="front of all pruning rules")
    for point in shown:
        axis.plot(point.saving, point.loss, "o", color=_colour(point), markersize=6, zorder=3)
        axis.vlines(point.saving, point.loss, point.high, color=_colour(point), linewidth=2, alpha=0.25, zorder=1)


def _columns(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [point.saving for point in points], [point.loss for point in points]


def _front(points: Sequence[Point]) -> list[Point]:
    """The pruning rules that no other one beats in both, by saving."""
    front: list[Point] = []
    rules = [point for point in points if not point.rule.endswith("of the trials")]
    for point in sorted(rules, key=lambda p: (-p.saving, p.loss)):
        if not front or point.loss < front[-1].loss:
            front.append(point)
    return front[::-1]


def _is_ours(point: Point) -> bool:
    return point.rule.startswith("halving")


def _colour(point: Point) -> str:
    return OURS if _is_ours(point) else OTHERS


def _label(axis: Any, points: Sequence[Point], lines: Sequence[Sequence[Point]]) -> None:
    """Names each point beside it, at the nearest place where its name covers no other name, point or line."""
    taken = [_box(*axis.transData.transform((p.saving, p.loss)), 10, 10) for p in points]
    for line in lines:
        taken += [_box(*place, 6, 6) for place in _along(axis, line)]
    frame, texts = axis.get_window_extent(), list[Box]()
    for point in sorted(points, key=lambda p: (-p.loss, -p.saving)):
        weight = "bold" if _is_ours(point) else "normal"
        text = axis.annotate(
            SHOWN[point.rule],
            (point.saving, point.loss),
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8.5,
            color=_colour(point),
            weight=weight,
            arrowprops={"arrowstyle": "-", "color": _colour(point), "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3},
        )
        size = text.get_window_extent()
        offset = next(
            (
                place
                for place in _offsets(size.width)
                if _is_free(_moved(axis, point, place, size), taken, frame) and not _crosses(axis, point, place, texts)
            ),
            (0.0, 20.0),
        )
        text.set_position(offset)
        texts.append(_moved(axis, point, offset, size))
        taken += [texts[-1], *(_box(*place, 2, 2) for place in _leader(axis, point, offset))]


Box = tuple[float, float, float, float]
"""(left, bottom, right, top) in pixels."""


def _box(x: float, y: float, width: float, height: float) -> Box:
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _moved(axis: Any, point: Point, offset: tuple[float, float], size: Any) -> Box:
    x, y = axis.transData.transform((point.saving, point.loss))
    return _box(x + offset[0], y + offset[1], size.width + 6, size.height + 2)


def _offsets(width: float) -> list[tuple[float, float]]:
    """Places of a name of this width, in pixels from its point, the nearest first."""
    sides = [(side * (width / 2 + 10), 0.0) for side in (1, -1)]
    steps = [
        (dx * width, sign * dy) for dy in range(16, 260, 7) for sign in (1, -1) for dx in (0.0, 0.5, -0.5, 0.9, -0.9)
    ]
    return sides + steps


def _is_free(box: Box, taken: Sequence[Box], frame: Any) -> bool:
    if box[0] < frame.x0 or box[2] > frame.x1 or box[1] < frame.y0 or box[3] > frame.y1:
        return False
    return not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken)


def _leader(axis: Any, point: Point, offset: tuple[float, float]) -> list[tuple[float, float]]:
    """Pixels along the line from a point to its name."""
    x, y = axis.transData.transform((point.saving, point.loss))
    return [(x + part / 20 * offset[0], y + part / 20 * offset[1]) for part in range(3, 18)]


def _crosses(axis: Any, point: Point, offset: tuple[float, float], texts: Sequence[Box]) -> bool:
    return any(b[0] < x < b[2] and b[1] < y < b[3] for x, y in _leader(axis, point, offset) for b in texts)


def _along(axis: Any, line: Sequence[Point]) -> list[tuple[float, float]]:
    """Pixels every so often along a line through points."""
    places = [axis.transData.transform((p.saving, p.loss)) for p in line]
    return [tuple(begin + (end - begin) * part / 24) for begin, end in pairwise(places) for part in range(25)]
