"""Small data sets, made on the spot."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def write_image(path: Path, size_hw: tuple[int, int] = (12, 16)) -> Path:
    """An image whose colours follow from its name, with the name in the file, so that no two are nearly equal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(zlib.crc32(path.as_posix().encode())).integers(256, size=(4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(colours).resize(size_hw[::-1], Image.Resampling.BICUBIC)
    image.save(path, quality=95, comment=path.as_posix().encode())
    return path


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for every test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("ATTNSEARCH_CACHE", str(folder))
    return folder


@pytest.fixture
def make_tree(tmp_path: Path) -> Callable[..., Path]:
    """Writes `counts[folder]` images named 0.jpg, 1.jpg … into each folder below a new root."""

    def make(counts: Mapping[str, int], *, root: str = "birds", size_hw: tuple[int, int] = (12, 16)) -> Path:
        base = tmp_path / root
        for folder, n_images in counts.items():
            (base / folder).mkdir(parents=True)
            for index in range(n_images):
                write_image(base / folder / f"{index}.jpg", size_hw)
        return base

    return make


@pytest.fixture
def small_tree(make_tree: Callable[..., Path]) -> Path:
    """Two classes with train, val and test."""
    return make_tree({"train/crow": 5, "train/wren": 4, "val/crow": 2, "val/wren": 2, "test/crow": 1, "test/wren": 2})
