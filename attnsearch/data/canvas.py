"""A picture and the mask of its parts, drawn together: what covers a part in one covers it in the other."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Floats = NDArray[np.float64]

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


class Canvas:
    """Draws polygons that are given in units of their own through one transform.

    Args:
        background: square RGB picture; the canvas is drawn at three times its side and shrunk at the end.
    """

    def __init__(self, background: Image.Image) -> None:
        self._side_px = background.width
        side = self._side_px * _OVERSAMPLING
        self._picture = background.resize((side, side), Image.Resampling.BILINEAR)
        self._mask = Image.new("L", (side, side))
        self._draw, self._draw_mask = ImageDraw.Draw(self._picture), ImageDraw.Draw(self._mask)
        self.matrix: Floats = np.eye(2)
        self.origin: Floats = np.zeros(2)

    def paint(self, polygon: ArrayLike, colour: Colour, *, is_part: bool = False) -> None:
        """Fills a polygon (P, 2); the mask becomes bright under a part and dark under anything else.

        `matrix` and `origin` take the polygon's coordinates to pixels of the finished picture.
        """
        pixels = (np.asarray(polygon, dtype=np.float64) @ self.matrix.T + self.origin) * _OVERSAMPLING
        corners = pixels.ravel().tolist()  # x, y, x, y, …
        self._draw.polygon(corners, fill=colour)
        self._draw_mask.polygon(corners, fill=255 if is_part else 0)

    def finish(self) -> tuple[Image.Image, Image.Image]:
        """The picture (RGB) and the mask (L, 255 where a part covers a quarter of a pixel)."""
        mask = self._mask.reduce(_OVERSAMPLING).point(lambda share: 255 if share >= 64 else 0)
        return self._picture.reduce(_OVERSAMPLING), mask
