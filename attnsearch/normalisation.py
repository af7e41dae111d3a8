"""How images are normalised, and what may replace a removed part of one."""

from __future__ import annotations

from typing import Literal

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Red, green, blue; of values in [0, 1]."""
IMAGENET_STD = (0.229, 0.224, 0.225)

Fill = Literal["mean", "black", "white", "blur"]
"""What replaces a removed cell; `mean` is ImageNet's mean colour, 0 after normalisation."""
