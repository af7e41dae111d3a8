"""The film strip on disk: what is read is what was written, and damage has a name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from attnsearch.errors import StoreError
from attnsearch.store.film import (
    FilmImage,
    read_film_frame,
    read_film_images,
    write_film_frame,
    write_film_images,
)
from attnsearch.store.trial_layout import TrialLayout

IMAGES = [
    FilmImage("val/gull/0.jpg", 'a, "gull"', (60, 100), (12.5, 0.0, 87.5, 60.0)),
    FilmImage("val/tern/1.jpg", "tern", (80, 80), (-1.0, 0.0, 80.0, 80.0)),
]


def test_images_come_back_as_they_were(tmp_path: Path) -> None:
    trial = TrialLayout(tmp_path)
    assert read_film_images(trial) == []
    write_film_images(trial, IMAGES)
    assert read_film_images(trial) == IMAGES


def test_frames_keep_float16_and_its_range(tmp_path: Path) -> None:
    trial = TrialLayout(tmp_path)
    saliency = np.array([[[0.0, 1e9]], [[0.333333, 6e-5]]], dtype=np.float32)
    write_film_frame(trial, 3, saliency)
    assert trial.film_frame(3).stat().st_size == 128 + 2 * saliency.size
    np.testing.assert_allclose(read_film_frame(trial, 3, 2), [[[0.0, 65504]], [[0.333333, 6e-5]]], rtol=1e-3)


@pytest.mark.parametrize("text", ["a,b\n", "", "image_id,class_name\nx,y\n"])
def test_a_damaged_table_is_named(tmp_path: Path, text: str) -> None:
    trial = TrialLayout(tmp_path)
    write_film_images(trial, IMAGES)
    trial.film_images.write_text(text)
    with pytest.raises(StoreError, match=r"images\.csv"):
        read_film_images(trial)


def test_an_image_without_a_size_is_damage(tmp_path: Path) -> None:
    trial = TrialLayout(tmp_path)
    write_film_images(trial, IMAGES)
    trial.film_images.write_text(trial.film_images.read_text().replace(",60,100,", ",0,100,"))
    with pytest.raises(StoreError, match="no size"):
        read_film_images(trial)


def test_a_frame_of_other_images_or_no_array_is_named(tmp_path: Path) -> None:
    trial = TrialLayout(tmp_path)
    write_film_frame(trial, 1, np.zeros((2, 3, 3), dtype=np.float32))
    with pytest.raises(StoreError, match="must hold 8 maps"):
        read_film_frame(trial, 1, 8)
    trial.film_frame(1).write_bytes(b"no array")
    with pytest.raises(StoreError, match=r"1\.npy"):
        read_film_frame(trial, 1, 2)
