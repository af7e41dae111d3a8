"""Drawings of walking figures that are told apart by five parts; all else is random.

A figure walks to the right in its own coordinates: x forward, y down, its height is 1, its head ends at y = 0.03 and
its feet at y = 1, its spine is x = 0. The side towards the viewer is *near*, the other one *far*.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from attnsearch.config.data import IndividualsData
from attnsearch.data.synthetic.accessories import PARTS, VARIANTS
from attnsearch.data.synthetic.cameras import Camera, draw_obstacle, draw_street, expose
from attnsearch.data.synthetic.canvas import Canvas, Colour, ellipse, fixed, shaded, smooth, stroke

Code = tuple[int, ...]
"""The variant of each part."""
Point = tuple[float, float]

_HEAD, _CHEST, _HIP = (0.005, 0.105), (0.02, 0.305), (-0.105, 0.43)
_THIGH, _SHIN, _UPPER_ARM, _FOREARM = 0.225, 0.215, 0.15, 0.145
_SHIRTS: tuple[Colour, ...] = (
    (120, 84, 84), (84, 104, 132), (104, 124, 96), (158, 146, 128), (92, 88, 108), (176, 170, 164), (70, 74, 78),
    (150, 118, 92), (124, 140, 150),
)  # fmt: skip
_TROUSERS: tuple[Colour, ...] = (
    (58, 66, 88), (72, 68, 66), (110, 100, 84), (48, 50, 54), (128, 126, 122), (86, 76, 62), (92, 104, 120)
)  # fmt: skip
_SKINS: tuple[Colour, ...] = ((238, 200, 172), (214, 168, 134), (176, 126, 92), (132, 92, 66), (94, 64, 48))
_HAIRS: tuple[Colour, ...] = ((42, 34, 30), (84, 60, 42), (128, 92, 58), (176, 148, 104), (110, 106, 104))


@dataclass(frozen=True)
class Clothes:
    """What a figure looks like but for its parts.

    Attributes:
        hem: how far a coat reaches below the hips.
        has_shorts, has_short_sleeves, has_long_hair: what shows of the skin and the head.
    """

    shirt: Colour
    trousers: Colour
    skin: Colour
    hair: Colour
    hem: float
    has_shorts: bool
    has_short_sleeves: bool
    has_long_hair: bool


@dataclass(frozen=True)
class Gait:
    """How a figure moves in one image; angles are in radians, from straight down towards the front.

    Attributes:
        legs, arms: angles of the near and the far one.
        knees, elbows: how far each is bent.
        tilt: of the whole figure; size: factor of its height; shift: right and down, fractions of width and height.
    """

    legs: tuple[float, float]
    knees: tuple[float, float]
    arms: tuple[float, float]
    elbows: tuple[float, float]
    tilt: float
    size: float
    shift: Point
    breadth: float


def random_clothes(rng: np.random.Generator) -> Clothes:
    """Clothes, hair and skin."""

    def shade(palette: tuple[Colour, ...]) -> Colour:
        base, gain, tint = (
            palette[int(rng.integers(len(palette)))],
            float(rng.uniform(0.8, 1.2)),
            rng.uniform(-10, 10, 3),
        )
        red, green, blue = (
            min(255, max(0, round(value * gain + more))) for value, more in zip(base, tint, strict=True)
        )
        return red, green, blue

    shirt, trousers, skin, hair = (shade(palette) for palette in (_SHIRTS, _TROUSERS, _SKINS, _HAIRS))
    coat, shorts, sleeves, long_hair = rng.random(4).tolist()
    hem = 0.13 * coat if coat < 0.5 else 0.0
    return Clothes(shirt, trousers, skin, hair, hem, shorts < 0.2, sleeves < 0.35, long_hair < 0.4)


def random_gait(rng: np.random.Generator) -> Gait:
    """One moment of a walk."""
    stride = float(rng.uniform(0.1, 0.4)) * (1 if rng.random() < 0.5 else -1)
    swing = -stride * float(rng.uniform(0.5, 1.1))
    bends = rng.uniform(0.05, 0.45, 2)
    elbows = rng.uniform(0.1, 0.7, 2)
    return Gait(
        legs=(stride, -stride),
        knees=(float(bends[0]) * (stride < 0), float(bends[1]) * (stride > 0)),
        arms=(swing, -swing),
        elbows=(float(elbows[0]), float(elbows[1])),
        tilt=float(rng.uniform(-0.05, 0.07)),
        size=float(rng.uniform(0.95, 1.04)),
        shift=(float(rng.uniform(-0.03, 0.03)), float(rng.uniform(-0.012, 0.012))),
        breadth=float(rng.uniform(0.9, 1.12)),
    )


def draw_walker(
    code: Code,
    clothes: Clothes,
    camera: Camera,
    rng: np.random.Generator,
    cfg: IndividualsData,
    *,
    present: Collection[str] = PARTS,
) -> tuple[Image.Image, Image.Image]:
    """An image (RGB) and the mask (L) of its parts, in which each pixel is the number of its part, from 1, or 0.

    Args:
        rng: everything but parts and clothes is drawn from it, in the same way for every code and `present`.
        present: the parts that are drawn; without one, what it hides is seen.
    """
    size_hw = (cfg.picture_px, cfg.picture_px // 2)
    canvas, gait = draw_street(camera, rng, size_hw), random_gait(rng)
    is_hidden, obstacle = float(rng.random()) < cfg.occlusion, rng.spawn(1)[0]
    figure = _Figure(canvas, clothes, gait, _painter(canvas, code, present, cfg.part_scale))
    _place(canvas, gait, camera, size_hw)
    figure.draw()
    if is_hidden:
        draw_obstacle(canvas, obstacle, size_hw)
    image, mask = canvas.finish()
    return expose(image, camera, rng), mask


Paint = Callable[[str, ArrayLike, float], None]


def _painter(canvas: Canvas, code: Code, present: Collection[str], scale: float) -> Paint:
    """What paints the part of a name at an anchor (x, y), turned by an angle."""

    def paint(name: str, anchor: ArrayLike, angle: float) -> None:
        number = PARTS.index(name)
        if name in present:
            for polygon, colour in VARIANTS[name][code[number]]:
                canvas.paint(fixed(polygon, anchor, angle, scale), colour, part=number + 1)

    return paint


def _place(canvas: Canvas, gait: Gait, camera: Camera, size_hw: tuple[int, int]) -> None:
    """Sets the canvas to the figure's coordinates, turned about the middle of its height."""
    height, width = size_hw
    cos, sin = math.cos(gait.tilt), math.sin(gait.tilt)
    turn = np.array([[cos, -sin], [sin, cos]]) * (height * camera.height * gait.size)
    if camera.is_mirrored:
        turn[0] *= -1
    shift = np.add(camera.shift, gait.shift)
    canvas.matrix = turn
    canvas.origin = (0.5 + shift) * (width, height) - turn @ (0.0, 0.485)


def _swing(start: Point, length: float, angle: float) -> Point:
    """The end of a limb that begins at a point."""
    return start[0] + length * math.sin(angle), start[1] + length * math.cos(angle)


@dataclass(frozen=True)
class _Figure:
    canvas: Canvas
    clothes: Clothes
    gait: Gait
    paint_part: Paint

    def draw(self) -> None:
        """From the far side to the near one."""
        self._shadow()
        self._arm(1)
        self._leg(1)
        self._leg(0)
        self._torso()
        self._head()
        self.paint_part("bag", _HIP, 0.0)
        self._arm(0)

    def _shadow(self) -> None:
        self.canvas.paint(ellipse((0.0, 0.985), (0.2, 0.022)), (74, 74, 76))

    def _limb(self, start: Point, stop: Point, widths: Point, colour: Colour) -> None:
        """A tapered limb with round ends."""
        along = math.atan2(stop[1] - start[1], stop[0] - start[0])
        across = np.array([-math.sin(along), math.cos(along)])
        near, far = across * widths[0] / 2, across * widths[1] / 2
        self.canvas.paint(np.array([start + near, stop + far, stop - far, start - near]), colour)
        for end, width in ((start, widths[0]), (stop, widths[1])):
            self.canvas.paint(ellipse(end, (width / 2, width / 2)), colour)

    def _leg(self, side: int) -> None:
        clothes, gait = self.clothes, self.gait
        gain = 0.8 if side else 1.0
        hip = (0.02 if side else -0.015, 0.53)
        knee = _swing(hip, _THIGH, gait.legs[side])
        ankle = _swing(knee, _SHIN, gait.legs[side] - gait.knees[side])
        below = clothes.skin if clothes.has_shorts else clothes.trousers
        self._limb(knee, ankle, (0.068, 0.05), shaded(below, gain))
        self._limb(hip, knee, (0.105 * gait.breadth, 0.074), shaded(clothes.trousers, gain))
        angle = (gait.legs[side] - gait.knees[side]) * 0.6
        self.canvas.paint(fixed(_FOOT, ankle, -angle, 1.0), shaded((60, 56, 54), gain))
        self.paint_part("shoes", ankle, -angle)

    def _arm(self, side: int) -> None:
        clothes, gait = self.clothes, self.gait
        gain = 0.8 if side else 0.93
        shoulder = ((0.075 if side else -0.07) * gait.breadth, 0.24)
        elbow = _swing(shoulder, _UPPER_ARM, gait.arms[side])
        angle = gait.arms[side] + gait.elbows[side]
        hand = _swing(elbow, _FOREARM, angle)
        sleeve = clothes.skin if clothes.has_short_sleeves else clothes.shirt
        self._limb(elbow, hand, (0.047, 0.038), shaded(sleeve, gain))
        self._limb(shoulder, elbow, (0.066, 0.05), shaded(clothes.shirt, gain))
        self.canvas.paint(ellipse(_swing(hand, 0.02, angle), (0.025, 0.028)), shaded(clothes.skin, gain))
        self.paint_part("cuffs", hand, -angle)

    def _torso(self) -> None:
        clothes, wide = self.clothes, self.gait.breadth
        bottom = 0.555 + clothes.hem
        neck, front = ((-0.04, 0.195), (0.045, 0.195)), ((0.1, 0.225), (0.092, 0.38), (0.094, bottom - 0.03))
        back = ((0.05, bottom), (-0.05, bottom), (-0.098, bottom - 0.03), (-0.092, 0.38), (-0.1, 0.225))
        outline = smooth([*neck, *((x * wide, y) for x, y in (*front, *back))])
        self.canvas.paint(stroke((0.0, 0.14), (0.0, 0.215), 0.06), shaded(clothes.skin, 0.85))
        self.canvas.paint(outline, shaded(clothes.shirt, 0.8))
        self.canvas.paint(outline * (0.94, 0.99) + (0.006, 0.002), clothes.shirt)
        self.paint_part("emblem", _CHEST, 0.0)

    def _head(self) -> None:
        clothes, (x, y) = self.clothes, _HEAD
        if clothes.has_long_hair:
            self.canvas.paint(ellipse((x - 0.03, y + 0.035), (0.05, 0.085), angle=0.2), shaded(clothes.hair, 0.9))
        self.canvas.paint(ellipse((x, y), (0.056, 0.068)), clothes.skin)
        self.canvas.paint(ellipse((x + 0.055, y + 0.012), (0.012, 0.012)), shaded(clothes.skin, 0.92))  # nose
        hair = [(x + 0.045, y - 0.035), (x + 0.02, y - 0.072), (x - 0.035, y - 0.068), (x - 0.066, y - 0.01)]
        self.canvas.paint(smooth([*hair, (x - 0.05, y + 0.045), (x - 0.025, y - 0.01)]), clothes.hair)
        self.canvas.paint(ellipse((x + 0.026, y - 0.004), (0.008, 0.01)), (40, 34, 34))
        self.paint_part("headgear", (x, y - 0.03), 0.0)


_FOOT = smooth([(-0.03, -0.02), (0.02, -0.02), (0.07, 0.012), (0.068, 0.026), (-0.032, 0.026)])
