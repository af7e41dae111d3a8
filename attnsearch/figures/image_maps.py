"""One image under one model: what it was taken for, and the maps; numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnsearch.figures.raster import Floats


@dataclass(frozen=True, eq=False)
class ClassMap:
    """Where the model looked for one class; `probability` is that of the class, `map` (h, w)."""

    name: str
    probability: float
    map: Floats


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageMaps:
    """What a model made of an image.

    Attributes:
        class_names: n_classes names.
        predicted: the most probable class.
        probabilities: (n_classes,) float32; NaN where they are not known: an archive holds that of the predicted class.
        size_hw: of the upright original, in pixels.
        crop_box: (4,) left, top, right, bottom of the model's view in original pixels.
        maps: name -> (h, w), as the model made them.
        norm: (h, w) feature norm, or None.
        saliency: (h, w) of `target`, or None where the model makes none.
        target: the class that is explained.
        true: the class of the image, where it is known.
        classes: the most probable classes with their maps, most probable first, where they were asked for.
    """

    image_id: str
    class_names: tuple[str, ...]
    predicted: str
    probabilities: NDArray[np.float32]
    size_hw: tuple[int, int]
    crop_box: NDArray[np.float64]
    maps: Mapping[str, Floats]
    saliency: Floats | None
    target: str
    norm: Floats | None = None
    true: str | None = None
    classes: Sequence[ClassMap] = ()

    @property
    def confidence(self) -> float:
        """The probability of the predicted class."""
        return float(self.probabilities[self.class_names.index(self.predicted)])

    @property
    def is_correct(self) -> bool | None:
        """Whether the prediction is the true class; None where that is not known."""
        return None if self.true is None else self.predicted == self.true

    @property
    def verdict(self) -> str:
        """The prediction with its probability, `=` where it is correct and `≠` where it is not."""
        sign = {None: "", True: "= ", False: "≠ "}[self.is_correct]
        return f"{sign}{self.predicted} {self.confidence:.2f}"

    def weighted(self) -> dict[str, Floats]:
        """The maps (h, w) times the feature norm, where there is one: what BR-NPA shows."""
        return {name: values if self.norm is None else values * self.norm for name, values in self.maps.items()}
