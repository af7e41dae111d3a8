"""Drawings of birds that differ in four small parts; all else is random.

A bird looks to the right in its own coordinates: x forward, y down, its length is about 1, the middle of its body is
the origin. A class is a code of four digits, one variant for each of beak, eye ring, wing bar and tail. Parts draw no
random numbers, so that a bird can be drawn again with other parts and all else as it was.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from attnsearch.config.data import SyntheticData
from attnsearch.data.synthetic.canvas import (
    FIRST_CLUTTER,
    Canvas,
    Colour,
    Floats,
    Shapes,
    background,
    ellipse,
    fixed,
    random_clutter,
    random_light,
    shaded,
    smooth,
    stroke,
)

PARTS = ("beak", "eye_ring", "wing_bar", "tail")
Code = tuple[int, int, int, int]

N_VARIANTS = 5
_WHITE, _BLACK, _RED = (250, 250, 248), (22, 20, 24), (222, 32, 34)
_YELLOW, _BLUE, _ORANGE = (255, 214, 30), (40, 120, 235), (250, 130, 20)

_BEAK_BASE, _EYE = (0.355, -0.225), (0.255, -0.25)
_WING_MIDDLE, _TAIL_BASE = (-0.035, -0.005), (-0.27, 0.03)
_HEAD = ((0.10, -0.21), (0.185, -0.33), (0.28, -0.345), (0.355, -0.27), (0.36, -0.19), (0.30, -0.11))
_TORSO = ((0.28, 0.05), (0.12, 0.185), (-0.10, 0.165), (-0.29, 0.07), (-0.31, 0.0), (-0.12, -0.14))
_BELLY = ((0.30, -0.09), (0.27, 0.05), (0.12, 0.18), (-0.10, 0.16), (-0.22, 0.09), (-0.02, 0.08), (0.16, 0.0))
_CAP = ((0.12, -0.235), (0.19, -0.325), (0.28, -0.34), (0.345, -0.285), (0.24, -0.29))
_WING = ((0.15, -0.11), (0.03, -0.135), (-0.17, -0.09), (-0.36, 0.065), (-0.15, 0.10), (0.07, 0.075))
_BACKS: tuple[Colour, ...] = (
    (122, 98, 74), (96, 104, 112), (140, 128, 110), (84, 100, 82),
    (116, 84, 88), (92, 96, 132), (150, 116, 82), (70, 72, 80),
)  # fmt: skip
_BELLIES: tuple[Colour, ...] = (
    (216, 202, 178), (190, 188, 186), (200, 178, 150), (176, 186, 160), (206, 190, 192), (160, 150, 140)
)  # fmt: skip


@dataclass(frozen=True)
class Bird:
    """What is drawn at random about one bird.

    Attributes:
        length: fraction of the image's side.
        spot: its place in the free space, x and y in [0, 1].
        tilt: rotation in radians; head: shift of the head; plumpness: stretch of the body's height.
        tail_angle: in radians, from straight back.
    """

    length: float
    spot: tuple[float, float]
    is_mirrored: bool
    tilt: float
    head: tuple[float, float]
    plumpness: float
    tail_angle: float
    back: Colour
    belly: Colour
    cap: Colour | None
    streaks: tuple[tuple[float, float], ...]


def class_codes(n_classes: int, n_differing_parts: int) -> tuple[Code, ...]:
    """Codes of which any two differ in at least so many of the four parts, from as few variants as will do.

    With q variants (q prime for three parts) the words are free in 5 - n_differing_parts digits and the others follow:
    (a, b, a + b, a + 2b), (a, b, c, a + b + c), (a, a, a, a), each modulo q.
    """
    n_free = 5 - n_differing_parts
    sizes = (3, N_VARIANTS) if n_differing_parts == 3 else range(2, N_VARIANTS + 1)
    q = next(size for size in sizes if size**n_free >= n_classes)
    words = itertools.islice(itertools.product(range(q), repeat=n_free), n_classes)
    extend: dict[int, Callable[..., Code]] = {
        1: lambda a: (a, a, a, a),
        2: lambda a, b: (a, b, (a + b) % q, (a + 2 * b) % q),
        3: lambda a, b, c: (a, b, c, (a + b + c) % q),
        4: lambda a, b, c, d: (a, b, c, d),
    }
    return tuple(extend[n_free](*word) for word in words)


class BirdDrawing:
    """One bird in its surroundings: all that is random about an image, and the image for any parts.

    Args:
        rng: everything but the parts is drawn from it, in the same way for every code.
    """

    def __init__(self, rng: np.random.Generator, cfg: SyntheticData) -> None:
        self._bird = _random_bird(rng, bird_scale=cfg.bird_scale, translation=cfg.translation)
        self._side_px, self._part_scale = cfg.picture_px, cfg.part_scale
        self._background = Canvas(background(rng, (cfg.picture_px, cfg.picture_px)))
        self._clutter = random_clutter(rng, cfg.picture_px)
        self._perch = _perch(rng)
        self._light = random_light(rng, cfg.picture_px)
        self._bodies: dict[int | None, Canvas] = {}

    @property
    def n_clutter(self) -> int:
        """Number of things behind the bird."""
        return len(self._clutter)

    def render(
        self,
        code: Code,
        *,
        present: Collection[str] = PARTS,
        without_clutter: int | None = None,
        counted: Collection[int] | None = None,
    ) -> tuple[Image.Image, Image.Image]:
        """The image (RGB), and the mask (L) of its parts, from 1, and of its clutter, from `FIRST_CLUTTER`.

        Args:
            present: names of the parts that are drawn; without one, what it hides is seen.
            without_clutter: the thing behind the bird that is left out, from 0; None leaves out none.
            counted: the numbers that the mask may hold; None means all.
        """
        variants = {name: variant for name, variant in zip(PARTS, code, strict=True) if name in present}
        canvas = self._body(variants.get("tail"), without_clutter)
        for name in ("wing_bar", "beak", "eye_ring"):
            self._paint_part(canvas, name, variants.get(name))
        _draw_eye(canvas, self._bird)
        image, mask = canvas.finish(counted)
        return self._light.on(image), mask

    def _body(self, tail: int | None, without_clutter: int | None) -> Canvas:
        """A new canvas with all that lies below the other parts, which is painted once for each variant of the tail."""
        if without_clutter is not None:
            return self._paint_body(self._behind(without_clutter), tail)
        if tail not in self._bodies:
            self._bodies[tail] = self._paint_body(self._behind_bird.copy(), tail)
        return self._bodies[tail].copy()

    @cached_property
    def _behind_bird(self) -> Canvas:
        return self._behind(None)

    def _behind(self, without_clutter: int | None) -> Canvas:
        """Background, clutter and perch, on a canvas in the coordinates of the bird."""
        canvas = self._background.copy()
        for number, (polygon, colour) in enumerate(self._clutter):
            if number != without_clutter:
                canvas.paint(polygon, colour, part=FIRST_CLUTTER + number)
        _place(canvas, self._bird, self._side_px)
        for polygon, colour in self._perch:
            canvas.paint(polygon, colour)
        return canvas

    def _paint_body(self, canvas: Canvas, tail: int | None) -> Canvas:
        self._paint_part(canvas, "tail", tail)
        _draw_body(canvas, self._bird)
        _draw_wing(canvas, self._bird)
        return canvas

    def _paint_part(self, canvas: Canvas, name: str, variant: int | None) -> None:
        if variant is not None:
            make, anchor, angle = self._fixtures[name]
            for polygon, colour in make(variant):
                canvas.paint(fixed(polygon, anchor, angle, self._part_scale), colour, part=PARTS.index(name) + 1)

    @cached_property
    def _fixtures(self) -> dict[str, tuple[Callable[[int], Shapes], ArrayLike, float]]:
        """What makes each part, and the place and the angle at which it is fixed to the bird."""
        beak_base, eye = _headed((_BEAK_BASE, _EYE), self._bird)
        return {
            "beak": (_beak, beak_base, 0.08),
            "eye_ring": (_eye_ring, eye, 0.0),
            "wing_bar": (_wing_bar, _WING_MIDDLE, -0.35),
            "tail": (_tail, _TAIL_BASE, self._bird.tail_angle),
        }


def draw_bird(
    code: Code,
    marked: tuple[bool, ...],
    rng: np.random.Generator,
    cfg: SyntheticData,
    *,
    present: Collection[str] = PARTS,
) -> tuple[Image.Image, Image.Image]:
    """An image (RGB) and the mask (L, 0 or 255) of its marked parts, both `cfg.picture_px` square.

    Args:
        marked: which of the four parts the mask shows.
        rng, present: as of `BirdDrawing`.
    """
    numbers = [number for number, is_marked in enumerate(marked, start=1) if is_marked]
    image, mask = BirdDrawing(rng, cfg).render(code, present=present, counted=numbers)
    return image, mask.point(lambda part: 255 * (part > 0))


def _random_bird(rng: np.random.Generator, *, bird_scale: float, translation: float) -> Bird:
    def between(low: float, high: float) -> float:
        return low + (high - low) * float(rng.random())

    def shade(palette: tuple[Colour, ...]) -> Colour:
        base, gain = palette[int(rng.integers(len(palette)))], between(0.8, 1.15)
        red, green, blue = (min(255, max(0, round(value * gain + between(-10, 10)))) for value in base)
        return red, green, blue

    back, belly, cap = shade(_BACKS), shade(_BELLIES), shade(_BACKS)
    return Bird(
        length=bird_scale * between(0.85, 1.15),
        spot=(0.5 + translation * between(-0.5, 0.5), 0.5 + translation * between(-0.5, 0.5)),
        is_mirrored=between(0, 1) < 0.5,
        tilt=between(-0.45, 0.3),
        head=(between(-0.02, 0.02), between(-0.03, 0.03)),
        plumpness=between(0.88, 1.18),
        tail_angle=between(-0.3, 0.35),
        back=back,
        belly=belly,
        cap=cap if between(0, 1) < 0.4 else None,
        streaks=tuple((between(-0.05, 0.25), between(0.03, 0.15)) for _ in range(int(rng.integers(0, 7)))),
    )


def _place(canvas: Canvas, bird: Bird, side_px: int) -> None:
    """Sets the canvas to the bird's coordinates; the whole bird stays inside the centre crop of 7/8."""
    cos, sin = math.cos(bird.tilt), math.sin(bird.tilt)
    turn = np.array([[cos, -sin], [sin, cos]]) * (bird.length * side_px)
    if bird.is_mirrored:
        turn[0] *= -1
    outline = np.array([(-0.62, 0.1), (-0.5, -0.12), (0.2, -0.38), (0.56, -0.23), (0.25, 0.2), (0.0, 0.3)]) @ turn.T
    low, high = outline.min(axis=0), outline.max(axis=0)
    margin = side_px / 16 + 1
    room = np.maximum(side_px - 2 * margin - (high - low), 0.0)
    canvas.matrix, canvas.origin = turn, margin - low + room * np.array(bird.spot)


def _stretched(points: tuple[tuple[float, float], ...], bird: Bird) -> Floats:
    return np.array(points) * (1.0, bird.plumpness)


def _headed(points: tuple[tuple[float, float], ...], bird: Bird) -> Floats:
    return _stretched(points, bird) + bird.head


def _perch(rng: np.random.Generator) -> Shapes:
    """A twig under the bird, and two legs that hold it."""
    lean, hang = 0.12 * (float(rng.random()) - 0.5), 0.275
    bark = shaded((112, 84, 60), 0.6 + 0.7 * float(rng.random()))
    shapes: Shapes = [
        (stroke((-0.55, hang - lean), (0.55, hang + lean), 0.055), bark),
        (stroke((-0.55, hang - lean - 0.012), (0.55, hang + lean - 0.012), 0.015), shaded(bark, 1.35)),
    ]
    leg = shaded((120, 96, 84), 0.6 + 0.5 * float(rng.random()))
    for x in (-0.02, 0.09):
        shapes.append((stroke((x, 0.12), (x + 0.02, hang), 0.02), leg))
        shapes.append((stroke((x - 0.02, hang - 0.005), (x + 0.06, hang - 0.005), 0.022), leg))
    return shapes


def _draw_body(canvas: Canvas, bird: Bird) -> None:
    outline = smooth(np.concatenate([_headed(_HEAD, bird), _stretched(_TORSO, bird)]))
    canvas.paint(outline, shaded(bird.back, 0.62))
    canvas.paint(outline * 0.95 + (0.004, -0.008), bird.back)
    canvas.paint(smooth(_stretched(_BELLY, bird)), bird.belly)
    for x, y in bird.streaks:
        canvas.paint(stroke((x, y), (x - 0.03, y + 0.02), 0.012), shaded(bird.belly, 0.6))
    if bird.cap is not None:
        canvas.paint(smooth(_headed(_CAP, bird)), shaded(bird.cap, 0.8))


def _draw_wing(canvas: Canvas, bird: Bird) -> None:
    wing = smooth(_stretched(_WING, bird))
    canvas.paint(wing, shaded(bird.back, 0.5))
    canvas.paint(wing * 0.93 + (0.003, -0.008), shaded(bird.back, 0.74))
    for shift in (0.0, 0.035, 0.07):
        feather = stroke((-0.08, 0.075 - shift), (-0.31 + 0.6 * shift, 0.07 - shift), 0.009)
        canvas.paint(feather, shaded(bird.back, 0.48))


def _draw_eye(canvas: Canvas, bird: Bird) -> None:
    ((x, y),) = _headed((_EYE,), bird)
    canvas.paint(ellipse((x, y), (0.026, 0.026)), _BLACK)
    canvas.paint(ellipse((x + 0.008, y - 0.009), (0.008, 0.008)), _WHITE)


@cache
def _beak(variant: int) -> Shapes:
    shapes: tuple[Shapes, ...] = (
        [(np.array([(-0.02, -0.05), (0.10, 0.0), (-0.02, 0.05)]), _YELLOW)],  # cone
        [(np.array([(-0.02, -0.026), (0.165, 0.004), (-0.02, 0.03)]), _RED)],  # dagger
        [(smooth([(-0.02, -0.045), (0.05, -0.04), (0.10, 0.0), (0.085, 0.065), (0.055, 0.02), (-0.02, 0.04)]), _BLACK)],
        [
            (np.array([(-0.02, -0.02), (0.09, -0.012), (0.09, 0.014), (-0.02, 0.022)]), (250, 150, 190)),
            (ellipse((0.105, 0.0), (0.04, 0.034)), (250, 150, 190)),
        ],  # spoon
        [(smooth([(-0.02, -0.03), (0.06, -0.01), (0.14, -0.075), (0.09, 0.03), (-0.02, 0.035)]), _BLUE)],  # upturned
    )
    return shapes[variant]


@cache
def _eye_ring(variant: int) -> Shapes:
    disc = ellipse((0.0, 0.0), (0.042, 0.042))
    behind = np.array([(-0.02, -0.022), (-0.095, 0.012), (-0.02, 0.024)])
    brow = smooth([(0.042, -0.03), (0.0, -0.062), (-0.08, -0.04), (-0.08, -0.024), (0.0, -0.035)])
    tear = np.array([(-0.03, 0.015), (0.0, 0.1), (0.03, 0.015)])
    shapes: tuple[Shapes, ...] = (
        [(disc, _WHITE)],
        [(disc, _ORANGE), (behind, _ORANGE)],
        [(disc, _BLUE), (brow, _BLUE)],
        [(disc, _YELLOW), (tear, _YELLOW)],
        [(ellipse((0.025, 0.005), (0.065, 0.034)), _BLACK), (ellipse((0, 0), (0.03, 0.03)), _WHITE)],  # mask
    )
    return shapes[variant]


@cache
def _wing_bar(variant: int) -> Shapes:
    def bar(x: float, width: float, half: float = 0.068) -> Floats:
        return np.array([(x, -half), (x + width, -half), (x + width, half), (x, half)])

    shapes: tuple[Shapes, ...] = (
        [(bar(-0.022, 0.044), _WHITE)],
        [(bar(-0.055, 0.03), _YELLOW), (bar(0.015, 0.03), _YELLOW)],
        [(ellipse((0.0, 0.0), (0.068, 0.048)), _RED)],
        [(bar(-0.065, 0.13, 0.045), _WHITE), (bar(-0.045, 0.09, 0.045), _BLUE)],
        [(ellipse((x, 0.0), (0.022, 0.03)), _ORANGE) for x in (-0.06, 0.0, 0.06)],
    )
    return shapes[variant]


@cache
def _tail(variant: int) -> Shapes:
    fan = smooth([(0.04, -0.03), (-0.12, -0.085), (-0.175, 0.0), (-0.12, 0.085), (0.04, 0.03)])
    long = np.array([(0.04, -0.026), (-0.24, -0.024), (-0.24, 0.024), (0.04, 0.026)])
    shapes: tuple[Shapes, ...] = (
        [(np.array([(0.04, -0.03), (-0.2, -0.095), (-0.09, 0.0), (-0.2, 0.095), (0.04, 0.03)]), (30, 50, 140))],  # fork
        [(fan, (205, 84, 26)), (stroke((-0.135, -0.075), (-0.135, 0.075), 0.03), _BLACK)],
        [(long, _BLACK), (np.array([(-0.17, -0.026), (-0.24, -0.026), (-0.24, 0.026), (-0.17, 0.026)]), _WHITE)],
        [(np.array([(0.04, -0.03), (-0.1, -0.06), (-0.2, 0.0), (-0.1, 0.06), (0.04, 0.03)]), _YELLOW)],  # wedge
        [
            (np.array([(0.04, -0.03), (-0.16, -0.065), (-0.16, 0.065), (0.04, 0.03)]), (20, 140, 120)),
            *((stroke((x, -0.05), (x, 0.05), 0.022), _WHITE) for x in (-0.06, -0.12)),
        ],  # barred
    )
    return shapes[variant]
