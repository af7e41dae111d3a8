"""Data sets in a folder of images: the images that are found there, their masks, and their splits."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from attnsearch.config.data import FolderData
from attnsearch.data.hold_out import HoldOut, hold_out_images
from attnsearch.data.layouts import MASKS, find_in_folder
from attnsearch.data.listing import DataProblem, ListedImage, Listing, class_problems, is_file
from attnsearch.data.near_duplicates import near_groups

logger = logging.getLogger(__name__)

TEST_SHARE = 0.2
"""Fraction of each class that is tested where a folder does not say which images are."""


def list_images(cfg: FolderData) -> Listing:
    """Finds the images of a folder data set; one without splits is split by a hash of `split_seed` and the names.

    Returns:
        Classes are the sorted names of train's. For a pair, `root` is the folder that holds both.

    Raises:
        DataError: no such folder, no known layout, or a class that cannot be split.
    """
    listing = list_folder(cfg.root_path.absolute())
    if listing.is_split or any(problem.is_error for problem in listing.problems):
        return listing
    images = split_images(listing, val_share=cfg.val_share, seed=cfg.split_seed)
    return replace(listing, images=images, problems=(*listing.problems, _split_note(cfg, listing.root)))


def list_folder(root: Path) -> Listing:
    """The images in the folder of an absolute path, as they lie there."""
    found = find_in_folder(root)
    problems = (*class_problems(root, found.classes), *found.problems)
    return Listing(
        root=found.base,
        class_names=found.classes["train"],
        images=tuple(with_masks(found.base, found.images)),
        problems=problems,
        folders=found.folders,
        is_split=found.is_split,
    )


def split_images(listing: Listing, *, val_share: float, seed: int) -> tuple[ListedImage, ...]:
    """Images of train with fractions of each class moved to test and val; near-duplicates stay on one side.

    Args:
        val_share: fraction of all images.
    Raises:
        DataError: a class has too few images.
    """
    settings = HoldOut(TEST_SHARE, seed, near_groups(listing.root, listing.images))
    images = hold_out_images(listing.images, settings, to="test")
    return hold_out_images(images, replace(settings, fraction=val_share / (1 - TEST_SHARE)), to="val")


def _split_note(cfg: FolderData, root: Path) -> DataProblem:
    train, val, test = (f"{100 * share:.0f}" for share in (1 - TEST_SHARE - cfg.val_share, cfg.val_share, TEST_SHARE))
    message = (
        f"{root} has no splits: each class is split {train}/{val}/{test} into train, val and test by a hash of "
        f"data.split_seed {cfg.split_seed} and the names; a search keeps the list as split.csv in its results"
    )
    return DataProblem("split", str(root), message, is_error=False)


def with_masks(root: Path, images: list[ListedImage]) -> list[ListedImage]:
    """The images with those of the folder `masks`, if it holds one for each."""
    folder = root / MASKS
    if not folder.is_dir():
        return images
    masks = [(folder / image.image_id).with_suffix(".png") for image in images]
    if missing := [mask for mask in masks if not is_file(mask)]:
        logger.warning(
            "%s is ignored: %d of %d masks are missing, first %s", folder, len(missing), len(masks), missing[0]
        )
        return images
    return [replace(image, mask_path=mask) for image, mask in zip(images, masks, strict=True)]
