"""Decodes image files."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from attnsearch import geometry
from attnsearch.errors import DataError

_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT_BY: dict[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_QUARTER_TURNS = (5, 6, 7, 8)  # rows and columns change places
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
"""What may be decoded, by content: the endings that are listed, and GIF, which published sets hold under others."""
MAX_PIXELS = 64 * 10**6
"""Pixels that an image may have: decoding takes up to 4 bytes of each, in every thread."""
_TOO_MANY = f"more than the {MAX_PIXELS // 10**6} million that are decoded; save it smaller"
warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # Pillow's own limit, which is higher


class ImageBytes(io.BytesIO):
    """The bytes of an image file that is on no disk; messages name it as its owner does."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self._name = name

    def __str__(self) -> str:
        return self._name


def decode_resized(path: Path | Image.Image, resizing: geometry.Resizing) -> tuple[NDArray[np.uint8], geometry.Size]:
    """An image, upright and resized (bilinear, antialiased).

    Transparent images are laid on white; grey of 16 bits is scaled to 8, not clipped.

    Returns:
        (*resizing.size_hw, 3) uint8 RGB, and height and width of the upright original in pixels.

    Raises:
        DataError: the file is missing, cut off, no image, or of a kind without a defined range.
    """
    with _opened(path) as image:
        return _resized(image, resizing)


def open_upright(path: Path | ImageBytes | Image.Image, *, longest_px: int, enlarge: bool = False) -> Image.Image:
    """The image as it is shown to people: RGB, EXIF-rotated, whole, with its aspect ratio.

    Args:
        longest_px: the longer side has at most so many pixels, and just so many with `enlarge`.

    Raises:
        DataError: as `decode_resized`.
    """
    with _opened(path) as image:
        scale = longest_px / max(image.size)
        width, height = image.size if scale > 1 and not enlarge else (max(1, round(n * scale)) for n in image.size)
        image.draft(None, (2 * width, 2 * height))
        turn = image.getexif().get(_ORIENTATION, 1)
        resized = _to_rgb(image).resize((width, height), Image.Resampling.BILINEAR)
        upright = resized.transpose(_UPRIGHT_BY[turn]) if turn in _UPRIGHT_BY else resized
        upright.info.clear()  # its EXIF would turn it again
        return upright


@contextmanager
def _opened(path: Path | ImageBytes | Image.Image) -> Iterator[Image.Image]:
    """An image of which no more than the header has been read and found small enough; a decoded one as a copy."""
    if isinstance(path, Image.Image):
        yield path.copy()
        return
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise DataError(f"{path}: has {width} x {height} pixels, {_TOO_MANY}")
            yield image
    except DataError:
        raise
    except Exception as error:  # decoders raise nearly anything on broken bytes; all of it means the same here
        raise DataError(f"{path}: {_reason(error)}") from error


def decode_mask(path: Path | Image.Image, resizing: geometry.Resizing) -> NDArray[np.uint8]:
    """A mask, resized as its image: (H, W) uint8, the fraction of a pixel on it times 255.

    Raises:
        DataError: as `decode_resized`.
    """
    pixels, _ = decode_resized(path, resizing)
    return np.ascontiguousarray(pixels[..., 0])


def _resized(image: Image.Image, resizing: geometry.Resizing) -> tuple[NDArray[np.uint8], geometry.Size]:
    """Turned after the resize, where it is cheap: after a quarter turn it is first resized to (W, H)."""
    width, height = image.size
    size_hw, aspect = resizing.size_hw, resizing.aspect
    turn = image.getexif().get(_ORIENTATION, 1)
    is_quarter_turn = turn in _QUARTER_TURNS
    if is_quarter_turn:
        size_hw, aspect = size_hw[::-1], 1 / aspect
    # JPEG may be decoded at 1/2, 1/4 or 1/8 of its size; twice the target is kept so that the resize still filters.
    image.draft(None, (2 * size_hw[1], 2 * size_hw[0]))
    if resizing.rule == "pad":
        target_h, target_w = geometry.padded_hw((height, width), size_hw, aspect=aspect).tolist()
        box = (0.0, 0.0, float(image.width), float(image.height))
    else:
        target_h, target_w = size_hw
        box = tuple(geometry.source_box(image.size[::-1], resizing.rule, aspect=aspect).tolist())
    resized = _to_rgb(image).resize((target_w, target_h), Image.Resampling.BILINEAR, box=box)
    if turn in _UPRIGHT_BY:
        resized = resized.transpose(_UPRIGHT_BY[turn])
    if resizing.rule == "pad":
        resized = resized.crop((0, 0, *resizing.size_hw[::-1]))  # black beyond the image
    return np.asarray(resized, dtype=np.uint8), ((width, height) if is_quarter_turn else (height, width))


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep_grey(image)
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_deep_grey(image: Image.Image) -> Image.Image:
    grey = np.asarray(image)
    if image.mode == "F" or grey.min() < 0 or grey.max() > 65535:
        raise ValueError(f"mode {image.mode} has no defined white; save it with 8 or 16 bits per channel")
    return Image.fromarray((grey // 257).astype(np.uint8)).convert("RGB")


def _reason(error: Exception) -> str:
    match error:
        case FileNotFoundError():
            return "does not exist"
        case UnidentifiedImageError():
            return f"is not an image ({', '.join(FORMATS)})"
        case Image.DecompressionBombError() | Image.DecompressionBombWarning():
            return f"is too large, {_TOO_MANY} ({error})"
        case _ if "truncated" in str(error).lower():
            return f"is cut off ({error})"
        case _:
            return f"cannot be read ({type(error).__name__}: {error})"
