"""One image under one model, with all that a figure of it needs; imported without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attnsearch.data.images import open_upright
from attnsearch.figures.raster import Floats, Pixels
from attnsearch.types import AttentionArchive


@dataclass(frozen=True)
class ImageToDraw:
    """An image that shall be drawn; `path` is its file, or a small copy of it, `true` its class, if known."""

    image_id: str
    path: Path
    true: str | None = None


@dataclass(frozen=True, eq=False)
class ClassMap:
    """Where the model looked for one class; `probability` is that of the class."""

    name: str
    probability: float
    map: Floats


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a model made of an image.

    Attributes:
        size_hw: of the upright original, in pixels.
        crop_box: left, top, right, bottom of the model's view in original pixels.
        maps: name -> (h, w), as the model made them.
        norm: (h, w) feature norm, or None.
        saliency: (h, w), or None.
        classes: the most probable classes with their maps, most probable first, where they were asked for.
    """

    wanted: ImageToDraw
    predicted: str
    confidence: float
    size_hw: tuple[int, int]
    crop_box: NDArray[np.float64]
    maps: Mapping[str, Floats]
    norm: Floats | None
    saliency: Floats | None
    classes: Sequence[ClassMap] = field(default_factory=tuple)

    @property
    def is_right(self) -> bool | None:
        """Whether the prediction is the true class; None where that is not known."""
        return None if self.wanted.true is None else self.predicted == self.wanted.true

    @property
    def verdict(self) -> str:
        """The prediction with its probability, `=` where it is right and `≠` where it is wrong."""
        sign = {None: "", True: "= ", False: "≠ "}[self.is_right]
        return f"{sign}{self.predicted} {self.confidence:.2f}"

    def weighted(self) -> dict[str, Floats]:
        """The maps times the feature norm, where there is one: what BR-NPA asks to be looked at."""
        return {name: one if self.norm is None else one * self.norm for name, one in self.maps.items()}


def read_picture(path: Path, *, width_px: int) -> Pixels:
    """(H, W, 3) the upright picture with a width of `width_px`.

    Raises:
        DataError: the file cannot be read.
    """
    picture = open_upright(path, longest_px=2 * width_px)
    height = max(1, round(picture.height * width_px / picture.width))
    return np.asarray(picture.resize((width_px, height)), dtype=np.uint8)


def from_archive(archive: AttentionArchive, wanted: Sequence[ImageToDraw]) -> Iterator[Explanation]:
    """The subjects of archived images, without running a model.

    Raises:
        KeyError: an image is not in the archive.
    """
    row_of = {image_id: row for row, image_id in enumerate(archive.image_ids)}
    for one in wanted:
        row = row_of[one.image_id]
        maps = {} if archive.maps is None else dict(zip(archive.map_names, archive.maps[row], strict=True))
        yield Explanation(
            wanted=one,
            predicted=archive.class_names[int(archive.predictions[row])],
            confidence=float(archive.confidences[row]),
            size_hw=(int(archive.sizes_hw[row][0]), int(archive.sizes_hw[row][1])),
            crop_box=archive.crop_boxes[row],
            maps={name: np.asarray(one_map) for name, one_map in maps.items()},
            norm=None if archive.norms is None else np.asarray(archive.norms[row, 0]),
            saliency=None if archive.saliency is None else np.asarray(archive.saliency[row]),
        )
