"""A contact sheet of saliency laid over the original images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from attnsearch.data.tables import ImageTable
from attnsearch.figures.explanation import Explanation, ImageToDraw, from_archive
from attnsearch.figures.kinds import DrawStyle, caption_of, draw_cell, scale_of
from attnsearch.figures.panels import Grid, Panel, PanelRow, Sheets, Style
from attnsearch.types import AttentionArchive

N_COLUMNS, N_ROWS = 4, 3
_STYLE = Style(dpi=110)


def contact_sheet(archive: AttentionArchive, table: ImageTable) -> Grid:
    """Up to twelve images in four columns, spread evenly over the archive, with their true and predicted classes.

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
    rows = [PanelRow(cells[start : start + N_COLUMNS]) for start in range(0, len(cells), N_COLUMNS)]
    return Grid(rows, scale=scale_of(DrawStyle()), caption=caption_of(explanations))


def write_contact_sheet(archive: AttentionArchive, table: ImageTable, path: Path) -> None:
    """Writes `contact_sheet` as a PNG.

    Raises:
        DataError, ValueError: as `contact_sheet`.
    """
    Sheets(_STYLE).save(contact_sheet(archive, table), path)


def _spread(archive: AttentionArchive, table: ImageTable) -> list[ImageToDraw]:
    paths = dict(zip(table.image_ids, table.paths, strict=True))
    n_tiles = min(N_COLUMNS * N_ROWS, len(archive.image_ids))
    rows = np.linspace(0, len(archive.image_ids) - 1, n_tiles).round().astype(int)
    ids = [archive.image_ids[row] for row in rows]
    names = [archive.class_names[int(archive.labels[row])] for row in rows]
    return [ImageToDraw(image_id, paths[image_id], true) for image_id, true in zip(ids, names, strict=True)]


def _cell(explanation: Explanation) -> Panel:
    """An overlay between its true class and its prediction."""
    image = explanation.image_of_width(_STYLE.width_px)
    return draw_cell(explanation, image, DrawStyle(), as_parts=False, title=explanation.true or "")
