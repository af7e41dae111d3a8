"""The five parts of a walking figure that tell it apart: variants that differ in shape and in colour.

Each has its own origin, where it is fixed to the figure; x points to the front, y down, and the figure's height is 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from attnsearch.data.synthetic.canvas import Colour, Floats, Shapes, ellipse, smooth, stroke

RED, YELLOW, BLUE, GREEN = (222, 32, 34), (255, 214, 30), (40, 110, 235), (24, 160, 84)
WHITE, ORANGE, PINK, BLACK = (250, 250, 248), (250, 126, 20), (248, 92, 176), (22, 20, 24)
PART_COLOURS: tuple[Colour, ...] = (RED, YELLOW, BLUE, GREEN, WHITE, ORANGE, PINK, BLACK)


def _box(left: float, top: float, right: float, bottom: float) -> Floats:
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def _star(n_points: int, inner: float, outer: float) -> Floats:
    turn = np.linspace(0, math.tau, 2 * n_points, endpoint=False) - math.pi / 2
    radii = np.where(np.arange(2 * n_points) % 2, inner, outer)[:, None]
    star: Floats = np.stack([np.cos(turn), np.sin(turn)], axis=-1) * radii
    return star


_DOME = smooth([(-0.058, 0.005), (-0.05, -0.04), (0.0, -0.062), (0.046, -0.038), (0.052, 0.005)])
_HEADGEAR: tuple[Shapes, ...] = (  # from the middle of the forehead
    [(_DOME, RED), (np.array([(0.02, -0.014), (0.1, -0.004), (0.1, 0.014), (0.02, 0.012)]), RED)],  # cap
    [(_box(-0.042, -0.072, 0.042, 0.0), BLUE), (_box(-0.08, -0.01, 0.08, 0.01), BLUE)],  # top hat
    [  # woollen hat
        (ellipse((-0.005, -0.07), (0.026, 0.024)), YELLOW),
        (_DOME, YELLOW),
        (_box(-0.06, -0.012, 0.054, 0.014), WHITE),
    ],
    [(np.array([(-0.062, 0.012), (-0.005, -0.115), (0.056, 0.012)]), GREEN)],  # cone
    [  # hood
        (smooth([(-0.062, 0.0), (-0.055, -0.05), (0.0, -0.07), (0.05, -0.045), (0.056, 0.0), (0.03, 0.016)]), WHITE),
        (smooth([(-0.068, -0.01), (-0.03, -0.02), (-0.02, 0.07), (-0.066, 0.08)]), WHITE),
        (_box(-0.06, -0.027, 0.055, -0.012), RED),
    ],
)
_EMBLEMS: tuple[Shapes, ...] = (  # from their middle
    [(ellipse((0, 0), (0.047, 0.047)), YELLOW)],
    [(np.array([(0.0, -0.056), (0.058, 0.044), (-0.058, 0.044)]), WHITE)],
    [(_box(-0.02, -0.054, 0.02, 0.054), RED), (_box(-0.054, -0.02, 0.054, 0.02), RED)],
    [(_star(5, 0.032, 0.066), PINK)],
    [(_box(-0.058, -0.046, 0.058, -0.012), BLUE), (_box(-0.058, 0.012, 0.058, 0.046), BLUE)],
)
_STRAP = stroke((-0.005, -0.03), (0.035, -0.15), 0.016)
_BAGS: tuple[Shapes, ...] = (  # from the near side of the hip
    [  # rucksack
        (smooth([(-0.06, -0.15), (0.0, -0.155), (0.02, -0.07), (0.01, 0.01), (-0.06, 0.01), (-0.078, -0.07)]), GREEN),
        (_box(-0.064, -0.065, 0.004, -0.045), BLACK),
    ],
    [(_STRAP, RED), (np.array([(-0.045, -0.04), (0.03, -0.04), (0.055, 0.06), (-0.07, 0.06)]), RED)],  # handbag
    [(_STRAP, ORANGE), (ellipse((-0.015, 0.02), (0.058, 0.058)), ORANGE)],  # round bag
    [  # roll
        (np.array([(-0.08, -0.036), (0.06, -0.036), (0.074, 0), (0.06, 0.036), (-0.08, 0.036), (-0.094, 0)]), BLUE),
        (_box(-0.06, -0.036, -0.044, 0.036), WHITE),
        (_box(0.012, -0.036, 0.028, 0.036), WHITE),
    ],
    [  # shopping bag
        (stroke((-0.04, -0.03), (-0.025, -0.1), 0.014), YELLOW),
        (stroke((0.02, -0.03), (-0.025, -0.1), 0.014), YELLOW),
        (_box(-0.06, -0.035, 0.032, 0.095), YELLOW),
    ],
)
_CUFFS: tuple[Shapes, ...] = (  # from the wrist, the hand below it
    [(_box(-0.032, -0.025, 0.032, 0.01), WHITE)],  # band
    [(_box(-0.026, -0.05, 0.026, -0.028), ORANGE), (_box(-0.026, -0.012, 0.026, 0.01), ORANGE)],  # two bands
    [(ellipse((0.0, 0.018), (0.032, 0.034)), RED)],  # mitten
    [(np.array([(-0.018, -0.05), (0.018, -0.05), (0.042, 0.008), (-0.042, 0.008)]), BLUE)],  # flared
    [(np.array([(0.0, -0.055), (0.038, -0.012), (0.0, 0.03), (-0.038, -0.012)]), YELLOW)],  # diamond
)
_LOW = smooth([(-0.028, -0.006), (0.016, -0.006), (0.054, 0.01), (0.052, 0.026), (-0.03, 0.026)])
_SHOES: tuple[Shapes, ...] = (  # from the ankle, the sole 0.026 below it
    [(_LOW, WHITE), (_box(-0.026, 0.015, 0.053, 0.026), RED)],  # trainers
    [(_box(-0.026, -0.042, 0.02, 0.016), YELLOW), (_LOW, YELLOW)],  # boots
    [(np.array([(-0.028, -0.012), (0.024, -0.008), (0.095, 0.022), (-0.028, 0.026)]), BLUE)],  # pointed
    [(_box(-0.028, -0.012, 0.03, 0.006), PINK), (_box(-0.032, 0.004, 0.05, 0.028), PINK)],  # platforms
    [(ellipse((0.014, 0.008), (0.046, 0.021)), GREEN)],  # clogs
)
VARIANTS: Mapping[str, tuple[Shapes, ...]] = {
    "headgear": _HEADGEAR,
    "emblem": _EMBLEMS,
    "bag": _BAGS,
    "cuffs": _CUFFS,
    "shoes": _SHOES,
}
PARTS = tuple(VARIANTS)
"""Masks show the first one as 1."""
N_VARIANTS = 5
