"""Gains as ratios of means over images, which no single image with a small drop can decide.

Let a_i be the difference of the areas under two removal curves of image i, and d_i how far the followed number drops
when all cells are removed. The gain is G = sum a_i / sum d_i, and v_i = G + (a_i - G d_i) / mean(d) the influence value
of an image: the mean of the v_i is exactly G, and their standard deviation divided by sqrt(N) is its standard error by
the delta method. So means, intervals and paired tests of influence values are those of the gain.

Importing this file does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEAST_MEAN_DROP = 0.1
"""Of a probability, a decision, an average precision or a cosine; below, there is nothing that a map could explain."""
TERMS = ("area", "untouched", "filled")
"""What is measured of each image for a gain, in the columns `gain.area`, `gain.untouched` and `gain.filled`."""


def is_term(column: str) -> bool:
    """Whether a column holds a term of a gain."""
    return column.partition(".")[2] in TERMS


def gain_terms(columns: Mapping[str, Floats], gain: str) -> tuple[Floats, Floats]:
    """The differences of areas and the drops (N,) of a gain, from the columns of its terms."""
    areas, untouched, filled = (columns[f"{gain}.{term}"] for term in TERMS)
    return areas, untouched - filled


def is_gain_defined(drops: Floats) -> bool:
    """Whether the followed number falls enough, in the mean over the images (N,), for a gain to mean anything."""
    return bool(len(drops)) and float(np.mean(drops)) >= LEAST_MEAN_DROP


def influence_values(areas: Floats, drops: Floats) -> Floats:
    """The influence values (N,) of a gain, whose mean it is; all NaN where it is undefined.

    Args:
        areas, drops: (N,), not normalised, and negative where the score rises.
    """
    return ratio_influence(areas, drops) if is_gain_defined(drops) else np.full(len(drops), np.nan)


def ratio_influence(numerators: Floats, denominators: Floats) -> Floats:
    """(N,) values whose mean is the ratio of two means, and whose standard error is that of the ratio (delta method).

    Args:
        numerators, denominators: (N,) of the images; those with NaN are left out, and NaN in the result. All are NaN
            where the denominators have no sum.
    """
    is_defined = ~np.isnan(numerators + denominators)
    means = [float(terms[is_defined].mean()) if is_defined.any() else 0.0 for terms in (numerators, denominators)]
    mean = means[1] or math.nan
    ratio = means[0] / mean
    return np.asarray(ratio + (numerators - ratio * denominators) / mean, dtype=np.float64)


def image_gains(areas: Floats, drops: Floats) -> Floats:
    """The gain of each image alone (N,), to sort images by and not to be averaged; NaN where the drop is too small."""
    values: Floats = np.divide(areas, drops, out=np.full(len(drops), np.nan), where=drops >= LEAST_MEAN_DROP)
    return values
