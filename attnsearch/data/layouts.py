"""How a folder of images says which class and split each is of: by folders of splits, of classes, or by a list."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath

from attnsearch.data.csv_table import read_rows
from attnsearch.data.listing import DataProblem, ListedImage, count_phrase, missing_files, name_lines
from attnsearch.errors import DataError
from attnsearch.types import SPLITS, Split

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"})
#: Beside the splits, this folder may hold one mask per image: the same relative path, as PNG.
MASKS = "masks"
IMAGES, LABELS = "images", "labels.csv"
CUB_LIST = "images.txt"
SPLIT_NAMES: Mapping[str, Split] = {
    **{"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}
}
"""Name of a folder or of a split in a list, in lower case -> the split."""
LAYOUTS = (
    f"folders of splits (train, test) that hold class folders, class folders alone, or {IMAGES}/ beside {LABELS} with "
    "the columns filename, label and perhaps split"
)

_NO_IMAGES = "correct the path; to begin without these images: --profile demo, or --profile photos data.root=FOLDER"


@dataclass(frozen=True)
class FoundImages:
    """The images of a folder, in the order of classes and names.

    Attributes:
        base: what image ids are relative to.
        classes: of each split.
        folders: what was looked through; other files in them are not used.
        is_split: whether the layout says which images are of which split; all are `train` where it does not.
    """

    base: Path
    images: list[ListedImage]
    classes: dict[Split, tuple[str, ...]]
    folders: tuple[Path, ...]
    problems: tuple[DataProblem, ...] = ()
    is_split: bool = True


def find_in_folder(root: Path) -> FoundImages:
    """Finds the images in whichever layout a folder has.

    Raises:
        DataError: no such folder, no known layout, two folders of one split, or a broken list.
    """
    if folders := _split_folders(root):
        return _in_class_folders(root, folders, [root])
    if root.name and (beside := _folders_beside(root)):
        return _in_class_folders(root.parent, beside, beside.values())
    if (root / IMAGES).is_dir() and (root / LABELS).is_file():
        return _in_list(root)
    if _is_flat(root):
        return _in_class_folders(root, {"train": root}, [root], is_split=False)
    raise DataError(_why_no_train(root))


def _split_folders(root: Path) -> dict[Split, Path]:
    """The folder of each split, if there is one of train."""
    return _choose({root / name: name for name in sub_folders(root)} if root.is_dir() else {})


def _folders_beside(root: Path) -> dict[Split, Path]:
    """The same of `<root>_train` and its like."""
    start, names = f"{root.name}_", sub_folders(root.parent) if root.parent.is_dir() else ()
    return _choose({root.parent / name: name.removeprefix(start) for name in names if name.startswith(start)})


def _choose(named: Mapping[Path, str]) -> dict[Split, Path]:
    """The folders that have the name of a split, in the order of splits; none without train.

    Raises:
        DataError: two are of one split.
    """
    folders: dict[Split, Path] = {}
    for folder, name in named.items():
        if (split := SPLIT_NAMES.get(name.lower())) is None:
            continue
        if split in folders:
            kind = "validation" if split == "val" else split
            raise DataError(f"{folders[split]} and {folder} are both {kind} splits; keep one of them")
        folders[split] = folder
    return {split: folders[split] for split in SPLITS if split in folders} if "train" in folders else {}


def _in_class_folders(
    base: Path, folders: Mapping[Split, Path], looked_at: Iterable[Path], *, is_split: bool = True
) -> FoundImages:
    """The images of each split, in class folders."""
    classes = {split: _class_names(folder) for split, folder in folders.items()}
    images: list[ListedImage] = []
    problems: list[DataProblem] = []
    n_nested: Counter[str] = Counter()
    for split, folder in folders.items():
        for name in classes[split]:
            files = image_files(folder / name)
            problems += [] if files else [_empty_class(folder / name)]
            images += [ListedImage(split, name, path.relative_to(base).as_posix(), path) for path in files]
            n_nested[name] += len({path.parent for path in files} - {folder / name})
    problems += _nested_note(n_nested)
    return FoundImages(base, images, classes, tuple(looked_at), tuple(problems), is_split)


def _class_names(folder: Path) -> tuple[str, ...]:
    """The class folders of a split; masks that lie beside them, under their names, are none."""
    names = sub_folders(folder)
    others = {*names} - {MASKS}
    has_masks = MASKS in names and not others.isdisjoint(sub_folders(folder / MASKS))
    return tuple(name for name in names if not (has_masks and name == MASKS))


def _empty_class(folder: Path) -> DataProblem:
    endings = " ".join(sorted(SUFFIXES))
    message = f"{folder} holds no image ({endings}); add some, or remove the class from every split"
    return DataProblem("empty_class", str(folder), message)


def _nested_note(n_nested: Mapping[str, int]) -> list[DataProblem]:
    """A note on classes whose images lie in folders of their own."""
    found = {name: n for name, n in n_nested.items() if n}
    if not found:
        return []
    lines = [f"class {name}: {count_phrase(n, 'sub-folder', 'sub-folders')} as one" for name, n in found.items()]
    classes_are = count_phrase(len(found), "class folder holds", "class folders hold")
    message = f"{classes_are} folders of images, which are no classes of their own:{name_lines(lines)}"
    return [DataProblem("nested", next(iter(found)), message, is_error=False)]


def _in_list(root: Path) -> FoundImages:
    """The images of `images/` with the labels and perhaps the splits that `labels.csv` names.

    Raises:
        DataError: a broken list.
    """
    file = root / LABELS
    rows = list(read_rows(file, ("filename", "label")))
    is_split = any((row.get("split") or "").strip() for _, row in rows)
    images = [_listed(file, line, row, is_split=is_split) for line, row in rows]
    images.sort(key=lambda image: (SPLITS.index(image.split), image.class_name, image.image_id))
    classes: dict[Split, tuple[str, ...]] = {"train": ()}
    for split, of_split in groupby(images, key=lambda image: image.split):
        classes[split] = tuple(dict.fromkeys(image.class_name for image in of_split))
    problems = (*missing_files(images), *_listed_twice(file, images))
    return FoundImages(root, images, classes, (root / IMAGES,), problems, is_split)


def _listed_twice(file: Path, images: Iterable[ListedImage]) -> list[DataProblem]:
    twice = [name for name, count in Counter(image.image_id for image in images).items() if count > 1]
    if not twice:
        return []
    message = f"{file} lists {count_phrase(len(twice), 'image', 'images')} twice; keep one row of each:"
    return [DataProblem("layout", twice[0], f"{message}{name_lines(twice)}")]


def _listed(file: Path, line: int, row: Mapping[str, str | None], *, is_split: bool) -> ListedImage:
    """The image of a row.

    Raises:
        DataError: it lacks a name or a label, leads out of `images/`, or names no split where others do.
    """
    name, label, split = ((row.get(key) or "").strip() for key in ("filename", "label", "split"))
    path = PurePosixPath(name)
    if not name or not label:
        raise DataError(f"{file}:{line}: needs a filename and a label, got {name!r} and {label!r}")
    if path.is_absolute() or ".." in path.parts:
        raise DataError(
            f"{file}:{line}: a filename is relative to {file.parent / IMAGES} and stays in it, got {name!r}"
        )
    if is_split and split.lower() not in SPLIT_NAMES:
        raise DataError(f"{file}:{line}: split must be one of {', '.join(SPLIT_NAMES)}, got {split!r}")
    image_id = (PurePosixPath(IMAGES) / path).as_posix()
    return ListedImage(SPLIT_NAMES.get(split.lower(), "train"), label, image_id, file.parent / image_id)


def _is_flat(root: Path) -> bool:
    """Whether a folder holds class folders itself: several with images, no split, no data set and no list of CUB."""
    if not root.is_dir() or root.name.lower() == "train" or (root / CUB_LIST).is_file():
        return False
    names = _class_names(root)
    is_above = any(name.lower() in SPLIT_NAMES or _split_folders(root / name) for name in names)
    return not is_above and sum(_holds_image(root / name) for name in names) > 1


def _holds_image(folder: Path) -> bool:
    return next(_walk(folder), None) is not None


def _why_no_train(root: Path) -> str:
    if not root.exists():
        return f"data.root {root} does not exist{near_name(root)}"
    if not root.is_dir():
        return f"data.root {root} is a file; name the folder that holds train and test"
    if (root / CUB_LIST).is_file():
        return f"data.root {root} is laid out like CUB_200_2011, not as class folders; write data.name=cub"
    if root.name.lower() == "train":
        return f"data.root {root} is the train folder itself; write the folder that holds it, {root.parent}"
    if within := next((name for name in sub_folders(root) if _split_folders(root / name)), None):
        return f"data.root {root} holds data sets and is none itself; write one of them, such as {root / within}"
    names = ", ".join(sub_folders(root)[:10]) or "none"
    return f"data.root {root} has no train folder (sub-folders: {names}); the layout must be one of: {LAYOUTS}"


def near_name(path: Path) -> str:
    """A hint for a missing path: a folder of a similar name, or the part of the path that exists."""
    if "$" in os.fspath(path):
        return "; a variable in it is not set, or is in a results folder, where none is expanded: write data.root="
    parent = next(folder for folder in path.parents if folder.is_dir())
    if parent != path.parent:
        return f" ({parent} exists, {path.relative_to(parent).parts[0]} in it does not); {_NO_IMAGES}"
    names = {name.lower(): name for name in sub_folders(parent)}
    near = difflib.get_close_matches(path.name.lower(), names, n=1, cutoff=0.6)
    return f"; did you mean {parent / names[near[0]]}?" if near else f"; {_NO_IMAGES}"


def sub_folders(folder: Path) -> tuple[str, ...]:
    """The sorted names of the folders in a folder, hidden ones left out."""
    with os.scandir(folder) as entries:
        return tuple(sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")))


def image_files(folder: Path) -> list[Path]:
    """All images below a folder, links followed, hidden files left out (macOS writes `._name.jpg`)."""
    return sorted(_walk(folder), key=lambda path: path.relative_to(folder).as_posix())


def _walk(folder: Path) -> Iterator[Path]:
    """The images below a folder."""
    return (path for path in visible_files(folder) if path.suffix.lower() in SUFFIXES)


def visible_files(folder: Path) -> Iterator[Path]:
    """All files below a folder, links followed, but hidden ones."""
    for parent, _, names in os.walk(folder, followlinks=True):
        yield from (Path(parent, name) for name in names if not name.startswith("."))
