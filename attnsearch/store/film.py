"""The film strip of a trial: the saliency of a few validation images after each epoch, one small file each."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnsearch.errors import StoreError
from attnsearch.files import Check, atomic_write, atomic_write_array, csv_text
from attnsearch.store.inspection import content_errors, open_array
from attnsearch.store.trial_layout import TrialLayout

COLUMNS = ("image_id", "class_name", "height_px", "width_px", "crop_left", "crop_top", "crop_right", "crop_bottom")
_FIX = "delete the folder; training writes it"
_LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class FilmImage:
    """One of the images that the film shows.

    Attributes:
        size_hw: height and width of the upright original in pixels.
        crop_box: left, top, right, bottom of what the model sees, in pixels of the original.
    """

    image_id: str
    class_name: str
    size_hw: tuple[int, int]
    crop_box: tuple[float, float, float, float]


def write_film_images(trial: TrialLayout, images: Sequence[FilmImage], *, check: Check | None = None) -> None:
    """Writes which images the frames show, in their order.

    Raises:
        StoreError: the disk refuses.
    """
    rows = [(image.image_id, image.class_name, *map(str, image.size_hw + image.crop_box)) for image in images]
    atomic_write(trial.film_images, csv_text([COLUMNS, *rows]), check=check)


def read_film_images(trial: TrialLayout) -> list[FilmImage]:
    """What `write_film_images` wrote; empty for a trial without a film.

    Raises:
        StoreError: the file is damaged.
    """
    path = trial.film_images
    if not path.is_file():
        return []
    with content_errors(path, _FIX), path.open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
        if tuple(head) != COLUMNS:
            raise ValueError(f"its columns must be {','.join(COLUMNS)}")
        return [_image_of(row) for row in rows]


def _image_of(row: Sequence[str]) -> FilmImage:
    """Raises ValueError for cells that describe no image."""
    image_id, class_name, height, width, *edges = row
    left, top, right, bottom = map(float, edges)
    if not (int(height) > 0 and int(width) > 0 and left < right and top < bottom):
        raise ValueError(f"{image_id} has no size, or no view")
    return FilmImage(image_id, class_name, (int(height), int(width)), (left, top, right, bottom))


def write_film_frame(
    trial: TrialLayout, epoch: int, saliency: NDArray[np.float32], *, check: Check | None = None
) -> None:
    """Writes the saliency (n_images, h, w) after an epoch (from 1) as float16, values beyond its range at its limit.

    Raises:
        StoreError: the disk refuses.
    """
    atomic_write_array(trial.film_frame(epoch), saliency.clip(-_LARGEST, _LARGEST).astype(np.float16), check=check)


def read_film_frame(trial: TrialLayout, epoch: int, n_images: int) -> NDArray[np.float32]:
    """The saliency (n_images, h, w) after an epoch.

    Raises:
        StoreError: there is none, or it is damaged.
    """
    path = trial.film_frame(epoch)
    frame = open_array(path, _FIX)
    if frame.ndim != 3 or len(frame) != n_images or frame.dtype != np.float16:
        raise StoreError(f"{path} must hold {n_images} maps in float16, has {frame.shape} in {frame.dtype}; {_FIX}")
    return np.asarray(frame, dtype=np.float32)
