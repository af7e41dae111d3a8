"""Outlines around the strongest part of a map, in pixels of the picture."""

from __future__ import annotations

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray

from attnsearch.evaluation.figures.raster import Floats, is_flat

Line = NDArray[np.float64]
PERCENTILE = 95.0
COLOUR = "#00ff00"
"""As in the figures of The Loupe."""


def outlines(placed: Floats, percentile: float = PERCENTILE) -> tuple[Line, ...]:
    """Closed lines around the pixels above a percentile of what the model saw.

    Args:
        placed: (H, W), from `raster.place`; NaN where the model saw nothing.
        percentile: in (0, 100); 95 encloses a twentieth of the model's view.
    Returns:
        One (n, 2) array of x, y per line, in continuous pixels; none for a constant map or one without a value.
    """
    finite = placed[np.isfinite(placed)]
    if not finite.size or is_flat(float(finite.min()), float(finite.max())):
        return ()
    threshold = float(np.percentile(finite, percentile))
    floor = float(finite.min()) - (float(finite.max()) - float(finite.min()))
    framed = np.pad(np.nan_to_num(placed, nan=floor), 1, constant_values=floor)  # so that lines close at the edge
    height, width = framed.shape
    generator = contour_generator(np.arange(width) - 0.5, np.arange(height) - 0.5, framed)
    return tuple(np.asarray(line).clip(0, [width - 2, height - 2]) for line in generator.lines(threshold))
