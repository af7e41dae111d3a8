"""Opens all images of a data set, compares its splits, and counts its identities."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnsearch import geometry
from attnsearch.config.data import DataConfig
from attnsearch.config.images import as_setting
from attnsearch.data.identity_numbers import PARTS, Part, PartNumbers, Spread, part_numbers
from attnsearch.data.images import decode_resized
from attnsearch.data.listing import (
    DataProblem,
    ListedImage,
    Listing,
    count_phrase,
    is_file,
    is_utf8,
    list_images,
    name_lines,
    unmatched_queries,
)
from attnsearch.data.near_duplicates import MIN_CORRELATION, correlations, near_duplicates, near_pairs, thumbnail
from attnsearch.data.tables import DataTables, build_from_listing
from attnsearch.errors import DataError
from attnsearch.progress import with_bar
from attnsearch.types import SPLITS, MatchRule, Split


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
    """The problems of a data set, and in re-identification what is counted, if it could be listed."""

    problems: list[DataProblem]
    identities: IdentityCheck | None = None


def check_data(cfg: DataConfig, *, progress: bool = False) -> DataCheck:
    """Decodes every image and compares the splits.

    Returns:
        All problems: first those of the layout, then unreadable files, duplicates across splits, near-duplicates, and
        images smaller than the crop, which recipes of re-identification enlarge. None where there are none.

    Raises:
        StoreError: synthetic images cannot be written.
    """
    try:
        listing = list_images(cfg)
    except DataError as error:
        return DataCheck([DataProblem("layout", cfg.name, str(error))])
    problems = list(listing.problems)
    images: Sequence[ListedImage] = listing.images
    if not any(problem.is_error for problem in problems):
        try:
            images = _with_splits(images, build_from_listing(replace(listing, problems=()), cfg))
        except DataError as error:
            problems.append(DataProblem("layout", str(listing.root), str(error)))
    present = [image for image in images if is_utf8(image.image_id) and is_file(image.path)]  # others: see `problems`
    is_compared = listing.match_rule is not None or not cfg.drawn_by
    files = _check_files(present, cfg, with_thumbnails=is_compared)
    checked = list(with_bar(files, "Checking images", n_steps=len(present), force=progress))
    problems += _unreadable(checked)
    readable = [file for file in checked if not file.problem]
    problems += _duplicates(readable)
    if listing.match_rule is None:
        return DataCheck([*problems, *_near_duplicates(readable), *_small(readable, cfg)])
    near = _near_train(readable)
    return DataCheck([*problems, *near], _count(cfg.name, listing, images, readable, n_near_train=len(near)))


def _with_splits(images: Sequence[ListedImage], tables: DataTables) -> list[ListedImage]:
    """The images under the splits that they are used in, held-out ones included."""
    split_of = {image_id: table.split for table in tables.present() for image_id in table.image_ids}
    return [replace(image, split=split_of[image.image_id]) for image in images]


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


def _small(checked: Iterable[_CheckedImage], cfg: DataConfig) -> Iterator[DataProblem]:
    for file in checked:
        height, width = file.size_hw
        if height < cfg.image_hw[0] or width < cfg.image_hw[1]:
            message = (
                f"{file.image.path} has {height} x {width} pixels (height x width) and is enlarged to "
                f"{as_setting(cfg.resized_hw)}; train with a lower data.image_size_px or remove it"
            )
            yield DataProblem("small", file.image.image_id, message, is_error=False)


def _thumbnails(checked: Iterable[_CheckedImage]) -> NDArray[np.uint8]:
    """(N, D)."""
    rows = [file.thumbnail for file in checked if file.thumbnail is not None]
    return np.stack(rows) if rows else np.zeros((0, 1), dtype=np.uint8)


def _near_duplicates(checked: Sequence[_CheckedImage]) -> list[DataProblem]:
    """Pairs of images that nearly equal each other, a warning for each two splits, or one split, that hold some.

    Files of the same bytes in two splits are left to `_duplicates`. None where there are no thumbnails.
    """
    of_splits: dict[tuple[Split, Split], list[str]] = defaultdict(list)
    where: dict[tuple[Split, Split], str] = {}
    for row, other, value in near_pairs(_thumbnails(checked)):
        first, second = sorted((checked[row], checked[other]), key=lambda file: SPLITS.index(file.image.split))
        key = (first.image.split, second.image.split)
        if key[0] == key[1] or first.digest != second.digest:
            where.setdefault(key, second.image.image_id)
            of_splits[key].append(f"{first.image.image_id} and {second.image.image_id} (correlation {value:.3f})")
    return [
        DataProblem("near_duplicate", where[key], _near_message(*key, of_splits[key]), is_error=False)
        for key in sorted(of_splits, key=lambda key: [SPLITS.index(split) for split in key])
    ]


def _near_message(first: Split, second: Split, pairs: Sequence[str]) -> str:
    """What is wrong with near-duplicates of a split, or of two, and what to do."""
    pairs_are = count_phrase(len(pairs), "pair of images shows", "pairs of images show")
    if first == second:
        return f"{first}: {pairs_are} nearly the same, which counts twice; remove one of each:{name_lines(pairs)}"
    return (
        f"{first} and {second}: {pairs_are} nearly the same, which makes the scores of {second} too good; remove one "
        f"of each, or move both into one split:{name_lines(pairs)}"
    )


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
