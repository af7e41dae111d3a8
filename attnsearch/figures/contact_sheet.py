"""A contact sheet of saliency laid over the original pictures."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from attnsearch.data.images import open_upright
from attnsearch.data.tables import ImageTable
from attnsearch.types import AttentionArchive

N_COLUMNS, N_ROWS = 4, 3
_TILE_PX, _GAP_PX, _LINE_PX, _FONT_PX = 240, 12, 19, 14
_COLOURS = "inferno"
_STRONGEST = 0.75  # opacity of the most salient cell
_UNSEEN = 0.45  # brightness of what the model does not see
_RIGHT, _WRONG, _INK = (0, 110, 60), (190, 30, 30), (40, 40, 40)
_FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def draw_contact_sheet(archive: AttentionArchive, table: ImageTable) -> Image.Image:
    """Up to twelve images in four columns, spread evenly over the archive, with their true and predicted classes.

    Args:
        table: the archive's split, which knows where the pictures lie.
    Raises:
        DataError: a picture cannot be read.
        ValueError: the archive has no saliency.
    """
    if archive.saliency is None:
        raise ValueError("a contact sheet needs saliency, and the archive has none")
    paths = dict(zip(table.image_ids, table.paths, strict=True))
    n_tiles = min(N_COLUMNS * N_ROWS, len(archive.image_ids))
    rows = np.linspace(0, len(archive.image_ids) - 1, n_tiles).round().astype(int)
    cell_w, cell_h = _TILE_PX + _GAP_PX, _TILE_PX + 2 * _LINE_PX + _GAP_PX
    n_lines = -(-n_tiles // N_COLUMNS)
    sheet = Image.new("RGB", (min(n_tiles, N_COLUMNS) * cell_w + _GAP_PX, n_lines * cell_h + _GAP_PX), "white")
    for index, row in enumerate(rows):
        corner = (_GAP_PX + index % N_COLUMNS * cell_w, _GAP_PX + index // N_COLUMNS * cell_h)
        picture = open_upright(paths[archive.image_ids[row]], longest_px=_TILE_PX, enlarge=True)
        scale = picture.width / float(archive.sizes_hw[row][1])
        tile = overlay(picture, archive.saliency[row], archive.crop_boxes[row] * scale)
        margin = ((_TILE_PX - tile.width) // 2, (_TILE_PX - tile.height) // 2)
        sheet.paste(tile, (corner[0] + margin[0], corner[1] + margin[1]))
        _write_names(sheet, archive, int(row), corner)
    return sheet


def overlay(picture: Image.Image, saliency: NDArray[np.float32], box: NDArray[np.float64]) -> Image.Image:
    """The picture under its saliency; what lies outside the model's view is darkened.

    Args:
        saliency: (h, w); scaled to [0, 1] over its own range. A constant or undefined one shows nothing.
        box: left, top, right, bottom of the model's view in pixels of `picture`; it may reach beyond it.
    """
    shade = np.full((picture.height, picture.width, 1), _UNSEEN)
    strength = np.zeros((picture.height, picture.width))
    left, top, right, bottom = _whole_pixels(box)
    rows, columns = slice(max(top, 0), max(bottom, 0)), slice(max(left, 0), max(right, 0))
    shade[rows, columns] = 1.0
    view = _upscale(_scaled(saliency), width=right - left, height=bottom - top)
    height, width = strength[rows, columns].shape
    strength[rows, columns] = view[max(-top, 0) :, max(-left, 0) :][:height, :width]
    opacity = _STRONGEST * strength[..., None]
    colours = matplotlib.colormaps[_COLOURS](strength)[..., :3] * 255
    mixed = np.asarray(picture, dtype=np.float64) * shade * (1 - opacity) + colours * opacity
    return Image.fromarray(mixed.round().astype(np.uint8))


def _whole_pixels(box: NDArray[np.float64]) -> tuple[int, int, int, int]:
    """The box in whole pixels, at least one pixel wide and high."""
    left, top, right, bottom = (round(float(edge)) for edge in box)
    return left, top, max(left + 1, right), max(top + 1, bottom)


def _scaled(saliency: NDArray[np.float32]) -> NDArray[np.float64]:
    values = np.asarray(saliency, dtype=np.float64)
    extent = values.max() - values.min()
    if not np.isfinite(extent) or extent == 0:
        return np.zeros_like(values)
    scaled: NDArray[np.float64] = (values - values.min()) / extent
    return scaled


def _upscale(values: NDArray[np.float64], *, width: int, height: int) -> NDArray[np.float64]:
    resized = Image.fromarray(values.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.float64).clip(0, 1)


def _write_names(sheet: Image.Image, archive: AttentionArchive, row: int, corner: tuple[int, int]) -> None:
    """Two lines under a tile: the true class, and the predicted one with its confidence."""
    true, predicted = (archive.class_names[int(index[row])] for index in (archive.labels, archive.predictions))
    is_right = true == predicted
    said = f"{'=' if is_right else '≠'} {predicted} {archive.confidences[row]:.2f}"
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(str(_FONT), _FONT_PX)
    for line, text, colour in ((0, true, _INK), (1, said, _RIGHT if is_right else _WRONG)):
        place = (corner[0], corner[1] + _TILE_PX + 2 + line * _LINE_PX)
        draw.text(place, _shorten(draw, text, font), fill=colour, font=font)


def _shorten(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont) -> str:
    while len(text) > 1 and draw.textlength(text, font=font) > _TILE_PX:
        text = text[:-2] + "…"
    return text
