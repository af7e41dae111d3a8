"""Everything that is wrong with a data set, found in one pass over its files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from attnsearch.config.data import DataConfig, as_setting
from attnsearch.data.images import decode_resized
from attnsearch.data.tables import DataProblem, DataTables, ListedImage, build_from_listing, is_utf8, list_images
from attnsearch.errors import DataError
from attnsearch.progress import with_bar


@dataclass(frozen=True)
class _Finding:
    """One file: what is wrong with it or None, its upright size, and the hash of its bytes."""

    fault: str | None
    size_hw: tuple[int, int]
    digest: bytes


def check_data(cfg: DataConfig, *, progress: bool = False) -> list[DataProblem]:
    """Decodes every image and compares the splits.

    Returns:
        All problems: first those of the layout, then unreadable files, duplicates across splits, and images smaller
        than the crop. Empty where there are none.

    Raises:
        StoreError: synthetic images cannot be written.
    """
    try:
        listing = list_images(cfg)
    except DataError as error:
        return [DataProblem("layout", cfg.name, str(error))]
    problems = list(listing.problems)
    images: Sequence[ListedImage] = listing.images
    if not problems:
        try:
            images = _with_splits(images, build_from_listing(listing, cfg))
        except DataError as error:
            problems.append(DataProblem("layout", str(listing.root), str(error)))
    present = [image for image in images if is_utf8(image.image_id) and image.path.is_file()]  # others: see `problems`
    findings = list(with_bar(_inspect_all(present, cfg), "Checking images", n_steps=len(present), force=progress))
    problems += _unreadable(present, findings)
    problems += _duplicates(present, findings)
    problems += _small(present, findings, cfg)
    return problems


def _with_splits(images: Sequence[ListedImage], tables: DataTables) -> list[ListedImage]:
    """The images under the splits that they are used in, held-out ones included."""
    split_of = {image_id: table.split for table in tables.present() for image_id in table.image_ids}
    return [ListedImage(split_of[image.image_id], image.class_name, image.image_id, image.path) for image in images]


def _inspect_all(images: Sequence[ListedImage], cfg: DataConfig) -> Iterator[_Finding]:
    def inspect(image: ListedImage) -> _Finding:
        try:
            digest = hashlib.sha256(image.path.read_bytes()).digest()
            _, size_hw = decode_resized(image.path, size_hw=cfg.resized_hw, resize=cfg.resize, aspect=cfg.aspect)
        except DataError as error:
            return _Finding(str(error), (0, 0), b"")
        except OSError as error:
            return _Finding(f"{image.path}: cannot be read ({error})", (0, 0), b"")
        return _Finding(None, size_hw, digest)

    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="attnsearch-check") as pool:
        yield from pool.map(inspect, images)


def _unreadable(images: Sequence[ListedImage], findings: Sequence[_Finding]) -> list[DataProblem]:
    return [
        DataProblem("unreadable", image.image_id, f"{finding.fault}; replace or remove it")
        for image, finding in zip(images, findings, strict=True)
        if finding.fault is not None
    ]


def _duplicates(images: Sequence[ListedImage], findings: Sequence[_Finding]) -> list[DataProblem]:
    """Files of the same bytes that stand in several splits: a model would be tested on what it was trained on."""
    same: dict[bytes, list[ListedImage]] = {}
    for image, finding in zip(images, findings, strict=True):
        if finding.fault is None:
            same.setdefault(finding.digest, []).append(image)
    return [
        DataProblem(
            "duplicate",
            group[0].image_id,
            "the same image is in " + ", ".join(f"{i.split} ({i.image_id})" for i in group) + "; keep one of them",
        )
        for group in same.values()
        if len({image.split for image in group}) > 1
    ]


def _small(images: Sequence[ListedImage], findings: Sequence[_Finding], cfg: DataConfig) -> list[DataProblem]:
    return [
        DataProblem(
            "small",
            image.image_id,
            f"{image.path} has {finding.size_hw[0]} x {finding.size_hw[1]} pixels (height x width) and is enlarged to "
            f"{as_setting(cfg.resized_hw)}; train with a lower data.image_size_px or remove it",
            is_error=False,
        )
        for image, finding in zip(images, findings, strict=True)
        if finding.fault is None
        and any(has < needed for has, needed in zip(finding.size_hw, cfg.image_hw, strict=True))
    ]
