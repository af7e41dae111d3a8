"""Re-identification in data of your own: folders, names or lists tell identities, and perhaps cameras or groups."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from attnsearch.config.data import ReidFolderData
from attnsearch.data.csv_table import read_rows
from attnsearch.data.folder import with_masks
from attnsearch.data.hold_out import HoldOut
from attnsearch.data.identities import choose_queries, hold_out_identities
from attnsearch.data.layouts import MASKS, image_files, near_name, sub_folders
from attnsearch.data.listing import DataProblem, ListedImage, Listing, count_phrase, missing_files, name_lines
from attnsearch.data.near_duplicates import near_groups
from attnsearch.data.reid_names import JUNK, MARKET_FOLDERS, MARKET_STYLE, inner_path, list_named
from attnsearch.errors import DataError
from attnsearch.types import MatchRule, Split

IMAGES_CSV = "images.csv"
CAMERAS_CSV = "cameras.csv"
IDENTITY_FOLDERS: Mapping[str, tuple[Split, bool]] = {
    "train": ("train", False),
    "query": ("test", True),
    "gallery": ("test", False),
    "val": ("val", False),
}
"""Folder -> split, and whether its images are queries."""
NEEDED_FOLDERS = ("train", "query", "gallery")
_SPLITS: Mapping[str, tuple[Split, bool]] = {**IDENTITY_FOLDERS, "test": ("test", False)}
_SOURCES = ("camera", "group")
_MAX_NAME = 64
"""Characters in the name of a camera or group."""
_LAYOUTS = (
    f"names like {MARKET_STYLE.example} in {', '.join(MARKET_FOLDERS.values())}; identity folders in "
    f"{', '.join(NEEDED_FOLDERS)}; identity folders alone; or {IMAGES_CSV} (image, identity, camera, group, split)"
)


@dataclass(frozen=True)
class _Found:
    """The images of a folder.

    Attributes:
        is_split: whether the layout tells train from test; else all images are in train.
        has_queries: whether it tells queries from gallery.
        n_above: number of folders above a path in an identity folder; 0 where there are no such folders.
    """

    images: Sequence[ListedImage]
    problems: Sequence[DataProblem] = ()
    is_split: bool = True
    has_queries: bool = True
    n_above: int = 0


def list_images(cfg: ReidFolderData) -> Listing:
    """Finds the images in whichever layout the folder has.

    Raises:
        DataError: no such folder, no known layout, a broken list, or images without a camera beside others with one.
    """
    root = cfg.root_path.absolute()
    found = _find(root)
    images = _with_cameras(root, found, cfg.camera_pattern)
    rule = _match_rule(images)
    if rule == "open" and not found.problems:
        images = _grouped_by_content(images)
    if not found.is_split:
        settings = HoldOut(fraction=cfg.test_share, seed=cfg.split_seed, near=near_groups(root, images))
        images = hold_out_identities(images, rule, settings, to="test")
    if not found.has_queries:
        images = choose_queries(images, rule, split="test", seed=cfg.split_seed)
    problems = [*found.problems, *_rule_problems(root, rule)]
    return Listing.of_identities(root, with_masks(root, list(images)), match_rule=rule, problems=problems)


def _find(root: Path) -> _Found:
    """The images in the layout of a folder; those of the identity -1 are junk and left out."""
    if not root.is_dir():
        raise DataError(f"data.root {root} is not a folder{near_name(root)}")
    names = set(sub_folders(root))
    if (root / IMAGES_CSV).is_file():
        return _from_list(root / IMAGES_CSV)
    if MARKET_FOLDERS["train"] in names:
        return _Found(*list_named(root, MARKET_FOLDERS, MARKET_STYLE))
    if names >= {*NEEDED_FOLDERS}:
        parts = [_of_folders(root, root / name, name) for name in IDENTITY_FOLDERS if name in names]
        return _Found([image for part in parts for image in part], n_above=2)
    if wrong := names & {*_SPLITS, *MARKET_FOLDERS.values()}:
        raise DataError(f"{root} holds {', '.join(sorted(wrong))} and not all of a layout, which is one of: {_LAYOUTS}")
    if images := _of_folders(root, root, "train"):
        return _Found(images, is_split=False, has_queries=False, n_above=1)
    raise DataError(f"{root} holds no folders of images; its layout must be one of: {_LAYOUTS}")


def _of_folders(root: Path, folder: Path, part: str) -> list[ListedImage]:
    """The images in the identity folders of a folder."""
    split, is_query = IDENTITY_FOLDERS[part]
    return [
        ListedImage(split, identity, path.relative_to(root).as_posix(), path, is_query=is_query)
        for identity in sub_folders(folder)
        if identity not in (JUNK, MASKS)
        for path in image_files(folder / identity)
    ]


def _from_list(file: Path) -> _Found:
    """The images that a list names, each with its identity and split, and perhaps its camera and group."""
    listed = [(_listed(file, line, row), row["split"]) for line, row in _rows(file, ("image", "identity", "split"))]
    names = {name for _, name in listed}
    if "test" in names and names & {"query", "gallery"}:
        raise DataError(f"{file}: names the split test beside query and gallery; write test alone, or those two")
    images = [image for image, _ in listed if image.class_name != JUNK]
    return _Found(images, missing_files(images), has_queries="test" not in names)


def _listed(file: Path, line: int, row: Mapping[str, str]) -> ListedImage:
    """The image in a line of a list."""
    image_id = _image_id(file, line, row["image"])
    if not row["identity"] or not row["identity"].isprintable() or row["split"] not in _SPLITS:
        needed = f"needs an identity and a split of {', '.join(_SPLITS)}"
        raise DataError(f"{file}:{line}: {needed}, got {row['identity']!r} and {row['split']!r}")
    split, is_query = _SPLITS[row["split"]]
    camera, group = row["camera"] or None, row["group"] or None
    path = file.parent / image_id
    return ListedImage(split, row["identity"], image_id, path, camera=camera, group=group, is_query=is_query)


def _rows(file: Path, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, str]]]:
    """(line, column -> text) of each row; a column that is missing is empty."""
    for line, row in read_rows(file, columns):
        texts = {name: (row.get(name) or "").strip() for name in (*columns, *_SOURCES)}
        for name in _SOURCES:
            _check_source(f"{file}:{line}: a {name}", texts[name])
        yield line, texts


def _check_source(what: str, name: str) -> None:
    """Refuses a camera or group whose name no table or page could show.

    Raises:
        DataError: begins with `what`, and ends with the beginning of the name.
    """
    if len(name) > _MAX_NAME or not name.isprintable():
        shown = f"{name[:_MAX_NAME]!r}{'…' if len(name) > _MAX_NAME else ''}"
        raise DataError(f"{what} must be printable text of at most {_MAX_NAME} characters, got {shown}")


def _image_id(file: Path, line: int, text: str) -> str:
    """The path of an image in a list, in its shortest form."""
    path = inner_path(text)
    if path is None or not path.isprintable():
        raise DataError(f"{file}:{line}: an image must be a path below {file.parent}, got {text!r}")
    return path


def _with_cameras(root: Path, found: _Found, pattern: str | None) -> Sequence[ListedImage]:
    """The images with their cameras and groups, where folders do not tell them."""
    listed = root / CAMERAS_CSV
    given = [*(["data.camera_pattern"] if pattern is not None else ()), *([CAMERAS_CSV] if listed.is_file() else ())]
    if given and not found.n_above:
        raise DataError(f"{root}: {given[0]} is not read where {IMAGES_CSV} or names tell cameras; remove it")
    if len(given) > 1:
        raise DataError(f"{root}: {' and '.join(given)} both tell cameras; remove one of them")
    if pattern is not None:
        return _with_matched(root, found, re.compile(pattern))
    return _with_listed(listed, found.images) if given else found.images


def _with_matched(root: Path, found: _Found, pattern: re.Pattern[str]) -> list[ListedImage]:
    """The images with the cameras that their paths below the identity folders begin with."""
    paths = [image.image_id.split("/", found.n_above)[-1] for image in found.images]
    cameras = [match[1] if (match := pattern.match(path)) else None for path in paths]
    if paths and not any(cameras):
        raise DataError(
            f"{root}: data.camera_pattern {pattern.pattern!r} finds a camera at the beginning of no path below an "
            f"identity folder, such as {paths[0]}"
        )
    for image, camera in zip(found.images, cameras, strict=True):
        _check_source(f"{str(image.path)!r}: a camera that data.camera_pattern finds", camera or "")
    return [replace(image, camera=camera or None) for image, camera in zip(found.images, cameras, strict=True)]


def _with_listed(file: Path, images: Sequence[ListedImage]) -> list[ListedImage]:
    """The images with the cameras and groups in a list."""
    listed: dict[str, Mapping[str, str]] = {}
    for line, row in _rows(file, ("image",)):
        image_id = _image_id(file, line, row["image"])
        if image_id in listed:
            raise DataError(f"{file}:{line}: {image_id} is listed twice; keep one row")
        listed[image_id] = row
    if unknown := sorted(listed.keys() - {image.image_id for image in images}):
        images_are = count_phrase(len(unknown), "listed image is", "listed images are")
        raise DataError(f"{file}: {images_are} not in an identity folder:{name_lines(unknown)}")
    none: Mapping[str, str] = {"camera": "", "group": ""}
    rows = [listed.get(image.image_id, none) for image in images]
    return [
        replace(image, camera=row["camera"] or None, group=row["group"] or None)
        for image, row in zip(images, rows, strict=True)
    ]


def _match_rule(images: Sequence[ListedImage]) -> MatchRule:
    """By what is known of all images: their cameras, else their groups, else nothing.

    Raises:
        DataError: it is known of some images alone.
    """
    known: Mapping[MatchRule, list[bool]] = {
        "camera": [image.camera is not None for image in images],
        "group": [image.group is not None for image in images],
    }
    for rule, is_known in known.items():
        if all(is_known):
            return rule
        if any(is_known):
            without = [image.image_id for image, is_one in zip(images, is_known, strict=True) if not is_one]
            raise DataError(
                f"{len(without)} of {len(images)} images have no {rule}. It is told by data.camera_pattern, "
                f"{CAMERAS_CSV} (image, camera, group), {IMAGES_CSV} (image, identity, camera, group, split) or names "
                f"like {MARKET_STYLE.example}; name that of all, or of none:{name_lines(without)}"
            )
    return "open"


def _grouped_by_content(images: Sequence[ListedImage]) -> list[ListedImage]:
    """The images, of which files of the same content are one group, so that no query is its own match."""
    of_size: dict[tuple[str, int], list[int]] = defaultdict(list)
    try:
        for row, image in enumerate(images):
            of_size[image.class_name, image.path.stat().st_size].append(row)
        digests = {
            row: hashlib.sha256(images[row].path.read_bytes()).hexdigest()
            for rows in of_size.values()
            if len(rows) > 1
            for row in rows
        }
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}); replace or remove it") from error
    return [replace(image, group=digests.get(row)) for row, image in enumerate(images)]


_METRIC = {"group": "mAP_group", "open": "mAP_open"}


def _rule_problems(root: Path, rule: MatchRule) -> list[DataProblem]:
    """A warning where cameras are not known: results are then better than they would be."""
    if rule == "camera":
        return []
    known = "no camera" if rule == "group" else "no camera and no group"
    removed = "images of the query's group" if rule == "group" else "copies of the query"
    message = (
        f"{root}: {known} is known, so {removed} alone are left out of a ranking; backgrounds may be recognised "
        f"instead of identities, and {_METRIC[rule]} is measured, which does not compare with mAP"
    )
    return [DataProblem("layout", str(root), message, is_error=False)]
