"""Cameras that see walking figures: the street behind a figure, what stands before it, and effects on the image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from attnsearch.data.synthetic.accessories import PART_COLOURS
from attnsearch.data.synthetic.canvas import Canvas, Colour, background, ellipse, shaded, stroke
from attnsearch.geometry import Size

Palette = tuple[Colour, Colour, Colour]

#: Two colours of the wall and one of the ground: brick, concrete, park, shop, sand, glass.
_PLACES: tuple[Palette, ...] = (
    ((146, 92, 76), (178, 128, 104), (128, 124, 120)),
    ((168, 168, 164), (200, 200, 194), (110, 112, 116)),
    ((72, 104, 62), (132, 156, 98), (168, 150, 118)),
    ((112, 96, 124), (164, 148, 168), (150, 146, 140)),
    ((196, 180, 142), (218, 206, 176), (184, 168, 132)),
    ((92, 118, 138), (152, 176, 188), (98, 104, 110)),
)


@dataclass(frozen=True)
class Camera:
    """What a camera does to all of its images; the defaults are those of a camera without effects.

    Attributes:
        palette: two colours of the wall and one of the ground; None means those of another place in each image.
        is_mirrored: figures walk to the left.
        height: of a figure, as a fraction of the image's.
        shift: of a figure to the right and down, as fractions of the image's width and height.
        gains: factors of red, green and blue.
        blur, noise: standard deviations, in pixels of an image of 64 pixels width, and of 255.
    """

    palette: Palette | None = None
    is_mirrored: bool = False
    height: float = 0.86
    shift: tuple[float, float] = (0.0, 0.0)
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    blur: float = 0.0
    noise: float = 4.0


def random_camera(seed: tuple[int, ...], index: int) -> Camera:
    """One of the cameras of a seed, with effects.

    They have different palettes as long as there are enough, and every other one sees figures walk to the left.
    """
    places = np.random.default_rng(seed).permutation(len(_PLACES))
    rng = np.random.default_rng((*seed, index))
    gain = float(rng.uniform(0.75, 1.15))
    red, green, blue = (gain * rng.uniform(0.84, 1.16, 3)).tolist()
    return Camera(
        palette=_PLACES[places[index % len(places)]],
        is_mirrored=bool((places[0] + index) % 2),
        height=float(rng.uniform(0.80, 0.92)),
        shift=(float(rng.uniform(-0.06, 0.06)), float(rng.uniform(-0.03, 0.03))),
        gains=(red, green, blue),
        blur=float(rng.uniform(0.0, 0.7)),
        noise=float(rng.uniform(2.0, 6.0)),
    )


def draw_street(camera: Camera, rng: np.random.Generator, size_hw: Size) -> Canvas:
    """A wall with windows, the ground before it, and dots in the colours of parts, so that a colour tells nothing."""
    height, width = size_hw
    first, second, ground = camera.palette or _PLACES[int(rng.integers(len(_PLACES)))]
    canvas = Canvas(background(rng, size_hw, (first, second)))
    horizon = height * float(rng.uniform(0.58, 0.74))
    for _ in range(int(rng.integers(1, 4))):
        x, y, wide, tall, gain = rng.random(5).tolist()
        left, top = x * width, y * horizon * 0.7
        right, bottom = left + width * (0.12 + 0.25 * wide), min(horizon, top + height * (0.1 + 0.25 * tall))
        window = [(left, top), (right, top), (right, bottom), (left, bottom)]
        canvas.paint(window, shaded(first, 0.55 + 0.8 * gain))
    tilt = width * 0.1 * float(rng.uniform(-1, 1))
    ground = shaded(ground, float(rng.uniform(0.85, 1.12)))
    canvas.paint([(0, horizon - tilt), (width, horizon + tilt), (width, height), (0, height)], ground)
    for _ in range(int(rng.integers(1, 4))):
        y, lean = horizon + (height - horizon) * float(rng.random()), tilt * float(rng.random())
        canvas.paint(stroke((0, y - lean), (width, y + lean), 0.012 * height), shaded(ground, 0.85))
    _scatter_dots(canvas, rng, size_hw)
    return canvas


def _scatter_dots(canvas: Canvas, rng: np.random.Generator, size_hw: Size) -> None:
    """Discs and squares, up to the size of a part."""
    height, width = size_hw
    for _ in range(int(rng.integers(4, 12))):
        x, y, size, turn, roundness = rng.random(5).tolist()
        radius = width * (0.02 + 0.07 * size)
        centre = (x * width, y * height)
        corners = ellipse(centre, (radius, radius), angle=turn * math.tau)[:: 1 if roundness < 0.5 else 5]
        canvas.paint(corners, PART_COLOURS[int(rng.integers(len(PART_COLOURS)))])


def draw_obstacle(canvas: Canvas, rng: np.random.Generator, size_hw: Size) -> None:
    """A post or a bench that hides a part of the figure, in pixels."""
    height, width = size_hw
    canvas.matrix, canvas.origin = np.eye(2), np.zeros(2)
    grey = int(rng.integers(50, 150))
    colour = (grey, grey, grey + 8)
    if rng.random() < 0.5:
        x, half = width * float(rng.uniform(0.25, 0.75)), width * float(rng.uniform(0.05, 0.09))
        canvas.paint([(x - half, 0), (x + half, 0), (x + half, height), (x - half, height)], colour)
        canvas.paint(stroke((x - half / 2, 0), (x - half / 2, height), half / 2), shaded(colour, 1.3))
        return
    left, top = width * float(rng.uniform(-0.2, 0.3)), height * float(rng.uniform(0.6, 0.75))
    wood = shaded((134, 92, 58), float(rng.uniform(0.7, 1.2)))
    for row in range(3):
        y = top + row * 0.05 * height
        canvas.paint(stroke((left, y), (left + 0.9 * width, y), 0.036 * height), shaded(wood, 1 - 0.1 * row))
    for x in (left + 0.1 * width, left + 0.8 * width):
        canvas.paint(stroke((x, top), (x, top + 0.3 * height), 0.06 * width), colour)


def expose(image: Image.Image, camera: Camera, rng: np.random.Generator) -> Image.Image:
    """The image as the camera records it: light from one side, its colours, blur and noise."""
    width, height = image.size
    turn, slope, gain = (rng.random(3) * (math.tau, 0.25, 0.2)).tolist()
    x, y = np.linspace(-0.5, 0.5, width)[None, :], np.linspace(-0.5, 0.5, height)[:, None]
    ramp = (0.9 + gain) * (1 + slope * (math.cos(turn) * x + math.sin(turn) * y))
    if camera.blur:
        image = image.filter(ImageFilter.GaussianBlur(camera.blur * width / 64))
    pixels = np.asarray(image, dtype=np.float32) * (ramp[..., None] * camera.gains).astype(np.float32)
    pixels += rng.standard_normal((height, width, 3), dtype=np.float32) * np.float32(camera.noise)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
