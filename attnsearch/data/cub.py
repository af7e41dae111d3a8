"""CUB-200-2011: its files as tables, and its images organised in class folders."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attnsearch.config.data import CubData
from attnsearch.data.layouts import near_name
from attnsearch.data.listing import ListedImage, Listing, size_problems
from attnsearch.errors import DataError, StoreError
from attnsearch.files import new_folder, require_free_bytes
from attnsearch.progress import with_bar
from attnsearch.types import Split

N_CLASSES = 200
N_IMAGES: dict[Split, int] = {"train": 5994, "test": 5794}
_REQUIRED = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")


@dataclass(frozen=True, eq=False)
class _Lists:
    """The lists of the data set, by image id as they are numbered in `images.txt`."""

    files: Mapping[int, str]
    class_names: Mapping[int, str]
    class_of: Mapping[int, int]
    is_train: Mapping[int, bool]
    boxes: Mapping[int, tuple[float, float, float, float]]
    points: Mapping[int, NDArray[np.float64]]
    point_names: tuple[str, ...]


def list_images(cfg: CubData) -> Listing:
    """Reads the lists.

    Raises:
        DataError: no such folder, a missing list, a line or an image number that does not fit.
    """
    root = _find_root(cfg.root_path.absolute())
    try:
        lists = _read_lists(root)
    except ValueError as error:
        raise DataError(f"a list of {root} holds a field that is no number: {error}; unpack it again") from error
    class_names = tuple(lists.class_names[number] for number in sorted(lists.class_names))
    masks = root / "segmentations" if (root / "segmentations").is_dir() else None
    images = [_listed(root, lists, number, masks) for number in lists.files]
    problems = size_problems(root, images, n_classes=N_CLASSES, sizes=N_IMAGES) if cfg.check_sizes else []
    return Listing.of(root, images, class_names=class_names, problems=problems, point_names=lists.point_names)


def _find_root(root: Path) -> Path:
    for folder in (root, root / "CUB_200_2011"):
        if (folder / "images.txt").is_file():
            return folder
    if (root / "train").is_dir() or root.with_name(f"{root.name}_train").is_dir():
        raise DataError(f"data.root {root} holds class folders, not the lists of CUB_200_2011; write data.name=folder")
    if not root.exists():
        raise DataError(f"data.root {root} does not exist{near_name(root)}")
    raise DataError(f"data.root {root} has no images.txt; name the unpacked CUB_200_2011 folder")


def _read_lists(root: Path) -> _Lists:
    if missing := [name for name in _REQUIRED if not (root / name).is_file()]:
        raise DataError(f"{root} lacks {', '.join(missing)}; unpack CUB_200_2011 again")
    files = {int(number): name for number, name in _read(root / "images.txt", 2)}
    point_names = tuple(name for _, name in _read(root / "parts" / "parts.txt", 2))
    lists = _Lists(
        files=files,
        class_names={int(number): name for number, name in _read(root / "classes.txt", 2)},
        class_of={int(number): int(label) for number, label in _read(root / "image_class_labels.txt", 2)},
        is_train={int(number): flag == "1" for number, flag in _read(root / "train_test_split.txt", 2)},
        boxes={int(row[0]): _box(row) for row in _read(root / "bounding_boxes.txt", 5)},
        points=_read_points(root / "parts" / "part_locs.txt", n_points=len(point_names)),
        point_names=point_names,
    )
    _check_numbers(root, lists)
    return lists


def _read(path: Path, n_fields: int) -> list[list[str]]:
    """The lines of a list, split into fields of which the first is a number; none if the file does not exist."""
    if not path.is_file():
        return []
    rows = []
    for line_number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split(maxsplit=n_fields - 1)
        if not fields:
            continue
        if len(fields) != n_fields or not fields[0].isdigit():
            raise DataError(f"{path}:{line_number}: expected a number and {n_fields - 1} more fields, got {line!r}")
        rows.append([field.strip() for field in fields])
    return rows


def _box(row: list[str]) -> tuple[float, float, float, float]:
    left, top, width, height = (float(field) for field in row[1:])
    return left, top, left + width, top + height


def _read_points(path: Path, *, n_points: int) -> dict[int, NDArray[np.float64]]:
    points: dict[int, NDArray[np.float64]] = {}
    for number, part, x, y, visible in _read(path, 5):
        place = points.setdefault(int(number), np.full((n_points, 2), np.nan))
        if not 1 <= int(part) <= n_points:
            raise DataError(f"{path}: part {part} of image {number} is not one of the {n_points} in parts.txt")
        if visible == "1":
            place[int(part) - 1] = float(x), float(y)
    return points


def _check_numbers(root: Path, lists: _Lists) -> None:
    for name, column in (("image_class_labels.txt", lists.class_of), ("train_test_split.txt", lists.is_train)):
        if lacking := sorted(set(lists.files) - set(column)):
            raise DataError(f"{root / name} has no line for image {lacking[0]} ({lists.files[lacking[0]]})")
    if unknown := sorted(set(lists.class_of.values()) - set(lists.class_names)):
        raise DataError(f"{root / 'classes.txt'} has no line for class {unknown[0]} of image_class_labels.txt")


def _listed(root: Path, lists: _Lists, number: int, masks: Path | None) -> ListedImage:
    name = lists.files[number]
    split: Split = "train" if lists.is_train[number] else "test"
    return ListedImage(
        split=split,
        class_name=lists.class_names[lists.class_of[number]],
        image_id=f"images/{name}",
        path=root / "images" / name,
        mask_path=(masks / name).with_suffix(".png") if masks else None,
        box=lists.boxes.get(number),
        points=lists.points.get(number),
    )


def organize_cub(source: Path, target: Path, *, link: bool = False, progress: bool = False) -> int:
    """Writes `target/train/<class>/` and `target/test/<class>/`, all of it or nothing.

    Args:
        link: makes hard links instead of copies; both folders must be on one disk.

    Returns:
        The number of images.

    Raises:
        DataError: the source is not whole, or the target is not empty.
        StoreError: the disk is full, cannot be written, or cannot be linked across.
    """
    listing = list_images(CubData(root=str(source), check_sizes=False))
    if listing.problems:
        raise DataError("\n".join(problem.message for problem in listing.problems))
    with new_folder(target) as folder:
        if not link:
            require_free_bytes(folder, sum(image.path.stat().st_size for image in listing.images))
        for image in with_bar(listing.images, "Sorting images", n_steps=len(listing.images), force=progress):
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
