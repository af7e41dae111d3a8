"""The embedded data set: synthetic birds as JPEG files in class folders, with a mask of their planted parts."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np

from attnsearch.config.base import digest_of
from attnsearch.config.data import SyntheticData
from attnsearch.data.built_folders import build_once, check_free_space
from attnsearch.data.folder import list_folder
from attnsearch.data.listing import ListedImage, Listing
from attnsearch.data.synthetic.birds import PARTS, Code, class_codes, draw_bird
from attnsearch.data.synthetic.files import draw_each, write_drawing
from attnsearch.errors import ConfigError
from attnsearch.files import new_folder
from attnsearch.types import SPLITS, Split

#: Raised when the same settings would give other images.
_VERSION = 1
_CLASSES = "classes.csv"
_MISSING = 1
"""The number behind the seed of an image, of what decides which of its parts are left out."""
_SUBSETS = tuple(parts for size in range(1, len(PARTS)) for parts in itertools.combinations(PARTS, size))
"""All subsets of the parts but none and all of them."""


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
    listing = list_folder(folder)
    return listing if cfg.missing_parts == 0 else replace(listing, images=_with_classes(cfg, listing.images))


def make_synthetic(cfg: SyntheticData, target: Path) -> None:
    """Draws the data set into a new folder, to be read as `folder`; all of it or nothing.

    Raises:
        ConfigError: parts are to be left out, after which a folder cannot tell which classes an image may show.
        DataError: the target exists and is not empty.
        StoreError: the disk is full or cannot be written.
    """
    if cfg.missing_parts:
        raise ConfigError(
            f"data.missing_parts must be 0 for a folder, which holds one class for each image, got "
            f"{cfg.missing_parts:g}; leave it out, or use data.name=synthetic"
        )
    with new_folder(target) as folder:
        _draw_all(cfg, folder)


def species_codes(cfg: SyntheticData) -> dict[str, Code]:
    """The variant of each part, of each class by its name, in the order of the labels."""
    codes = class_codes(cfg.n_classes, cfg.n_differing_parts)
    digits = len(str(cfg.n_classes))
    return {f"species_{number:0{digits}d}": code for number, code in enumerate(codes, start=1)}


@dataclass(frozen=True)
class BirdJob:
    """One image to draw.

    Attributes:
        code: the variant of each part.
        seed: of everything but the parts; its last number is that of the image in its split and class.
        present: the parts that the file shows.
    """

    split: Split
    class_name: str
    code: Code
    seed: tuple[int, int, int, int]
    present: tuple[str, ...] = PARTS

    @property
    def image_id(self) -> str:
        return f"{self.split}/{self.class_name}/{self.seed[-1]:04d}.jpg"

    def rng(self) -> np.random.Generator:
        """What everything but the parts is drawn from."""
        return np.random.default_rng(self.seed)


def bird_jobs(cfg: SyntheticData) -> Iterator[BirdJob]:
    """All images of the data set."""
    counts = (cfg.n_train_per_class, cfg.n_val_per_class, cfg.n_test_per_class)
    for place, (split, n_per_class) in enumerate(zip(SPLITS, counts, strict=True)):
        for label, (name, code) in enumerate(species_codes(cfg).items()):
            for index in range(n_per_class):
                seed = (cfg.data_seed, place, label, index)
                present = _parts_left(seed, cfg.missing_parts) if split == "train" else PARTS
                yield BirdJob(split, name, code, seed, present)


def _parts_left(seed: tuple[int, ...], fraction: float) -> tuple[str, ...]:
    """The parts of a training image: all, or in a fraction of the images any subset but none and all."""
    if fraction == 0:
        return PARTS
    rng = np.random.default_rng((*seed, _MISSING))
    is_complete, place = float(rng.random()) >= fraction, int(rng.integers(len(_SUBSETS)))
    return PARTS if is_complete else _SUBSETS[place]


def compatible_classes(codes: dict[str, Code], code: Code, present: Collection[str]) -> tuple[str, ...]:
    """The names of the classes that have the variants of a code in the parts that are present."""
    places = [place for place, part in enumerate(PARTS) if part in present]
    return tuple(name for name, other in codes.items() if all(other[place] == code[place] for place in places))


def _with_classes(cfg: SyntheticData, images: tuple[ListedImage, ...]) -> tuple[ListedImage, ...]:
    """The images, each of which without some parts with the classes that it may be of."""
    compatible = cache(partial(compatible_classes, species_codes(cfg)))  # many images of a class lack the same parts
    possible = {job.image_id: compatible(job.code, job.present) for job in bird_jobs(cfg) if job.present != PARTS}
    return tuple(replace(image, possible_classes=possible.get(image.image_id)) for image in images)


def _draw_all(cfg: SyntheticData, folder: Path) -> None:
    jobs, codes = list(bird_jobs(cfg)), species_codes(cfg)
    check_free_space(folder, len(jobs) * cfg.picture_px**2)
    marked = tuple(len(set(column)) > 1 for column in zip(*codes.values(), strict=True))
    draw_each(lambda job: _draw_one(cfg, job, folder=folder, marked=marked), jobs, "Drawing birds")
    _write_classes(folder / _CLASSES, codes)


def _draw_one(cfg: SyntheticData, job: BirdJob, *, folder: Path, marked: tuple[bool, ...]) -> None:
    write_drawing(folder, job.image_id, *draw_bird(job.code, marked, job.rng(), cfg, present=job.present))


def _write_classes(path: Path, codes: dict[str, Code]) -> None:
    """The variant of each part in each class."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["class", *PARTS])
        writer.writerows([name, *code] for name, code in codes.items())
