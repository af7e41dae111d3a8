"""Opens all images of a data set, makes its card, compares its splits, and counts its identities."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnsearch import geometry
from attnsearch.config.data import DataConfig
from attnsearch.data.built_folders import build_once, digest_of_files
from attnsearch.data.card import DataCard, count_enlarged, count_splits, count_unused, same_photos
from attnsearch.data.identity_numbers import PARTS, Part, PartNumbers, Spread, part_numbers
from attnsearch.data.images import decode_resized
from attnsearch.data.listing import (
    DataProblem,
    ListedImage,
    Listing,
    is_file,
    is_utf8,
    list_images,
    unmatched_queries,
)
from attnsearch.data.near_duplicates import (
    LOOK_CORRELATION,
    MIN_CORRELATION,
    correlations,
    near_duplicates,
    near_pairs,
    thumbnail,
)
from attnsearch.data.tables import DataTables, build_from_listing
from attnsearch.errors import DataError
from attnsearch.progress import with_bar
from attnsearch.types import MatchRule

MAX_CHECKED = 20_000
"""Images of a data set up to which a search opens all of them before it begins."""
_ERRORS = "errors.json"
_VERSION = 1
"""Raised when the same files would give other errors."""


@dataclass(frozen=True)
class _CheckedImage:
    """An image with what is wrong with its file, or else its upright size in pixels and the hash of its bytes.

    Attributes:
        thumbnail: (D,), where images are compared: those of all, or of none.
    """

    image: ListedImage
    problem: str = ""
    size_hw: geometry.Size = (0, 0)
    digest: bytes = b""
    thumbnail: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class IdentityCheck:
    """What is counted in a data set of re-identification.

    Attributes:
        name: of the data set.
        parts: as they are listed, and `val`.
        is_val_held_out: whether `val` is also part of `train` there, since no validation split is listed.
        n_unmatched_queries: of test, without a gallery image that could match.
        n_near_train: images of test that nearly equal one of train or val.
        n_near_match: queries of test that nearly equal a match, such as the next frame of a video.
    """

    name: str
    rule: MatchRule
    parts: Mapping[Part, PartNumbers]
    is_val_held_out: bool
    n_unmatched_queries: int
    n_near_train: int
    n_near_match: int

    @property
    def title(self) -> str:
        """What the table is about."""
        held_out = ", val held out of train" if self.is_val_held_out else ""
        return f"{self.name}: smallest / median / largest{held_out}"

    def columns(self) -> tuple[str, ...]:
        """The heads of the table; those of cameras or groups where these are known."""
        heads = ("part", "identities", "images", "images per identity", "identities of one image")
        of_sources = (f"{self.rule}s", f"images per identity and {self.rule}", f"identities of one {self.rule}")
        return heads if self.rule == "open" else (*heads, *of_sources)

    def rows(self) -> list[tuple[str, ...]]:
        """One row of text for each part."""
        return [(part, *map(_text, numbers.known())) for part, numbers in self.parts.items()]

    def counts(self) -> dict[str, int]:
        """What is counted in the whole data set."""
        return {
            "queries without a match": self.n_unmatched_queries,
            "near-duplicates in train or val": self.n_near_train,
            "near-duplicates among matches": self.n_near_match,
        }

    def values(self) -> dict[str, Any]:
        """All of it as plain values, under the names of the table with underscores."""
        heads = self.columns()[1:]
        parts = {part: dict(zip(heads, numbers.known(), strict=True)) for part, numbers in self.parts.items()}
        about = {"kind": "numbers", "name": self.name, "rule": self.rule, "is_val_held_out": self.is_val_held_out}
        values = {**about, **self.counts(), "parts": {part: _keys(numbers) for part, numbers in parts.items()}}
        return _keys(values)


def _keys(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace(" ", "_").replace("-", "_"): value for name, value in values.items()}


def _text(value: int | Spread) -> str:
    return " / ".join(f"{number:g}" for number in value) if isinstance(value, tuple) else str(value)


@dataclass(frozen=True)
class DataCheck:
    """The problems of a data set, and what is counted, if it could be listed: a card, or identities."""

    problems: list[DataProblem]
    identities: IdentityCheck | None = None
    card: DataCard | None = None


def check_data(cfg: DataConfig, *, progress: bool = False) -> DataCheck:
    """Decodes every image and compares the splits.

    Returns:
        All problems: first those of the layout, then unreadable files, and images that show the same. None where there
        are none.

    Raises:
        StoreError: synthetic images cannot be written.
    """
    try:
        listing = list_images(cfg)
    except DataError as error:
        return DataCheck([DataProblem("layout", cfg.name, str(error))])
    problems = list(listing.problems)
    images: Sequence[ListedImage] = listing.images
    try:
        images = _with_splits(listing, cfg)
    except DataError as error:
        problems.append(DataProblem("layout", str(listing.root), str(error)))
    present = [image for image in images if is_utf8(image.image_id) and is_file(image.path)]  # others: see `problems`
    is_compared = listing.match_rule is not None or not cfg.drawn_by
    files = _check_files(present, cfg, with_thumbnails=is_compared)
    checked = list(with_bar(files, "Checking images", n_steps=len(present), force=progress))
    problems += _unreadable(checked)
    readable = [file for file in checked if not file.problem]
    if listing.match_rule is not None:
        near = _near_train(readable)
        counted = _count(cfg.name, listing, images, readable, n_near_train=len(near))
        return DataCheck([*problems, *_duplicates(readable), *near], counted)
    card = _card(cfg, listing, readable)
    return DataCheck(problems, card=card) if card is None else DataCheck([*problems, *card.problems()], card=card)


def data_errors(cfg: DataConfig, tables: DataTables) -> tuple[str, ...]:
    """The errors of a check of photographs in classes that building its tables does not find, such as copies.

    They are kept until a file, or the split or class of one, changes. None of images that a program has drawn, nor of
    more than `MAX_CHECKED`, which `check_data` alone opens.

    Raises:
        StoreError: the cache cannot be written.
    """
    n_images = sum(map(len, tables.present()))
    if cfg.drawn_by or tables.train.match_rule is not None or n_images > MAX_CHECKED:
        return ()
    files = [
        (f"{table.split}\n{table.class_names[label]}\n{image_id}", path)
        for table in tables.present()
        for image_id, path, label in zip(table.image_ids, table.paths, table.labels.tolist(), strict=True)
    ]
    key, _ = digest_of_files(f"{_VERSION}\n{tables.root}\n", sorted(files))

    def build(folder: Path) -> dict[str, str | int | float]:
        errors = [problem.message for problem in check_data(cfg).problems if problem.is_error]
        (folder / _ERRORS).write_text(json.dumps(errors), encoding="utf-8")
        return {"root": str(tables.root), "n_images": len(files), "n_errors": len(errors)}

    folder = build_once("checks", key[:32], build, is_whole=lambda folder: _read_errors(folder) is not None)
    return _read_errors(folder) or ()


def _read_errors(folder: Path) -> tuple[str, ...] | None:
    """What was kept, or None where it is damaged."""
    try:
        return tuple(map(str, json.loads((folder / _ERRORS).read_text(encoding="utf-8"))))
    except (OSError, ValueError, TypeError):
        return None


def _card(cfg: DataConfig, listing: Listing, checked: Sequence[_CheckedImage]) -> DataCard | None:
    """The card of the images that can be read; None where none of train is."""
    images, sizes_hw = [file.image for file in checked], [file.size_hw for file in checked]
    if not any(image.split == "train" for image in images):
        return None
    return DataCard(
        name=cfg.name,
        root=str(listing.root),
        splits=count_splits(images, sizes_hw),
        unused=count_unused(listing),
        enlarged=count_enlarged(sizes_hw, cfg),
        alike=same_photos(images, _alike(checked)),
        images=tuple(images),
    )


def _alike(checked: Sequence[_CheckedImage]) -> Iterator[tuple[int, int, float]]:
    """Rows of two images that look alike, or are of the same bytes, and their correlation."""
    if all(file.thumbnail is not None for file in checked):
        yield from near_pairs(_thumbnails(checked), above=LOOK_CORRELATION)
    first: dict[bytes, int] = {}
    for row, file in enumerate(checked):
        if (other := first.setdefault(file.digest, row)) != row:
            yield other, row, 1.0


def _with_splits(listing: Listing, cfg: DataConfig) -> list[ListedImage]:
    """The images under the splits that they are used in, held-out ones included; as listed where there are errors.

    Raises:
        DataError: nothing can be held out.
    """
    if any(problem.is_error for problem in listing.problems):
        return list(listing.images)
    tables = build_from_listing(replace(listing, problems=()), cfg)
    split_of = {image_id: table.split for table in tables.present() for image_id in table.image_ids}
    return [replace(image, split=split_of[image.image_id]) for image in listing.images]


def _check_files(images: Sequence[ListedImage], cfg: DataConfig, *, with_thumbnails: bool) -> Iterator[_CheckedImage]:
    resizing = geometry.Resizing(cfg.resized_hw, cfg.resize, cfg.aspect)

    def check(image: ListedImage) -> _CheckedImage:
        try:
            digest = hashlib.sha256(image.path.read_bytes()).digest()
            _, size_hw = decode_resized(image.path, resizing)
        except DataError as error:
            return _CheckedImage(image, str(error))
        except OSError as error:
            return _CheckedImage(image, f"{image.path}: cannot be read ({error})")
        small = thumbnail(image.path) if with_thumbnails else None
        return _CheckedImage(image, size_hw=size_hw, digest=digest, thumbnail=small)

    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="attnsearch-check") as pool:
        yield from pool.map(check, images)


def _unreadable(checked: Iterable[_CheckedImage]) -> Iterator[DataProblem]:
    """Files that cannot be decoded."""
    for file in checked:
        if file.problem:
            yield DataProblem("unreadable", file.image.image_id, f"{file.problem}; replace or remove it")


def _duplicates(checked: Iterable[_CheckedImage]) -> Iterator[DataProblem]:
    """Files of the same bytes in several splits: a model would be tested on what it was trained on."""
    same: dict[bytes, list[ListedImage]] = defaultdict(list)
    for file in checked:
        same[file.digest].append(file.image)
    for images in same.values():
        if len({image.split for image in images}) > 1:
            places = ", ".join(f"{image.split} ({image.image_id})" for image in images)
            message = f"the same image is in {places}; keep one of them"
            yield DataProblem("duplicate", images[0].image_id, message)


def _thumbnails(checked: Iterable[_CheckedImage]) -> NDArray[np.uint8]:
    """(N, D)."""
    rows = [file.thumbnail for file in checked if file.thumbnail is not None]
    return np.stack(rows) if rows else np.zeros((0, 1), dtype=np.uint8)


def _near_train(checked: Sequence[_CheckedImage]) -> list[DataProblem]:
    """Images of test that nearly equal one that is trained or validated on, each with that one: warnings."""
    test = [file for file in checked if file.image.split == "test"]
    others = [file for file in checked if file.image.split != "test"]
    return [
        DataProblem(
            "near_duplicate",
            test[row].image.image_id,
            f"test ({test[row].image.image_id}) and {others[other].image.split} ({others[other].image.image_id}) hold "
            f"nearly the same image: their thumbnails correlate by {value:.3f}",
            is_error=False,
        )
        for row, other, value in near_duplicates(_thumbnails(test), _thumbnails(others))
    ]


def _count(
    name: str, listing: Listing, images: Sequence[ListedImage], checked: Sequence[_CheckedImage], *, n_near_train: int
) -> IdentityCheck:
    """The numbers of a listing, with the validation split that is held out of it."""
    rule = listing.match_rule
    assert rule is not None
    listed, used = part_numbers(listing.images, rule), part_numbers(images, rule)
    return IdentityCheck(
        name,
        rule,
        parts={part: numbers for part in PARTS if (numbers := listed.get(part) or used.get(part))},
        is_val_held_out="val" in used and "val" not in listed,
        n_unmatched_queries=len(unmatched_queries([image for image in images if image.split == "test"], rule)),
        n_near_train=n_near_train,
        n_near_match=_n_near_match([file for file in checked if file.image.split == "test"], rule),
    )


def _n_near_match(checked: Iterable[_CheckedImage], rule: MatchRule) -> int:
    """Queries of a split that nearly equal a match."""
    of_identity: dict[str, list[_CheckedImage]] = defaultdict(list)
    for file in checked:
        of_identity[file.image.class_name].append(file)
    n_near = 0
    for files in of_identity.values():
        queries, gallery = ([file for file in files if file.image.is_query == is_query] for is_query in (True, False))
        keys = [np.array([file.image.removal_key(rule) for file in part]) for part in (queries, gallery)]
        if queries and gallery:
            near = correlations(_thumbnails(queries), _thumbnails(gallery)) > MIN_CORRELATION
            n_near += int((near & (keys[0][:, None] != keys[1])).any(axis=1).sum())
    return n_near
