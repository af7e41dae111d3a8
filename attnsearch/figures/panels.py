"""Panels in rows, drawn on one matplotlib figure that is used again for each sheet of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.transforms import offset_copy
from PIL import ImageFont

from attnsearch.figures.raster import COLOUR, Line, Pixels, palette

FORMATS = ("png", "jpg", "pdf", "svg")
RIGHT, WRONG, INK, FAINT = "#006e3c", "#be1e1e", "#1f2328", "#6a737d"
_VECTOR: dict[Any, Any] = {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "attnsearch"}  # text stays text
_FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
_TEXT_PT, _SMALL_PT = 8.0, 7.0
_LINE_IN, _GAP_IN, _EDGE_IN, _SIDE_IN = 0.17, 0.035, 0.06, 0.2
_TILT = 35.0  # degrees, of column names that are wider than their column
_TILTED_AT = 0.15  # of the width of the column, where such a name starts
_NOTE_IN = 0.025
_LINE_PT = 1.4


@dataclass(frozen=True, eq=False)
class Panel:
    """One image of a sheet.

    Attributes:
        pixels: (H, W, 3) RGB.
        title: a line above it; `note` a line below it, green or red where `is_correct` tells.
        lines: (n, 2) x, y of outlines in pixels of this image.
    """

    pixels: Pixels
    title: str = ""
    note: str = ""
    is_correct: bool | None = None
    lines: tuple[Line, ...] = ()


@dataclass(frozen=True, eq=False)
class PanelRow:
    """Panels side by side, as high as the first one asks for; `label` stands at the left, from bottom to top."""

    panels: Sequence[Panel]
    label: str = ""


@dataclass(frozen=True, eq=False)
class Grid:
    """A sheet.

    Attributes:
        columns: names above the first row, or none.
        legend: colour and name of what the colours mean.
        scale: colour map, and the names of its two ends, for a bar; or None.
        caption: a line below everything.
    """

    rows: Sequence[PanelRow]
    columns: Sequence[str] = ()
    legend: Sequence[tuple[str, str]] = ()
    scale: tuple[str, str, str] | None = None
    caption: str = ""


@dataclass(frozen=True)
class Style:
    """How sheets are written; `width_in` is the width of one panel in inches, `dpi` the dots per inch of pixels."""

    dpi: int = 150
    width_in: float = 2.2
    format: str = "png"

    @property
    def width_px(self) -> int:
        """Pixels across a panel."""
        return max(1, round(self.width_in * self.dpi))


@dataclass(frozen=True)
class _Extent:
    """Sizes of a sheet in inches, from the top left; text outside the panels has its own bands.

    Attributes:
        left: where the first column starts.
        row_tops, row_heights: of the panels of each row, without their titles and notes.
        has_tilted_names: whether the names of the columns are tilted, since one is wider than its column.
    """

    width: float
    height: float
    left: float
    row_tops: tuple[float, ...]
    row_heights: tuple[float, ...]
    has_tilted_names: bool

    def fractions(self, left: float, top: float, width: float, height: float) -> tuple[float, float, float, float]:
        """Left, top, width, height in inches from the top left -> matplotlib's fractions from the bottom left."""
        bottom = self.height - top - height
        return left / self.width, bottom / self.height, width / self.width, height / self.height


@dataclass
class _Slot:
    """The drawn parts of one panel."""

    axes: Axes
    image: AxesImage
    lines: LineCollection
    title: Text
    note: Text


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

    def draw(self, grid: Grid) -> Figure:
        """The figure of a sheet, until the next one is drawn; pyplot does not know it."""
        extent = _measure(grid, self.style.width_in)
        figure = self._figure
        figure.set_size_inches(extent.width, extent.height)
        for artist in [*figure.texts, *figure.legends, *figure.lines]:
            artist.remove()
        for axes in [one for one in figure.axes if one not in [slot.axes for slot in self._slots]]:
            axes.remove()  # the bar of the sheet before
        panels = [(r, c, panel) for r, row in enumerate(grid.rows) for c, panel in enumerate(row.panels)]
        while len(self._slots) < len(panels):
            self._slots.append(_new_slot(figure))
        for slot in self._slots[len(panels) :]:
            slot.axes.set_visible(False)
        for slot, (row, column, panel) in zip(self._slots, panels, strict=False):
            left = extent.left + column * (self.style.width_in + _GAP_IN)
            position = extent.fractions(left, extent.row_tops[row], self.style.width_in, extent.row_heights[row])
            _fill(slot, panel, position, self.style.width_in)
        self._write_around(grid, extent)
        return figure

    def _write_around(self, grid: Grid, extent: _Extent) -> None:
        figure, width = self._figure, self.style.width_in
        upright: dict[str, Any] = {"ha": "center"}
        tilted: dict[str, Any] = {"ha": "left", "rotation": _TILT, "rotation_mode": "anchor"}
        start, alignment = (_TILTED_AT * width, tilted) if extent.has_tilted_names else (width / 2, upright)
        for index, name in enumerate(grid.columns):
            x = extent.left + index * (width + _GAP_IN) + start
            at = (x / extent.width, 1 - (extent.row_tops[0] - 0.05) / extent.height)
            figure.text(*at, name, fontsize=_TEXT_PT, color=INK, va="bottom", **alignment)
        for row, top, height in zip(grid.rows, extent.row_tops, extent.row_heights, strict=True):
            if row.label:
                at = ((_EDGE_IN + _SIDE_IN / 2) / extent.width, 1 - (top + height / 2) / extent.height)
                label = shorten(row.label, height, _TEXT_PT)
                figure.text(*at, label, fontsize=_TEXT_PT, color=INK, rotation=90, ha="center", va="center")
        self._write_below(grid, extent)

    def _write_below(self, grid: Grid, extent: _Extent) -> None:
        figure, left = self._figure, extent.left / extent.width
        bottom = _EDGE_IN
        if grid.caption:
            at = (left, bottom / extent.height)
            room = extent.width - extent.left - _EDGE_IN
            figure.text(*at, shorten(grid.caption, room, _SMALL_PT), fontsize=_SMALL_PT, color=FAINT, va="bottom")
            bottom += _LINE_IN
        if grid.scale is not None:
            _draw_scale(figure, extent, grid.scale, bottom)
            bottom += _LINE_IN
        if grid.legend:
            handles: list[Patch | Line2D] = [Patch(color=colour, label=name) for colour, name in grid.legend]
            figure.legend(
                handles=handles,
                loc="lower left",
                bbox_to_anchor=(left, bottom / extent.height),
                ncols=len(handles),
                fontsize=_SMALL_PT,
                frameon=False,
                borderaxespad=0,
                borderpad=0,
                handlelength=1,
                handleheight=0.8,
                columnspacing=1.2,
            )


def _measure(grid: Grid, width: float) -> _Extent:
    if not grid.rows or not all(row.panels for row in grid.rows):
        raise ValueError("a sheet needs at least one row, and each row a panel")
    has_tilted_names, names_height, overhang = _measure_names(grid.columns, width)
    left = _EDGE_IN + (_SIDE_IN if any(row.label for row in grid.rows) else 0)
    y = _EDGE_IN + names_height
    tops, heights = [], []
    for row in grid.rows:
        title, image, note = _measure_row(row, width)
        tops.append(y + title)
        heights.append(image)
        y += title + image + note + _GAP_IN
    n_lines_below = sum(map(bool, (grid.caption, grid.legend, grid.scale)))
    n_columns = max(len(row.panels) for row in grid.rows)
    return _Extent(
        width=left + n_columns * (width + _GAP_IN) - _GAP_IN + _EDGE_IN + overhang,
        height=y + n_lines_below * _LINE_IN + _EDGE_IN,
        left=left,
        row_tops=tuple(tops),
        row_heights=tuple(heights),
        has_tilted_names=has_tilted_names,
    )


def _measure_row(row: PanelRow, width: float) -> tuple[float, float, float]:
    """Heights in inches of the titles, the images and the notes of a row."""
    height_px, width_px = row.panels[0].pixels.shape[:2]
    has_title, has_note = any(panel.title for panel in row.panels), any(panel.note for panel in row.panels)
    return _LINE_IN * has_title, width * height_px / width_px, _LINE_IN * has_note


def _measure_names(names: Sequence[str], width: float) -> tuple[bool, float, float]:
    """Whether the names of columns are tilted, the height of their band, and how far they reach over the right edge."""
    if not names:
        return False, 0.0, 0.0
    widths = [_text_width(name, _TEXT_PT) for name in names]
    if max(widths) <= width:
        return False, _LINE_IN + 0.03, 0.0
    tilt = np.radians(_TILT)
    ends = [
        (index - len(names) + _TILTED_AT) * width + name_width * float(np.cos(tilt))
        for index, name_width in enumerate(widths)
    ]
    return True, max(widths) * float(np.sin(tilt)) + _LINE_IN, max(0.0, *ends) + _EDGE_IN


def _new_slot(figure: Figure) -> _Slot:
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    image = axes.imshow(np.zeros((1, 1, 3), dtype=np.uint8), aspect="auto", interpolation="none")
    lines = LineCollection([], colors=COLOUR, linewidths=_LINE_PT)
    axes.add_collection(lines, autolim=False)
    above = offset_copy(axes.transAxes, figure, y=_NOTE_IN)
    title = axes.text(0.5, 1, "", transform=above, ha="center", va="bottom", fontsize=_SMALL_PT, color=INK)
    below = offset_copy(axes.transAxes, figure, y=-_NOTE_IN)
    note = axes.text(0.5, 0, "", transform=below, ha="center", va="top", fontsize=_SMALL_PT)
    return _Slot(axes, image, lines, title, note)


def _fill(slot: _Slot, panel: Panel, position: tuple[float, float, float, float], width_in: float) -> None:
    height, width = panel.pixels.shape[:2]
    slot.axes.set_visible(True)
    slot.axes.set_position(position)
    slot.image.set_data(panel.pixels)
    slot.image.set_extent((0, width, height, 0))
    slot.axes.set(xlim=(0, width), ylim=(height, 0))
    slot.lines.set_segments(list(panel.lines))
    slot.title.set_text(shorten(panel.title, width_in, _SMALL_PT))
    slot.note.set_text(shorten(panel.note, width_in, _SMALL_PT))
    slot.note.set_color(FAINT if panel.is_correct is None else RIGHT if panel.is_correct else WRONG)


def fill_axes(axes: Axes, panel: Panel) -> None:
    """Draws a panel on axes of the caller: the image, its outlines, its title and its note."""
    height, width = panel.pixels.shape[:2]
    axes.set_axis_off()
    axes.imshow(panel.pixels, extent=(0, width, height, 0), interpolation="none")
    axes.add_collection(LineCollection(list(panel.lines), colors=COLOUR, linewidths=_LINE_PT), autolim=False)
    axes.set_title(panel.title, fontsize=_TEXT_PT, color=INK)


def _draw_scale(figure: Figure, extent: _Extent, scale: tuple[str, str, str], bottom: float) -> None:
    colours, low, high = scale
    left, width, height = extent.left + _text_width(low, _SMALL_PT) + 0.08, 0.9, 0.08
    axes = figure.add_axes(extent.fractions(left, extent.height - bottom - 0.02 - height, width, height))
    axes.imshow(palette(colours)[None], aspect="auto")
    axes.set_axis_off()
    y = (bottom + 0.02 + height / 2) / extent.height
    for x, text in ((extent.left, low), (left + width + 0.06, high)):
        figure.text(x / extent.width, y, text, fontsize=_SMALL_PT, color=FAINT, va="center_baseline")


def _text_width(text: str, size_pt: float) -> float:
    """Width in inches."""
    return float(_font().getlength(text)) / 100 * size_pt / 72


@cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_FONT), 100)


def shorten(text: str, width_in: float, size_pt: float) -> str:
    """The text, cut with `…` where it is wider than `width_in` inches."""
    while len(text) > 1 and _text_width(text, size_pt) > width_in:
        text = text[:-2] + "…"
    return text
