"""Writes drawings as files: a JPEG image and, beside it, a PNG mask of its parts."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from PIL import Image

from attnsearch.data.layouts import MASKS
from attnsearch.progress import with_bar

J = TypeVar("J")


def check_parts(present: Collection[str], parts: Collection[str]) -> None:
    """Refuses names that are not those of parts.

    Raises:
        ValueError: names them.
    """
    if unknown := set(present) - set(parts):
        raise ValueError(f"parts are {', '.join(parts)}, got {sorted(unknown)}")


def write_drawing(folder: Path, image_id: str, image: Image.Image, mask: Image.Image) -> None:
    """Writes an image and its mask, whose name has another suffix.

    Args:
        image_id: path in the folder, which ends in .jpg.
    """
    image_path, mask_path = folder / image_id, (folder / MASKS / image_id).with_suffix(".png")
    for path in (image_path, mask_path):
        path.parent.mkdir(parents=True, exist_ok=True)
    # Full chroma resolution: parts are a few pixels wide and differ in colour.
    image.save(image_path, quality=92, subsampling=0)
    mask.save(mask_path)


def draw_each(draw: Callable[[J], None], jobs: Sequence[J], label: str) -> None:
    """Draws all images in threads, with a bar; an error of one of them is raised."""
    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="attnsearch-draw") as pool:
        for _ in with_bar(pool.map(draw, jobs), label, n_steps=len(jobs), force=False):
            pass  # a failed drawing raises here
