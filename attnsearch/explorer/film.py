"""The film strip of a trial for the page of its study."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnsearch.errors import ConfigError
from attnsearch.explorer.site import site
from attnsearch.results.trial import TrialReader
from attnsearch.store.film import FilmImage, read_film_frame, read_film_images

N_LEVELS = 255


def film_values(trial: TrialReader, *, after: int = 0) -> dict[str, Any]:
    """The film strip of a trial: its images, and a frame for each epoch.

    Args:
        after: only frames of later epochs.
    Raises:
        StoreError: a file of it is damaged.
    """
    images = read_film_images(trial.files)
    epochs = [epoch for epoch in trial.files.film_epochs() if epoch > after] if images else []
    return {
        "images": [_film_image_values(trial, image) for image in images],
        "frames": [_frame_values(epoch, read_film_frame(trial.files, epoch, len(images))) for epoch in epochs],
    }


def _film_image_values(trial: TrialReader, image: FilmImage) -> dict[str, Any]:
    return {
        "id": image.image_id,
        "true": image.class_name,
        "size": list(image.size_hw),
        "box": list(image.crop_box),
        "source": site().images.source(trial, "val", image.image_id),
    }


def _frame_values(epoch: int, saliency: NDArray[np.float32]) -> dict[str, Any]:
    """A frame (n_images, h, w) in bytes, of which `N_LEVELS` means `high`."""
    high = float(np.nanmax(saliency, initial=0.0))
    levels = np.nan_to_num(saliency / (high or 1.0)).clip(0, 1) * N_LEVELS
    cells = base64.b64encode(levels.round().astype(np.uint8).tobytes()).decode()
    return {"epoch": epoch, "high": high, "h": saliency.shape[1], "w": saliency.shape[2], "cells": cells}


def film_image(trial: TrialReader, index: int) -> str:
    """The id of one of the images of a film strip.

    Raises:
        ConfigError: it shows fewer images.
    """
    images = read_film_images(trial.files)
    if index >= len(images):
        raise ConfigError(f"the film of trial {trial.number} shows {len(images)} images, there is no image {index}")
    return images[index].image_id
