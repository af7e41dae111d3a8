"""Data sets of class folders: `<root>/train`, `val` or `validation`, `test`, or `<root>_train` and its like."""

from __future__ import annotations

import difflib
import logging
import os
from dataclasses import replace
from pathlib import Path

from attnsearch.config.data import FolderData
from attnsearch.data.listing import DataProblem, ListedImage, Listing, class_problems, is_file
from attnsearch.errors import DataError
from attnsearch.types import SPLITS, Split

logger = logging.getLogger(__name__)

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"})
#: Beside the splits, this folder may hold one mask per image: the same relative path, as PNG.
MASKS = "masks"
_FOLDERS_OF: dict[Split, tuple[str, ...]] = {"train": ("train",), "val": ("val", "validation"), "test": ("test",)}


def list_images(cfg: FolderData) -> Listing:
    """Finds the images of a folder data set.

    Returns:
        Classes are the sorted names of train's sub-folders. For a pair, `root` is the folder that holds both.

    Raises:
        DataError: no such folder, or no train folder.
    """
    return list_folder(cfg.root_path.absolute())


def list_folder(root: Path) -> Listing:
    """As `list_images`, for an absolute path."""
    base, folders = _split_folders(root)
    classes = {split: sub_folders(folder) for split, folder in folders.items()}
    problems = class_problems(root, classes)
    images: list[ListedImage] = []
    for split, folder in folders.items():
        for class_name in classes[split]:
            files = image_files(folder / class_name)
            if not files:
                problems.append(_empty_class(folder / class_name))
            images += [ListedImage(split, class_name, path.relative_to(base).as_posix(), path) for path in files]
    images = with_masks(base, images)
    return Listing(root=base, class_names=classes["train"], images=tuple(images), problems=tuple(problems))


def _empty_class(folder: Path) -> DataProblem:
    endings = " ".join(sorted(SUFFIXES))
    message = f"{folder} holds no image ({endings}); add some, or remove the class from every split"
    return DataProblem("empty_class", str(folder), message)


def _split_folders(root: Path) -> tuple[Path, dict[Split, Path]]:
    """The folder that ids are relative to, and the folder of each split."""
    inside = {name: root / name for names in _FOLDERS_OF.values() for name in names}
    beside = {name: root.with_name(f"{root.name}_{name}") for name in inside}
    if inside["train"].is_dir():
        return root, _choose(inside)
    if root.name and beside["train"].is_dir():
        return root.parent, _choose(beside)
    raise DataError(_why_no_train(root))


def _choose(candidates: dict[str, Path]) -> dict[Split, Path]:
    """The folder of each split that has one."""
    folder_of: dict[Split, Path] = {}
    for split in SPLITS:
        folders = [candidates[name] for name in _FOLDERS_OF[split] if candidates[name].is_dir()]
        if len(folders) > 1:
            raise DataError(f"{folders[0]} and {folders[1]} are both validation splits; keep one of them")
        if folders:
            folder_of[split] = folders[0]
    return folder_of


def _why_no_train(root: Path) -> str:
    if not root.exists():
        return f"data.root {root} does not exist{near_name(root)}"
    if not root.is_dir():
        return f"data.root {root} is a file; name the folder that holds train and test"
    if (root / "images.txt").is_file():
        return f"data.root {root} is laid out like CUB_200_2011, not as class folders; write data.name=cub"
    if root.name == "train":
        return f"data.root {root} is the train folder itself; write the folder that holds it, {root.parent}"
    names = ", ".join(sub_folders(root)[:10]) or "none"
    return f"data.root {root} has no train folder (sub-folders: {names}); put the class folders into {root / 'train'}"


def near_name(path: Path) -> str:
    """A hint for a missing path: a folder of a similar name, or the part of the path that exists."""
    if "$" in os.fspath(path):
        return "; a variable in it is not set, or is in a results folder, where none is expanded: write data.root="
    parent = next(folder for folder in path.parents if folder.is_dir())
    if parent != path.parent:
        return f" ({parent} exists, {path.relative_to(parent).parts[0]} in it does not); correct the path"
    names = {name.lower(): name for name in sub_folders(parent)}
    near = difflib.get_close_matches(path.name.lower(), names, n=1, cutoff=0.6)
    return f"; did you mean {parent / names[near[0]]}?" if near else "; correct the path"


def sub_folders(folder: Path) -> tuple[str, ...]:
    """The sorted names of the folders in a folder, hidden ones left out."""
    with os.scandir(folder) as entries:
        return tuple(sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")))


def image_files(folder: Path) -> list[Path]:
    """All images below a folder, links followed, hidden files left out (macOS writes `._name.jpg`)."""
    images: list[Path] = []
    for parent, _, names in os.walk(folder, followlinks=True):
        visible = (name for name in names if not name.startswith("."))
        images += [Path(parent, name) for name in visible if os.path.splitext(name)[1].lower() in SUFFIXES]  # noqa: PTH122
    return sorted(images, key=lambda path: path.relative_to(folder).as_posix())


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
