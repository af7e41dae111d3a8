"""Panels in rows, drawn on one matplotlib figure that is used again for each sheet of a batch."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import ConnectionPatch, Patch, Rectangle
from matplotlib.text import Text
from matplotlib.transforms import offset_copy

from attnsearch.figures.grid import (
    BOLD,
    DETAIL_IN,
    EDGE_IN,
    FAINT,
    HEADER_IN,
    INK,
    LINE_IN,
    NOTE_IN,
    RIGHT,
    SIDE_IN,
    SMALL_PT,
    TEXT_PT,
    TILT,
    TILTED_AT,
    WRONG,
    Extent,
    Frame,
    Grid,
    Mark,
    Panel,
    Style,
    measure,
    shorten,
    text_width,
)
from attnsearch.figures.raster import COLOUR, palette
from attnsearch.files import atomic_path

_VECTOR: dict[Any, Any] = {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "attnsearch"}  # text stays text
_LINE_PT, _FRAME_PT = 1.4, 2.0
_DASHES = (0, (3, 1.5))
_BENDS = (0.08, -0.08, 0.16, -0.16, 0.0)  # of links, which would else cover each other along one row of cells


@dataclass
class _Slot:
    """The drawn parts of one panel."""

    axes: Axes
    image: AxesImage
    lines: LineCollection
    title: Text
    note: Text
    details: Text
    frame: Rectangle
    marks: list[Patch] = field(default_factory=list)


@dataclass
class Sheets:
    """Writes sheets one after the other; the figure and its panels are made once and filled again."""

    style: Style = field(default_factory=Style)
    _figure: Figure = field(default_factory=Figure, repr=False)
    _slots: list[_Slot] = field(default_factory=list, repr=False)

    def save(self, grid: Grid, path: Path | IO[bytes]) -> None:
        """Draws a sheet into a file; text stays text in PDF and SVG.

        Args:
            path: its format is that of the style, whatever its suffix.
        """
        kind = self.style.format
        is_raster = kind in ("png", "jpg")
        options: dict[str, Any] = {"pil_kwargs": {"compress_level": 1} if kind == "png" else {"quality": 92}}
        if not is_raster:
            options = {"metadata": {"Creator": "attnsearch", "CreationDate" if kind == "pdf" else "Date": None}}
        with nullcontext() if is_raster else matplotlib.rc_context(_VECTOR):  # costs 10 ms each time
            self.draw(grid).savefig(path, format=kind, dpi=self.style.dpi, **options)

    def write(self, grid: Grid, path: Path) -> Path:
        """Draws a sheet into a file, which is whole or not there at all; returns its path.

        Raises:
            StoreError: the disk refuses.
        """
        with atomic_path(path) as temporary:
            self.save(grid, temporary)
        return path

    def draw(self, grid: Grid) -> Figure:
        """The figure of a sheet, until the next one is drawn; pyplot does not know it."""
        extent = measure(grid, self.style.width_in)
        figure = self._figure
        figure.set_size_inches(extent.width, extent.height)
        for artist in [*figure.texts, *figure.legends, *figure.lines, *figure.artists]:
            artist.remove()
        for axes in [one for one in figure.axes if one not in [slot.axes for slot in self._slots]]:
            axes.remove()  # the bar of the sheet before
        panels = [(r, c, panel) for r, row in enumerate(grid.rows) for c, panel in enumerate(row.panels)]
        while len(self._slots) < len(panels):
            self._slots.append(_new_slot(figure))
        for slot in self._slots[len(panels) :]:
            slot.axes.set_visible(False)
        for slot, (row, column, panel) in zip(self._slots, panels, strict=False):
            position = extent.fractions(
                extent.lefts[column], extent.row_tops[row], self.style.width_in, extent.row_heights[row]
            )
            _fill(slot, panel, position, self.style.width_in)
        self._draw_links(grid)
        self._write_around(grid, extent)
        return figure

    def _draw_links(self, grid: Grid) -> None:
        """Curves between marks, in the colour of the first one, and above them the texts of all marks."""
        first = 0  # slot of the first panel of a row
        for row in grid.rows:
            all_axes = [slot.axes for slot in self._slots[first : first + len(row.panels)]]
            for number, ends in enumerate(row.links):
                (axes, start), (other, end) = [(all_axes[panel], row.panels[panel].marks[mark]) for panel, mark in ends]
                bend = f"arc3,rad={_BENDS[number % len(_BENDS)]}"
                line = ConnectionPatch(start.centre, end.centre, axes.transData, other.transData, connectionstyle=bend)
                line.set(edgecolor=start.colour, linewidth=_LINE_PT)
                self._figure.add_artist(line)
            for axes, panel in zip(all_axes, row.panels, strict=True):
                for mark in panel.marks:
                    text = self._figure.text(*mark.centre, mark.text, transform=axes.transData, zorder=3)
                    text.set(fontsize=SMALL_PT, color="white", ha="center", va="center")
                    text.set_bbox({"boxstyle": "circle,pad=0.2", "facecolor": mark.colour, "edgecolor": "none"})
            first += len(row.panels)

    def _write_around(self, grid: Grid, extent: Extent) -> None:
        figure, width = self._figure, self.style.width_in
        upright: dict[str, Any] = {"ha": "center"}
        tilted: dict[str, Any] = {"ha": "left", "rotation": TILT, "rotation_mode": "anchor"}
        start, alignment = (TILTED_AT * width, tilted) if extent.has_tilted_names else (width / 2, upright)
        for index, name in enumerate(grid.columns):
            at = ((extent.lefts[index] + start) / extent.width, 1 - (extent.row_tops[0] - 0.05) / extent.height)
            figure.text(*at, name, parse_math=False, fontsize=TEXT_PT, color=INK, va="bottom", **alignment)
        for row, top, height in zip(grid.rows, extent.row_tops, extent.row_heights, strict=True):
            if row.label:
                at = ((EDGE_IN + SIDE_IN / 2) / extent.width, 1 - (top + height / 2) / extent.height)
                label = shorten(row.label, height, TEXT_PT)
                figure.text(
                    *at, label, parse_math=False, fontsize=TEXT_PT, color=INK, rotation=90, ha="center", va="center"
                )
            if row.header:
                titled = LINE_IN * any(panel.title for panel in row.panels)
                header = shorten(row.header, (extent.width - extent.left - EDGE_IN) / BOLD, TEXT_PT)
                at = (extent.left / extent.width, 1 - (top - titled - HEADER_IN) / extent.height)
                figure.text(*at, header, parse_math=False, fontsize=TEXT_PT, fontweight="bold", color=INK, va="bottom")
        self._write_below(grid, extent)

    def _write_below(self, grid: Grid, extent: Extent) -> None:
        figure, left = self._figure, extent.left / extent.width
        bottom = EDGE_IN
        for line in reversed(extent.caption):
            figure.text(
                left, bottom / extent.height, line, parse_math=False, fontsize=SMALL_PT, color=FAINT, va="bottom"
            )
            bottom += LINE_IN
        if grid.scale is not None:
            _draw_scale(figure, extent, grid.scale, bottom)
            bottom += LINE_IN
        if grid.legend:
            handles = [_legend_patch(entry, name) for entry, name in grid.legend]
            figure.legend(
                handles=handles,
                loc="lower left",
                bbox_to_anchor=(left, bottom / extent.height),
                ncols=len(handles),
                fontsize=SMALL_PT,
                frameon=False,
                borderaxespad=0,
                borderpad=0,
                handlelength=1,
                handleheight=0.8,
                columnspacing=1.2,
            )


def _new_slot(figure: Figure) -> _Slot:
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    image = axes.imshow(np.zeros((1, 1, 3), dtype=np.uint8), aspect="auto", interpolation="none")
    lines = LineCollection([], colors=COLOUR, linewidths=_LINE_PT)
    axes.add_collection(lines, autolim=False)
    above = offset_copy(axes.transAxes, figure, y=NOTE_IN)
    title = axes.text(
        0.5, 1, "", parse_math=False, transform=above, ha="center", va="bottom", fontsize=SMALL_PT, color=INK
    )
    below = offset_copy(axes.transAxes, figure, y=-NOTE_IN)
    note = axes.text(0.5, 0, "", parse_math=False, transform=below, ha="center", va="top", fontsize=SMALL_PT)
    lower = offset_copy(axes.transAxes, figure, y=-NOTE_IN - DETAIL_IN)
    details = axes.text(
        0.5, 0, "", parse_math=False, transform=lower, ha="center", va="top", fontsize=SMALL_PT, color=FAINT
    )
    details.set_linespacing(1.25)
    frame = Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False, linewidth=_FRAME_PT, clip_on=False)
    axes.add_patch(frame)
    return _Slot(axes, image, lines, title, note, details, frame)


def _fill(slot: _Slot, panel: Panel, position: tuple[float, float, float, float], width_in: float) -> None:
    height, width = panel.pixels.shape[:2]
    slot.axes.set_visible(True)
    slot.axes.set_position(position)
    slot.image.set_data(panel.pixels)
    slot.image.set_extent((0, width, height, 0))
    slot.axes.set(xlim=(0, width), ylim=(height, 0))
    slot.lines.set_segments(list(panel.lines))
    slot.title.set_text(shorten(panel.title, width_in, SMALL_PT))
    slot.note.set_text(shorten(panel.note, width_in, SMALL_PT))
    slot.note.set_color(FAINT if panel.is_correct is None else RIGHT if panel.is_correct else WRONG)
    slot.details.set_text("\n".join(shorten(line, width_in, SMALL_PT) for line in panel.details))
    slot.frame.set_visible(panel.frame is not None)
    if panel.frame is not None:
        slot.frame.set(edgecolor=panel.frame.colour, linestyle=_style_of(panel.frame))
    for artist in slot.marks:
        artist.remove()
    slot.marks = [slot.axes.add_patch(_box_of(mark)) for mark in panel.marks]


def _box_of(mark: Mark) -> Rectangle:
    left, top, right, bottom = mark.box
    return Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=mark.colour, linewidth=_LINE_PT)


def _legend_patch(entry: str | Frame, name: str) -> Patch:
    """An area of a colour, or an empty one with a frame."""
    if isinstance(entry, str):
        return Patch(color=entry, label=name)
    return Patch(facecolor="none", edgecolor=entry.colour, linestyle=_style_of(entry), linewidth=_LINE_PT, label=name)


def _style_of(frame: Frame) -> Any:
    """A line style of matplotlib."""
    return _DASHES if frame.is_dashed else "-"


def fill_axes(axes: Axes, panel: Panel) -> None:
    """Draws a panel on axes of the caller: the image, its outlines, its title and its note."""
    height, width = panel.pixels.shape[:2]
    axes.set_axis_off()
    axes.imshow(panel.pixels, extent=(0, width, height, 0), interpolation="none")
    axes.add_collection(LineCollection(list(panel.lines), colors=COLOUR, linewidths=_LINE_PT), autolim=False)
    axes.set_title(panel.title, parse_math=False, fontsize=TEXT_PT, color=INK)


def _draw_scale(figure: Figure, extent: Extent, scale: tuple[str, str, str], bottom: float) -> None:
    colours, low, high = scale
    left, width, height = extent.left + text_width(low, SMALL_PT) + 0.08, 0.9, 0.08
    axes = figure.add_axes(extent.fractions(left, extent.height - bottom - 0.02 - height, width, height))
    axes.imshow(palette(colours)[None], aspect="auto")
    axes.set_axis_off()
    y = (bottom + 0.02 + height / 2) / extent.height
    for x, text in ((extent.left, low), (left + width + 0.06, high)):
        figure.text(x / extent.width, y, text, fontsize=SMALL_PT, color=FAINT, va="center_baseline")
