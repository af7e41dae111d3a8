"""The images of each split as a table, and how a listing becomes one."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from attnsearch.config.data import DataConfig
from attnsearch.config.images import DataSettings
from attnsearch.data.hold_out import HoldOut, hash_text, hold_out_images
from attnsearch.data.identities import choose_queries, hold_out_identities
from attnsearch.data.listing import ListedImage, Listing, list_images
from attnsearch.data.near_duplicates import near_groups
from attnsearch.errors import DataError, UsageError
from attnsearch.files import atomic_write, csv_text
from attnsearch.types import SPLITS, MatchRule, Split

logger = logging.getLogger(__name__)

V = TypeVar("V")

SPLIT_LIST = "split.csv"

_OPTIONAL_COLUMNS = ("boxes", "points", "cameras", "groups", "is_query", "possible")
"""Arrays (N, ...) of a split, or None."""


@dataclass(frozen=True, eq=False)
class ImageTable:
    """One split, sorted by class and then by name.

    Attributes:
        class_names: in re-identification the identities of this split, of which other splits have none.
        image_ids: N stable strings, the POSIX path relative to the data root.
        labels: (N,) int64 positions in `class_names`.
        mask_paths: one mask per image that is bright on its discriminative parts, or None.
        boxes: (N, 4) float64 left, top, right, bottom of the object in original pixels, or None.
        points: (N, P, 2) float64 x, y of named parts in original pixels, NaN where a part is hidden, or None.
        point_names: P names.
        match_rule: in re-identification, which images of a query's identity are no match; None in classification.
        cameras: (N,) int64 positions in `camera_names`, or None where cameras are not known.
        groups: (N,) int64, equal for images of one group, or None where the rule is the camera.
        is_query: (N,) bool, the others are the gallery; None in train and in classification.
        possible: (N, n_classes) bool, the classes that an image may be of, as far as it shows; None where each image
            shows its one class.
    """

    split: Split
    class_names: tuple[str, ...]
    image_ids: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: NDArray[np.int64]
    mask_paths: tuple[Path, ...] | None = None
    boxes: NDArray[np.float64] | None = None
    points: NDArray[np.float64] | None = None
    point_names: tuple[str, ...] = ()
    match_rule: MatchRule | None = None
    camera_names: tuple[str, ...] = ()
    cameras: NDArray[np.int64] | None = None
    groups: NDArray[np.int64] | None = None
    is_query: NDArray[np.bool_] | None = None
    possible: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def removal_keys(self) -> NDArray[np.int64]:
        """(N,) what an image must not have in common with a match: its camera, or its group.

        Raises:
            UsageError: a split of classes.
        """
        keys = self.cameras if self.match_rule == "camera" else self.groups
        if keys is None:
            raise UsageError(f"{self.split} holds classes and no identities, so there is nothing to retrieve")
        return keys

    @property
    def regions(self) -> tuple[str, ...]:
        """What is known of where an image should be looked at: of `masks`, `boxes` and `points`."""
        columns = {"masks": self.mask_paths, "boxes": self.boxes, "points": self.points}
        return tuple(name for name, values in columns.items() if values is not None)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> ImageTable:
        """Some images of the split, in the order of the rows."""
        rows = np.asarray(rows, dtype=np.int64)
        columns = {name: getattr(self, name) for name in _OPTIONAL_COLUMNS}
        taken: dict[str, Any] = {name: None if column is None else column[rows] for name, column in columns.items()}
        return replace(
            self,
            image_ids=tuple(self.image_ids[row] for row in rows),
            paths=tuple(self.paths[row] for row in rows),
            labels=self.labels[rows],
            mask_paths=None if self.mask_paths is None else tuple(self.mask_paths[row] for row in rows),
            **taken,
        )


@dataclass(frozen=True, eq=False)
class DataTables:
    """The splits of a data set; `val_hash` tells whether two runs validate on the same images.

    Attributes:
        is_split: whether the data set itself says which images are of which split, validation apart.
    """

    root: Path
    class_names: tuple[str, ...]
    train: ImageTable
    val: ImageTable
    test: ImageTable | None
    val_hash: str
    is_split: bool = True

    def of(self, split: Split) -> ImageTable:
        """The table of a split.

        Raises:
            UsageError: no such split.
            DataError: the data set has no test split.
        """
        tables = {"train": self.train, "val": self.val, "test": self.test}
        if split not in tables:
            raise UsageError(f"a split is one of {', '.join(tables)}, got {split!r}")
        table = tables[split]
        if table is None:
            raise DataError(f"{self.root} has no test split; add a test folder of class folders, or use val")
        return table

    def present(self) -> tuple[ImageTable, ...]:
        """The tables that exist, in the order train, val, test."""
        return tuple(table for table in (self.train, self.val, self.test) if table is not None)

    def write_split(self, folder: Path) -> None:
        """Writes which image is of which split, where the data set itself does not say so.

        Raises:
            StoreError: the disk refuses.
        """
        if self.is_split:
            return
        rows = [
            (image_id, table.class_names[label], table.split)
            for table in self.present()
            for image_id, label in zip(table.image_ids, table.labels.tolist(), strict=True)
        ]
        atomic_write(folder / SPLIT_LIST, csv_text([("filename", "label", "split"), *rows]))


def places_of(image_ids: Sequence[str], listed: Sequence[str]) -> NDArray[np.int64]:
    """(n,) where each of some images stands in a list of ids.

    Raises:
        KeyError: the list lacks one.
    """
    place_of = {image_id: place for place, image_id in enumerate(listed)}
    return np.array([place_of[image_id] for image_id in image_ids], dtype=np.int64)


def hash_ids(image_ids: Iterable[str]) -> str:
    """SHA-256 of the sorted ids, in hexadecimal: the same for the same set of images in any order."""
    return hash_text("\n".join(sorted(image_ids)))


def build_from_listing(listing: Listing, cfg: DataSettings) -> DataTables:
    """The tables of a listing; without a val split a part of train is held out.

    Raises:
        DataError: the listing has problems (all are named), or a class is too small to be split.
    """
    if errors := [problem.message for problem in listing.problems if problem.is_error]:
        raise DataError("\n".join(errors))
    for problem in listing.problems:
        logger.warning("%s", problem.message)
    images = _with_validation(listing, cfg)
    train, val, test = (_table(listing, [i for i in images if i.split == split], split) for split in SPLITS)
    val_hash = hash_ids(val.image_ids if val.is_query is None else marked_ids(val.image_ids, val.is_query))
    return DataTables(
        listing.root, train.class_names, train, val, test if len(test) else None, val_hash, is_split=listing.is_split
    )


def tables_digest(tables: DataTables) -> str:
    """SHA-256 of the ids and labels of all splits: the same wherever the data set lies."""
    known = tables.present()
    lines = [
        f"{table.split}\t{label}\t{image_id}"
        for table in known
        for image_id, label in zip(table.image_ids, table.labels.tolist(), strict=True)
    ]
    return hash_text("\n".join(sorted(lines)))


def _with_validation(listing: Listing, cfg: DataSettings) -> tuple[ListedImage, ...]:
    """The images, with a val split: images of each class, or whole identities with queries among their images.

    Photographs that show nearly the same are not parted; synthetic images are not compared.
    """
    images, rule = listing.images, listing.match_rule
    if not any(image.split == "val" for image in images):
        train = [image for image in images if image.split == "train"]
        near = {} if cfg.drawn_by else near_groups(listing.root, train)
        settings = HoldOut(fraction=cfg.val_share, seed=cfg.split_seed, near=near)
        images = hold_out_images(images, settings) if rule is None else hold_out_identities(images, rule, settings)
    return images if rule is None else choose_queries(images, rule, split="val", seed=cfg.split_seed)


def marked_ids(image_ids: Sequence[str], is_query: NDArray[np.bool_]) -> list[str]:
    """The ids (N,), those of queries with a mark, so that another choice of queries has another hash."""
    return [f"{image_id}\tquery" if mark else image_id for image_id, mark in zip(image_ids, is_query, strict=True)]


def _table(listing: Listing, images: Sequence[ListedImage], split: Split) -> ImageTable:
    class_names = _class_names(listing, images)
    table = ImageTable(
        split=split,
        class_names=class_names,
        image_ids=tuple(image.image_id for image in images),
        paths=tuple(image.path for image in images),
        labels=places_of([image.class_name for image in images], class_names),
        mask_paths=_if_of_all(image.mask_path for image in images),
        boxes=_array_if_of_all(image.box for image in images),
        points=_array_if_of_all(image.points for image in images),
        point_names=listing.point_names,
        match_rule=listing.match_rule,
        possible=_possible(images, class_names),
    )
    return table if listing.match_rule is None else _with_cameras(table, listing, images)


def _class_names(listing: Listing, images: Iterable[ListedImage]) -> tuple[str, ...]:
    """The classes, or the identities of this split, since splits have none in common."""
    if listing.match_rule is None:
        return listing.class_names
    return tuple(sorted({image.class_name for image in images}))


def _possible(images: Sequence[ListedImage], class_names: Sequence[str]) -> NDArray[np.bool_] | None:
    """(N, n_classes) the classes that each image may be of; None where each shows its one class."""
    if all(image.possible_classes is None for image in images):
        return None
    is_possible = np.zeros((len(images), len(class_names)), dtype=bool)
    for row, image in enumerate(images):
        is_possible[row, places_of(image.possible_classes or (image.class_name,), class_names)] = True
    return is_possible


def _with_cameras(table: ImageTable, listing: Listing, images: Sequence[ListedImage]) -> ImageTable:
    """The table of a split of identities, with cameras, groups and queries of its images."""
    return replace(
        table,
        camera_names=listing.camera_names,
        cameras=_positions([image.camera for image in images], listing.camera_names),
        groups=_groups(images, listing.match_rule),
        is_query=None if table.split == "train" else np.array([image.is_query for image in images], dtype=bool),
    )


def _positions(cameras: Sequence[str | None], camera_names: Sequence[str]) -> NDArray[np.int64] | None:
    """(N,) positions of the cameras among their names; None where an image has none, or where there is no image."""
    known = _if_of_all(cameras)
    return None if known is None else places_of(known, camera_names)


def _groups(images: Sequence[ListedImage], rule: MatchRule | None) -> NDArray[np.int64] | None:
    """(N,) a number for each group, where the rule is not the camera."""
    if rule is None or rule == "camera":
        return None
    keys = [image.removal_key(rule) for image in images]
    return places_of(keys, sorted(set(keys)))


def _if_of_all(values: Iterable[V | None]) -> tuple[V, ...] | None:
    """The values of all images; None where an image has none, or where there is no image."""
    values = tuple(values)
    present = tuple(value for value in values if value is not None)
    return present if 0 < len(present) == len(values) else None


def _array_if_of_all(values: Iterable[Any]) -> NDArray[np.float64] | None:
    """(N, ...) the values of all images, or None as for `_if_of_all`."""
    rows = _if_of_all(values)
    return None if rows is None else np.array(rows, dtype=np.float64)


def build_tables(cfg: DataConfig) -> DataTables:
    """The splits of a data set; a missing val split is held out of train, a missing test split stays None.

    Raises:
        DataError: names every problem of the layout and how to solve it.
        StoreError: synthetic images cannot be written.
    """
    return build_from_listing(list_images(cfg), cfg)
