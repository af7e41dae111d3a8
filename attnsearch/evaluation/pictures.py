"""Original pictures, upright, as small as they are needed."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from attnsearch.data.pictures import decode_square


def open_upright(path: Path, *, longest_px: int) -> Image.Image:
    """The picture in RGB, EXIF-rotated, with its aspect ratio; the longer side has at most `longest_px` pixels.

    Raises:
        DataError: the file is missing or no picture.
    """
    pixels, (height, width) = decode_square(path, side_px=longest_px, resize="squash")
    scale = min(1.0, longest_px / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
