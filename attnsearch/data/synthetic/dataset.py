"""The embedded data set: synthetic birds as JPEG files in class folders, with a mask of their planted parts."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from attnsearch.config.base import digest_of
from attnsearch.config.data import SyntheticData
from attnsearch.data.cache import build_once, check_free_space
from attnsearch.data.folder import list_folder
from attnsearch.data.listing import Listing
from attnsearch.data.synthetic.birds import PARTS, Code, class_codes, draw_bird
from attnsearch.data.synthetic.files import draw_each, write_drawing
from attnsearch.files import new_folder
from attnsearch.types import SPLITS, Split

#: Raised when the same settings would give other images.
_VERSION = 1
_CLASSES = "classes.csv"


def list_images(cfg: SyntheticData) -> Listing:
    """The images; the first time they are drawn into the cache folder.

    Raises:
        StoreError: they do not fit on the disk or cannot be written.
    """
    settings = cfg.model_dump(include={"n_train_per_class", *cfg.drawn_by})
    digest = digest_of([_VERSION, settings])

    def build(folder: Path) -> dict[str, str | int | float]:
        _draw_all(cfg, folder)
        return {"version": _VERSION, **settings}

    folder = build_once("synthetic", digest[:32], build, is_whole=lambda folder: (folder / _CLASSES).is_file())
    return list_folder(folder)


def make_synthetic(cfg: SyntheticData, target: Path) -> None:
    """Draws the data set into a new folder, to be read as `folder`; all of it or nothing.

    Raises:
        DataError: the target exists and is not empty.
        StoreError: the disk is full or cannot be written.
    """
    with new_folder(target) as folder:
        _draw_all(cfg, folder)


def _draw_all(cfg: SyntheticData, folder: Path) -> None:
    counts = dict(zip(SPLITS, (cfg.n_train_per_class, cfg.n_val_per_class, cfg.n_test_per_class), strict=True))
    check_free_space(folder, cfg.n_classes * sum(counts.values()) * cfg.picture_px**2)
    codes = class_codes(cfg.n_classes, cfg.n_differing_parts)
    names = [f"species_{index:0{len(str(cfg.n_classes))}d}" for index in range(1, cfg.n_classes + 1)]
    marked = tuple(len(set(column)) > 1 for column in zip(*codes, strict=True))
    jobs = [
        _Job(folder, split, name, code, (cfg.data_seed, SPLITS.index(split), label, index))
        for split in SPLITS
        for label, (name, code) in enumerate(zip(names, codes, strict=True))
        for index in range(counts[split])
    ]
    draw_each(lambda job: _draw_one(cfg, job, marked), jobs, "Drawing birds")
    _write_classes(folder / _CLASSES, names, codes)


@dataclass(frozen=True)
class _Job:
    """One image to draw; the last number of the seed is its number in the class."""

    folder: Path
    split: Split
    class_name: str
    code: Code
    seed: tuple[int, int, int, int]


def _draw_one(cfg: SyntheticData, job: _Job, marked: tuple[bool, ...]) -> None:
    image, mask = draw_bird(job.code, marked, np.random.default_rng(job.seed), cfg)
    write_drawing(job.folder, f"{job.split}/{job.class_name}/{job.seed[-1]:04d}.jpg", image, mask)


def _write_classes(path: Path, names: list[str], codes: tuple[Code, ...]) -> None:
    """The variant of each part in each class."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["class", *PARTS])
        writer.writerows([name, *code] for name, code in zip(names, codes, strict=True))
