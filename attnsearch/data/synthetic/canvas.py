"""A drawing surface for images and masks, and the background of a synthetic image."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFilter

from attnsearch.geometry import Size

Colour = tuple[int, int, int]
Floats = NDArray[np.float64]
Shapes = list[tuple[Floats, Colour]]
"""Polygons (P, 2) in the order in which they are painted."""

FIRST_CLUTTER = 10
"""The number in a mask of the first thing that is no part; those of parts are less."""
_OVERSAMPLING = 3
_QUARTER = 3
"""Of the nine samples of a pixel, the least number of which covers a quarter of it."""
_TURN = np.linspace(0, 2 * math.pi, 20, endpoint=False)
_CIRCLE: Floats = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=-1)


def masks_of_numbers(mask: Image.Image, numbers: Iterable[int]) -> list[Image.Image]:
    """One mask (L) for each number, white where a mask (L) of numbers holds it."""
    held = np.asarray(mask)  # (H, W)
    return [Image.fromarray((held == number) * np.uint8(255)) for number in numbers]


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

    def copy(self) -> Canvas:
        """A canvas on which the same is painted."""
        other = copy(self)
        other._image, other._mask = self._image.copy(), self._mask.copy()
        other._draw, other._draw_mask = ImageDraw.Draw(other._image), ImageDraw.Draw(other._mask)
        return other

    def finish(self, counted: Collection[int] | None = None) -> tuple[Image.Image, Image.Image]:
        """The image (RGB) and the mask (L): the part that covers most of a pixel, 0 where parts cover no quarter.

        There the mask holds the clutter that covers most of the pixel, if clutter covers a quarter.

        Args:
            counted: the numbers that the mask may hold; None means all.
        """
        image = self._image.reduce(_OVERSAMPLING)
        if counted is not None and not counted:
            return image, Image.new("L", image.size)
        samples = _samples(np.asarray(self._mask))  # (9, H·W)
        seen = np.flatnonzero(samples.any(axis=0))
        samples = samples[:, seen]
        painted = [int(n) for n in np.flatnonzero(np.bincount(samples.ravel())) if counted is None or n in counted]
        parts = _majority(samples, [n for n in painted if 0 < n < FIRST_CLUTTER])
        clutter = _majority(samples, [n for n in painted if n >= FIRST_CLUTTER])
        mask = np.zeros(self._mask.width * self._mask.height // _OVERSAMPLING**2, dtype=np.uint8)
        mask[seen] = np.where(parts > 0, parts, clutter)
        return image, Image.fromarray(mask.reshape(image.height, image.width))


def _samples(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(9, H·W) the samples of each pixel, of a mask (3 H, 3 W)."""
    step = _OVERSAMPLING
    return np.stack([mask[row::step, column::step].ravel() for row in range(step) for column in range(step)])


def _majority(samples: NDArray[np.uint8], numbers: Sequence[int]) -> NDArray[np.uint8]:
    """(M,) which number most of the samples (9, M) of a pixel have, the first of equals; 0 below a quarter in all."""
    if not numbers:
        return np.zeros(samples.shape[1], dtype=np.uint8)
    counts = np.stack([(samples == number).sum(axis=0, dtype=np.uint8) for number in numbers])  # (n_numbers, M)
    most = np.array(numbers, dtype=np.uint8)[counts.argmax(axis=0)]
    return np.where(counts.sum(axis=0) >= _QUARTER, most, 0).astype(np.uint8)


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


def random_clutter(rng: np.random.Generator, side_px: int) -> Shapes:
    """Twigs, leaves and a few berries behind the bird, in pixels; each is one polygon."""
    shapes: Shapes = []
    for _ in range(int(rng.integers(0, 4))):
        (x0, y0), (x1, y1) = (rng.random((2, 2)) * side_px).tolist()
        shapes.append((stroke((x0, y0), (x1, y1), side_px * (0.005 + 0.012 * float(rng.random()))), (96, 76, 58)))
    for _ in range(int(rng.integers(3, 14))):
        x, y, turn, size = rng.random(4).tolist()
        leaf = ellipse(
            (x * side_px, y * side_px), (side_px * (0.02 + 0.03 * size), side_px * 0.016), angle=turn * math.tau
        )
        shapes.append((leaf, _LEAVES[int(rng.integers(len(_LEAVES)))]))
    for _ in range(int(rng.integers(0, 6))):
        x, y, size, _ = rng.random(4).tolist()
        radius = side_px * (0.008 + 0.014 * size)
        berry = ellipse((x * side_px, y * side_px), (radius, radius))
        shapes.append((berry, _BERRIES[int(rng.integers(len(_BERRIES)))]))
    return shapes


@dataclass(frozen=True, eq=False)
class Light:
    """What falls on an image and how a sensor sees it.

    Attributes:
        gain: (H, W, 3) float32, brightness, warmth, and light from one side.
        grain: (H, W, 1) float32, the sensor's noise, which is added.
    """

    gain: NDArray[np.float32]
    grain: NDArray[np.float32]

    def on(self, image: Image.Image) -> Image.Image:
        """The image in this light."""
        pixels = np.asarray(image, dtype=np.float32) * self.gain
        pixels += self.grain
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def random_light(rng: np.random.Generator, side: int) -> Light:
    """The light of a square image of so many pixels."""
    turn, slope, gain, warmth = (rng.random(4) * (math.tau, 0.3, 0.4, 0.12)).tolist()
    position = np.linspace(-0.5, 0.5, side)
    ramp = 1 + slope * (math.cos(turn) * position[None, :] + math.sin(turn) * position[:, None])
    tint = np.array([1 + warmth - 0.06, 1.0, 1 - warmth + 0.06]) * (gain + 0.78)
    return Light(
        (ramp[..., None] * tint).astype(np.float32), rng.standard_normal((side, side, 1), dtype=np.float32) * 4
    )
