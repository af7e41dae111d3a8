"""What a sheet of panels holds, and how large everything on it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import ImageFont

from attnsearch.figures.raster import Line, Pixels

FORMATS = ("png", "jpg", "pdf", "svg")
RIGHT, WRONG, INK, FAINT = "#006e3c", "#be1e1e", "#1f2328", "#6a737d"
TEXT_PT, SMALL_PT = 8.0, 7.0
LINE_IN, EDGE_IN, SIDE_IN = 0.17, 0.06, 0.2
NOTE_IN, HEADER_IN = 0.035, 0.05
"""Between an image and its note, and a header and what it stands above."""
BOLD = 1.2
"""How much wider bold text is at most."""
TILT = 35.0
"""Degrees, of column names that are wider than their column."""
TILTED_AT = 0.15
"""Where such a name starts, as a part of the width of the column."""
_HINTED = 1.07
"""Of the width that a font has by its outlines; measured with DejaVu Sans from 72 to 300 dots per inch."""
_FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
DETAIL_IN = 0.125
"""Height of a line of details."""
_LEAD_IN = 0.16  # between the first column and the others, where it stands apart
_ROW_IN = 0.12  # above the header of a row that is not the first


@dataclass(frozen=True)
class Frame:
    """A coloured border."""

    colour: str
    is_dashed: bool = False


@dataclass(frozen=True)
class Mark:
    """A coloured box with a short text in it; `box` is left, top, right, bottom in pixels of its image."""

    box: tuple[float, float, float, float]
    colour: str
    text: str = ""

    @property
    def centre(self) -> tuple[float, float]:
        """x, y of its middle."""
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2


@dataclass(frozen=True, eq=False)
class Panel:
    """One image of a sheet.

    Attributes:
        pixels: (H, W, 3) RGB.
        title: a line above it; `note` a line below it, green or red where `is_correct` tells.
        lines: (n, 2) x, y of outlines in pixels of this image.
        details: further lines below the note.
    """

    pixels: Pixels
    title: str = ""
    note: str = ""
    is_correct: bool | None = None
    lines: tuple[Line, ...] = ()
    details: tuple[str, ...] = ()
    frame: Frame | None = None
    marks: tuple[Mark, ...] = ()


def equally_high(panels: Sequence[Panel]) -> list[Panel]:
    """Panels of one width, the lower ones with white above and below, as high as the highest."""
    height = max(len(panel.pixels) for panel in panels)
    return [_raised(panel, height - len(panel.pixels)) for panel in panels]


def _raised(panel: Panel, missing: int) -> Panel:
    """The panel with so many more rows of pixels, half of them above."""
    above = missing // 2
    pixels = np.pad(panel.pixels, ((above, missing - above), (0, 0), (0, 0)), constant_values=255)
    boxes = [(left, top + above, right, bottom + above) for left, top, right, bottom in (m.box for m in panel.marks)]
    return replace(
        panel,
        pixels=pixels,
        lines=tuple(np.add(line, (0, above)) for line in panel.lines),
        marks=tuple(replace(mark, box=box) for mark, box in zip(panel.marks, boxes, strict=True)),
    )


@dataclass(frozen=True, eq=False)
class PanelRow:
    """Panels side by side, as high as the first one asks for.

    Attributes:
        label: stands at the left, from bottom to top.
        header: a line above all of them.
        links: lines from a mark of one panel to one of another: (panel, mark), twice.
    """

    panels: Sequence[Panel]
    label: str = ""
    header: str = ""
    links: Sequence[tuple[tuple[int, int], tuple[int, int]]] = ()


@dataclass(frozen=True, eq=False)
class Grid:
    """A sheet.

    Attributes:
        columns: names above the first row, or none.
        legend: colour, or frame, and name of what it means.
        scale: colour map, and the names of its two ends, for a bar; or None.
        caption: a sentence below everything, on as many lines as it needs.
        has_lead: whether the first column stands apart from the others.
        gap_in: between panels, in inches.
    """

    rows: Sequence[PanelRow]
    columns: Sequence[str] = ()
    legend: Sequence[tuple[str | Frame, str]] = ()
    scale: tuple[str, str, str] | None = None
    caption: str = ""
    has_lead: bool = False
    gap_in: float = 0.035


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
class Extent:
    """Sizes of a sheet in inches, from the top left; text outside the panels has its own bands.

    Attributes:
        lefts: where each column starts.
        row_tops, row_heights: of the panels of each row, without their titles and notes.
        caption: the lines of the caption.
        has_tilted_names: whether the names of the columns are tilted, since one is wider than its column.
    """

    width: float
    height: float
    lefts: tuple[float, ...]
    row_tops: tuple[float, ...]
    row_heights: tuple[float, ...]
    caption: tuple[str, ...]
    has_tilted_names: bool

    @property
    def left(self) -> float:
        """Where the first column starts."""
        return self.lefts[0]

    def fractions(self, left: float, top: float, width: float, height: float) -> tuple[float, float, float, float]:
        """Left, top, width, height in inches from the top left -> matplotlib's fractions from the bottom left."""
        bottom = self.height - top - height
        return left / self.width, bottom / self.height, width / self.width, height / self.height


def measure(grid: Grid, width: float) -> Extent:
    """Where everything on a sheet stands.

    Args:
        width: of a panel, in inches.
    Raises:
        ValueError: a sheet or a row without panels.
    """
    if not grid.rows or not all(row.panels for row in grid.rows):
        raise ValueError("a sheet needs at least one row, and each row a panel")
    has_tilted_names, names_height, overhang = _measure_names(grid.columns, width)
    y = EDGE_IN + names_height
    tops, heights = [], []
    for index, row in enumerate(grid.rows):
        above, image, below = _measure_row(row, width, is_first=not index)
        tops.append(y + above)
        heights.append(image)
        y += above + image + below + grid.gap_in
    lefts = _measure_columns(grid, width)
    right = lefts[-1] + width + overhang
    caption = wrap(grid.caption, right - lefts[0], SMALL_PT)
    n_lines_below = len(caption) + bool(grid.legend) + (grid.scale is not None)
    return Extent(
        width=right + EDGE_IN,
        height=y + n_lines_below * LINE_IN + EDGE_IN,
        lefts=lefts,
        row_tops=tuple(tops),
        row_heights=tuple(heights),
        caption=tuple(caption),
        has_tilted_names=has_tilted_names,
    )


def _measure_columns(grid: Grid, width: float) -> tuple[float, ...]:
    """Where each column starts, in inches from the left edge."""
    left = EDGE_IN + (SIDE_IN if any(row.label for row in grid.rows) else 0)
    n_columns = max(len(row.panels) for row in grid.rows)
    lead = _LEAD_IN if grid.has_lead else 0.0
    return tuple(left + column * (width + grid.gap_in) + lead * (column > 0) for column in range(n_columns))


def _measure_row(row: PanelRow, width: float, *, is_first: bool) -> tuple[float, float, float]:
    """Heights in inches of what stands above the images of a row, of the images, and of what stands below."""
    height_px, width_px = row.panels[0].pixels.shape[:2]
    has_title, has_note = any(panel.title for panel in row.panels), any(panel.note for panel in row.panels)
    above = LINE_IN * has_title + (LINE_IN + _ROW_IN * (not is_first)) * bool(row.header)
    n_details = max(len(panel.details) for panel in row.panels)
    return above, width * height_px / width_px, LINE_IN * has_note + DETAIL_IN * n_details


def _measure_names(names: Sequence[str], width: float) -> tuple[bool, float, float]:
    """Whether the names of columns are tilted, the height of their band, and how far they reach over the right edge."""
    if not names:
        return False, 0.0, 0.0
    widths = [text_width(name, TEXT_PT) for name in names]
    if max(widths) <= width:
        return False, LINE_IN + 0.03, 0.0
    tilt = np.radians(TILT)
    ends = [
        (index - len(names) + TILTED_AT) * width + name_width * float(np.cos(tilt))
        for index, name_width in enumerate(widths)
    ]
    return True, max(widths) * float(np.sin(tilt)) + LINE_IN, max(0.0, *ends) + EDGE_IN


def text_width(text: str, size_pt: float) -> float:
    """Width in inches, at most: small letters are drawn on whole pixels, which makes them wider or narrower."""
    return _HINTED * float(_font().getlength(text)) / 100 * size_pt / 72


@cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_FONT), 100)


def wrap(text: str, width_in: float, size_pt: float) -> list[str]:
    """The lines of a text, each at most `width_in` inches wide; a wider word stands on its own and is cut."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size_pt) <= width_in:
            lines[-1] = longer
        else:
            lines.append(word)
    return [shorten(line, width_in, size_pt) for line in lines]


def shorten(text: str, width_in: float, size_pt: float) -> str:
    """The text, cut with `…` where it is wider than `width_in` inches."""
    while len(text) > 1 and text_width(text, size_pt) > width_in:
        text = text[:-2] + "…"
    return text
