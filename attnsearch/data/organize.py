"""CUB as it is published -> `train` and `test` folders of class folders."""

from __future__ import annotations

import shutil
from pathlib import Path

from attnsearch.config.datasets import CubData
from attnsearch.data.cachedir import check_free_space
from attnsearch.data.cub import list_images
from attnsearch.data.listing import ListedImage
from attnsearch.data.new_folder import new_folder
from attnsearch.data.progress import with_bar
from attnsearch.errors import DataError, StoreError


def organize_cub(source: Path, target: Path, *, link: bool = False, progress: bool = False) -> int:
    """Writes `target/train/<class>/` and `target/test/<class>/`, all of it or nothing.

    Args:
        link: makes hard links instead of copies; both folders must be on one disk.

    Returns:
        The number of pictures.

    Raises:
        DataError: the source is not whole, or the target is not empty.
        StoreError: the disk is full, cannot be written, or cannot be linked across.
    """
    listing = list_images(CubData(root=str(source), check_sizes=False))
    if listing.problems:
        raise DataError("\n".join(problem.message for problem in listing.problems))
    with new_folder(target) as folder:
        if not link:
            check_free_space(folder, sum(image.path.stat().st_size for image in listing.images))
        for image in with_bar(listing.images, "Sorting pictures", n_steps=len(listing.images), force=progress):
            _put(image, folder, link=link)
    return len(listing.images)


def _put(image: ListedImage, folder: Path, *, link: bool) -> None:
    place = folder / image.split / image.class_name / image.path.name
    place.parent.mkdir(parents=True, exist_ok=True)
    if not link:
        shutil.copy2(image.path, place)
        return
    try:
        place.hardlink_to(image.path)
    except OSError as error:
        raise StoreError(f"{image.path} cannot be linked into {folder.parent} ({error}); copy instead") from error
