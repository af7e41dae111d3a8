"""Small copies of images, for pages that show them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from attnsearch.data.images import open_upright
from attnsearch.data.tables import ImageTable
from attnsearch.files import Check, atomic_path

LONGEST_PX = 512
_QUALITY = 85


def write_thumbnails(
    table: ImageTable, image_ids: Iterable[str], place: Callable[[str], Path], *, check: Check | None = None
) -> int:
    """Writes JPEG copies, longer side at most 512 pixels, each whole or not at all; a copy that exists is left.

    Args:
        table: the split that holds the images.
        place: image id -> the copy's path, such as `StudyLayout.thumbnail`.
    Returns:
        How many were written.
    Raises:
        DataError: an image cannot be read.
        StoreError: the disk refuses.
        ValueError: an id that the split does not have.
    """
    paths = dict(zip(table.image_ids, table.paths, strict=True))
    n_written = 0
    for image_id in image_ids:
        if image_id not in paths:
            raise ValueError(f"{table.split} has no image {image_id!r}")
        target = place(image_id)
        if target.exists():
            continue
        thumbnail = open_upright(paths[image_id], longest_px=LONGEST_PX)
        with atomic_path(target, check=check) as temporary:
            thumbnail.save(temporary, format="JPEG", quality=_QUALITY)
        n_written += 1
    return n_written
