"""A drawing surface for images and masks, and the background of a synthetic image."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFilter

from attnsearch.geometry import Size

Colour = tuple[int, int, int]
Floats = NDArray[np.float64]
Shapes = list[tuple[Floats, Colour]]
"""Polygons (P, 2) in the order in which they are painted."""

_OVERSAMPLING = 3
_TURN = np.linspace(0, 2 * math.pi, 20, endpoint=False)
_CIRCLE: Floats = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=-1)


def smooth(points: ArrayLike, *, n_steps: int = 6) -> Floats:
    """A closed Catmull-Rom curve through points (P, 2), as a polygon (P * n_steps, 2)."""
    p1 = np.asarray(points, dtype=np.float64)
    p0, p2, p3 = np.roll(p1, 1, axis=0), np.roll(p1, -1, axis=0), np.roll(p1, -2, axis=0)
    t = (np.arange(n_steps) / n_steps)[None, :, None]
    a, b, c, d = (
        term[:, None, :] for term in (2 * p1, p2 - p0, 2 * p0 - 5 * p1 + 4 * p2 - p3, 3 * (p1 - p2) + p3 - p0)
    )
    curve: Floats = 0.5 * (a + b * t + c * t**2 + d * t**3)
    return curve.reshape(-1, 2)


def ellipse(centre: tuple[float, float], radii: tuple[float, float], *, angle: float = 0.0) -> Floats:
    """A polygon (20, 2) along an ellipse; the angle is in radians, from x towards y."""
    cos, sin = math.cos(angle), math.sin(angle)
    points: Floats = _CIRCLE * radii @ np.array([[cos, sin], [-sin, cos]]) + centre
    return points


def stroke(start: tuple[float, float], stop: tuple[float, float], width: float) -> Floats:
    """A polygon (4, 2) along a straight line."""
    along = np.array(stop) - np.array(start)
    across = np.array([-along[1], along[0]]) / max(1e-9, float(np.hypot(*along))) * (width / 2)
    return np.array([start + across, stop + across, stop - across, start - across])


def fixed(polygon: Floats, anchor: ArrayLike, angle: float, scale: float) -> Floats:
    """A polygon (P, 2), scaled and turned about its origin, which comes to lie on the anchor (x, y)."""
    cos, sin = math.cos(angle), math.sin(angle)
    moved: Floats = polygon @ np.array([[cos, sin], [-sin, cos]]) * scale + anchor
    return moved


def shaded(colour: Colour, gain: float) -> Colour:
    """A colour of another brightness."""
    red, green, blue = (min(255, round(value * gain)) for value in colour)
    return red, green, blue


class Canvas:
    """Draws polygons that are given in units of their own through one transform.

    Args:
        background: RGB image; the canvas is drawn at three times its width and height and shrunk at the end.
    """

    def __init__(self, background: Image.Image) -> None:
        size = (background.width * _OVERSAMPLING, background.height * _OVERSAMPLING)
        self._image = background.resize(size, Image.Resampling.BILINEAR)
        self._mask = Image.new("L", size)
        self._draw, self._draw_mask = ImageDraw.Draw(self._image), ImageDraw.Draw(self._mask)
        self.matrix: Floats = np.eye(2)
        self.origin: Floats = np.zeros(2)

    def paint(self, polygon: ArrayLike, colour: Colour, *, part: int = 0) -> None:
        """Fills a polygon (P, 2); the mask holds the number of the part there, from 1, and 0 under anything else.

        `matrix` and `origin` take the polygon's coordinates to pixels of the finished image.
        """
        pixels = (np.asarray(polygon, dtype=np.float64) @ self.matrix.T + self.origin) * _OVERSAMPLING
        vertices = pixels.ravel().tolist()  # x, y, x, y, …
        self._draw.polygon(vertices, fill=colour)
        self._draw_mask.polygon(vertices, fill=part)

    def finish(self) -> tuple[Image.Image, Image.Image]:
        """The image (RGB) and the mask (L): the part that covers most of a pixel, 0 where parts cover no quarter."""
        numbers = np.asarray(self._mask)
        alone = (Image.fromarray((numbers == part) * np.uint8(255)) for part in range(1, max(1, numbers.max()) + 1))
        covered = np.stack([np.asarray(mask.reduce(_OVERSAMPLING)) for mask in alone])  # (n_parts, H, W), up to 255
        mask = np.where(covered.sum(axis=0) >= 64, covered.argmax(axis=0) + 1, 0)
        return self._image.reduce(_OVERSAMPLING), Image.fromarray(mask.astype(np.uint8))


#: Sky, foliage, water, dry grass, snow: two colours each, mixed at random over the image.
_PLACES: tuple[tuple[Colour, Colour], ...] = (
    ((150, 190, 225), (214, 226, 234)),
    ((52, 84, 44), (136, 164, 92)),
    ((58, 92, 110), (140, 168, 170)),
    ((150, 132, 88), (206, 190, 140)),
    ((196, 202, 210), (232, 234, 238)),
)
_LEAVES: tuple[Colour, ...] = ((70, 110, 50), (110, 140, 60), (160, 140, 60), (130, 90, 50), (90, 110, 80))
#: Berries and petals have the colours of parts, so that a colour alone tells no class.
_BERRIES: tuple[Colour, ...] = ((222, 32, 34), (255, 214, 30), (40, 120, 235), (250, 250, 248), (22, 20, 24))


def background(rng: np.random.Generator, size_hw: Size, palette: tuple[Colour, Colour] | None = None) -> Image.Image:
    """A soft, out-of-focus scene (RGB).

    Args:
        size_hw: height and width in pixels; what is drawn is measured by the width.
        palette: the two colours that are mixed; None means those of a place outdoors, drawn at random.
    """
    height, width = size_hw
    first, second = np.array(palette or _PLACES[int(rng.integers(len(_PLACES)))], dtype=np.float64)
    mix = rng.random((5, 5, 1)) * 0.7 + np.linspace(0, 0.3, 5)[:, None, None]
    field = first + (second - first) * mix + rng.normal(0, 6, (5, 5, 3))
    scene = Image.fromarray(field.clip(0, 255).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(scene)
    for _ in range(int(rng.integers(4, 12))):
        x, y = rng.random(2) * (width, height)
        radius = width * (0.03 + 0.1 * float(rng.random()))
        colour = (first + (second - first) * (1.5 * float(rng.random()) - 0.25)).clip(0, 255).astype(int)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(colour[0], colour[1], colour[2]))
    return scene.filter(ImageFilter.GaussianBlur(width * (0.012 + 0.02 * float(rng.random()))))


def scatter_clutter(canvas: Canvas, rng: np.random.Generator, side_px: int) -> None:
    """Twigs, leaves and a few berries behind the bird, in pixels."""
    for _ in range(int(rng.integers(0, 4))):
        (x0, y0), (x1, y1) = (rng.random((2, 2)) * side_px).tolist()
        canvas.paint(stroke((x0, y0), (x1, y1), side_px * (0.005 + 0.012 * float(rng.random()))), (96, 76, 58))
    for _ in range(int(rng.integers(3, 14))):
        x, y, turn, size = rng.random(4).tolist()
        leaf = ellipse(
            (x * side_px, y * side_px), (side_px * (0.02 + 0.03 * size), side_px * 0.016), angle=turn * math.tau
        )
        canvas.paint(leaf, _LEAVES[int(rng.integers(len(_LEAVES)))])
    for _ in range(int(rng.integers(0, 6))):
        x, y, size, _ = rng.random(4).tolist()
        radius = side_px * (0.008 + 0.014 * size)
        berry = ellipse((x * side_px, y * side_px), (radius, radius))
        canvas.paint(berry, _BERRIES[int(rng.integers(len(_BERRIES)))])


def light(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Brightness, warmth, light from one side, and the grain of a sensor."""
    side = image.width
    turn, slope, gain, warmth = (rng.random(4) * (math.tau, 0.3, 0.4, 0.12)).tolist()
    position = np.linspace(-0.5, 0.5, side)
    ramp = 1 + slope * (math.cos(turn) * position[None, :] + math.sin(turn) * position[:, None])
    tint = np.array([1 + warmth - 0.06, 1.0, 1 - warmth + 0.06]) * (gain + 0.78)
    pixels = np.asarray(image, dtype=np.float32) * (ramp[..., None] * tint).astype(np.float32)
    pixels += rng.standard_normal((side, side, 1), dtype=np.float32) * 4
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
