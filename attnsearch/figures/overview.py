"""The overview of a trial: images with their true parts and their maps, and its numbers beside their floors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from attnsearch.data.images import open_upright
from attnsearch.figures.explanation import Explanation, read_image
from attnsearch.figures.grid import FAINT, INK, RIGHT, WRONG
from attnsearch.figures.kinds import DrawStyle, caption_of, draw_cell
from attnsearch.figures.panels import fill_axes
from attnsearch.files import atomic_path

_IMAGE_IN, _LEFT_IN, _RIGHT_IN, _TOP_IN, _GAP_IN = 1.5, 1.5, 2.6, 0.75, 0.06
_BAR_IN, _BOTTOM_IN, _NOTE_IN = 0.42, 0.6, 0.35
_DPI = 150
_VALUE = "#0550ae"
_ROWS = ("image,\ntrue parts", "saliency of\nthe predicted\nclass", "maps, each\nin one colour")


@dataclass(frozen=True)
class Level:
    """A measured number in [0, 1] with its interval and what is reached without information.

    Attributes:
        low, high: NaN where the interval is not known.
        text: the number as people read it.
    """

    name: str
    value: float
    low: float
    high: float
    floors: Mapping[str, float]
    text: str


@dataclass(frozen=True, eq=False)
class ShownImage:
    """An image of the overview; `mask` is bright on its true parts, None where they are not known."""

    explanation: Explanation
    mask: Path | None = None


def draw_overview(title: str, subtitle: str, images: Sequence[ShownImage], levels: Sequence[Level], path: Path) -> None:
    """Writes the overview as a PNG.

    Args:
        images: of which every one has saliency; a column each.
    Raises:
        DataError: an image or a mask cannot be read.
        StoreError: the disk refuses.
        ValueError: there is no image.
    """
    if not images:
        raise ValueError("an overview needs an image")
    n_rows = 3 if any(one.explanation.maps for one in images) else 2
    width = _LEFT_IN + max(4, len(images)) * (_IMAGE_IN + _GAP_IN) + 0.15
    height = _TOP_IN + n_rows * (_IMAGE_IN + _GAP_IN) + _NOTE_IN + len(levels) * _BAR_IN + _BOTTOM_IN
    figure = Figure(figsize=(width, height), facecolor="white")
    figure.text(0.15 / width, 1 - 0.12 / height, title, fontsize=13, fontweight="bold", color=INK, va="top")
    figure.text(0.15 / width, 1 - 0.40 / height, subtitle, fontsize=9, color=FAINT, va="top")
    for column, shown in enumerate(images):
        for row in range(n_rows):
            left = _LEFT_IN + column * (_IMAGE_IN + _GAP_IN)
            bottom = height - _TOP_IN - _IMAGE_IN - row * (_IMAGE_IN + _GAP_IN)
            axes = figure.add_axes((left / width, bottom / height, _IMAGE_IN / width, _IMAGE_IN / height))
            _fill(axes, shown, row)
            if column == 0:
                axes.text(-0.08, 0.5, _ROWS[row], transform=axes.transAxes, ha="right", va="center", color=INK)
        _write_verdict(axes, shown.explanation)
    if levels:
        box = (_LEFT_IN, _BOTTOM_IN, width - _LEFT_IN - _RIGHT_IN, len(levels) * _BAR_IN)
        _draw_levels(figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height)), levels)
    figure.text(_LEFT_IN / width, 0.12 / height, _legend(images), fontsize=8, color=FAINT)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=_DPI, format="png")


def _legend(images: Sequence[ShownImage]) -> str:
    """What is drawn beside values: intervals, floors, and the frame."""
    frame = caption_of([one.explanation for one in images])
    return "; ".join(
        filter(None, ["dot: value with its 95 % interval; grey marks: reached without information", frame])
    )


def _fill(axes: Axes, shown: ShownImage, row: int) -> None:
    """Draws the image with its parts, its saliency, or its maps."""
    image = read_image(shown.explanation.source, width_px=round(_IMAGE_IN * _DPI))
    axes.set_axis_off()
    if row == 0:
        axes.imshow(image, interpolation="none")
        _outline(axes, shown.mask, (image.shape[0], image.shape[1]))
    elif row == 1 or shown.explanation.maps:
        fill_axes(axes, draw_cell(shown.explanation, image, DrawStyle(), as_parts=row == 2))


def _outline(axes: Axes, mask: Path | None, size_hw: tuple[int, int]) -> None:
    """Lines around the true parts."""
    if mask is None:
        return
    whole = open_upright(mask, longest_px=max(size_hw)).convert("L").resize(size_hw[::-1], Image.Resampling.BILINEAR)
    bright = np.asarray(whole, dtype=np.float32)
    if bright.max() > bright.min():
        for colour, width in (("black", 2.4), ("white", 1.2)):
            axes.contour(bright, levels=[float(bright.max()) / 2], colors=colour, linewidths=width)


def _write_verdict(axes: Axes, explanation: Explanation) -> None:
    """Writes the prediction below the last image of a column."""
    colour = {True: RIGHT, False: WRONG, None: INK}[explanation.is_correct]
    text = axes.text(0.5, -0.04, explanation.verdict, transform=axes.transAxes, fontsize=8, parse_math=False)
    text.set(ha="center", va="top", color=colour)


def _draw_levels(axes: Axes, levels: Sequence[Level]) -> None:
    """A line for each number from 0 to 1, with its interval and its floors."""
    axes.set(xlim=(0, 1), ylim=(len(levels) - 0.4, -0.6))
    axes.set_yticks(range(len(levels)), [one.name for one in levels])
    axes.tick_params(length=0, labelsize=10)
    axes.tick_params(axis="x", labelsize=8, labelcolor=FAINT)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#d1d9e0")
    for place, one in enumerate(levels):
        axes.axhline(place, color="#eaeef2", zorder=0)
        for floor in one.floors.values():
            axes.plot([floor, floor], [place - 0.22, place + 0.22], color=FAINT, linewidth=1.5, clip_on=False)
        _write_floors(axes, one.floors, place)
        if math.isfinite(one.low):
            axes.plot([one.low, one.high], [place, place], color=_VALUE, linewidth=3, alpha=0.45, solid_capstyle="butt")
        axes.plot([one.value], [place], "o", color=_VALUE, markersize=7, clip_on=False)
        axes.text(1.03, place, one.text, va="center", color=INK, fontsize=9, clip_on=False)


def _write_floors(axes: Axes, floors: Mapping[str, float], place: int) -> None:
    """Names the floors above their marks; of two that lie together in one text."""
    groups: list[list[tuple[float, str]]] = []
    for name, floor in sorted(floors.items(), key=lambda item: item[1]):
        if groups and floor - groups[-1][0][0] < 0.12:
            groups[-1].append((floor, name))
        else:
            groups.append([(floor, name)])
    for group in groups:
        middle = sum(floor for floor, _ in group) / len(group)
        alignment = "left" if middle < 0.06 else "center"
        text = ", ".join(name for _, name in group)
        axes.text(max(middle, 0.002), place - 0.24, text, ha=alignment, va="bottom", color=FAINT, fontsize=7)
