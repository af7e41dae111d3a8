"""Synthetic individuals for re-identification: JPEG files in the folders of Market-1501, with masks of their parts.

A mask is a PNG file with a palette: its pixels are part numbers (1 headgear, 2 emblem, 3 bag, 4 cuffs, 5 shoes; 0 is
everything else), which `numpy.asarray(PIL.Image.open(path))` returns, and their colours are bright, so that what reads
masks by brightness finds all parts.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from attnsearch.config.base import digest_of
from attnsearch.config.data import IndividualsData
from attnsearch.data.built_folders import build_once, check_free_space
from attnsearch.data.identity_numbers import DISTRACTORS
from attnsearch.data.listing import Listing
from attnsearch.data.reid_names import JUNK, MARKET_FOLDERS, list_market_folders
from attnsearch.data.synthetic.accessories import N_VARIANTS, PARTS
from attnsearch.data.synthetic.cameras import Camera, random_camera
from attnsearch.data.synthetic.files import check_parts, draw_each, write_drawing
from attnsearch.data.synthetic.walkers import Code, draw_walker, random_clothes
from attnsearch.errors import DataError

#: Raised when the same settings would give other images.
_VERSION = 1
_IDENTITIES = "identities.csv"
_NUMBERS = ("n_cameras", "n_per_camera", "n_distractors", "n_junk")
_PALETTE = (0, 0, 0, 255, 96, 96, 255, 176, 64, 255, 255, 96, 255, 128, 255, 255, 255, 255)
"""Red, green and blue of no part and of each part; all parts have full red and more than half of the brightness."""
_CODES, _CAMERAS, _CLOTHES, _IMAGES = range(4)
"""The number behind the data seed, of each thing that is drawn at random."""


def list_images(cfg: IndividualsData) -> Listing:
    """The images; the first time they are drawn into the cache folder.

    Raises:
        StoreError: they do not fit on the disk or cannot be written.
    """
    settings = cfg.model_dump(include={*_NUMBERS, *cfg.drawn_by})

    def build(folder: Path) -> dict[str, str | int | float]:
        _draw_all(cfg, folder)
        return {"version": _VERSION, "name": cfg.name, **settings}

    digest = digest_of([_VERSION, cfg.name, settings])
    folder = build_once("synthetic", digest[:32], build, is_whole=lambda folder: (folder / _IDENTITIES).is_file())
    return list_market_folders(folder)


def redraw(
    cfg: IndividualsData, image_id: str, *, present: Collection[str] = PARTS, code: Code | None = None
) -> tuple[Image.Image, Image.Image]:
    """An image as it was before it became a JPEG file, with parts left out or exchanged and all else as it was.

    Without blur of the camera, only pixels that the changed part covers before or after differ.

    Args:
        present: names of the parts that are drawn.
        code: the variant of each part; None means those of the individual.
    Returns:
        The image (RGB) and the mask (part numbers, with a palette).
    Raises:
        DataError: the data set has no such image.
        ValueError: a name is not that of a part.
    """
    check_parts(present, PARTS)
    job = next((job for job in _jobs(cfg) if job.image_id == image_id), None)
    if job is None:
        raise DataError(f"data individuals: no image is called {image_id!r} under these settings")
    return _draw(cfg, job if code is None else replace(job, code=code), present)


@lru_cache(maxsize=8)
def identity_codes(n_differing_parts: int, seed: int) -> tuple[Code, ...]:
    """The codes of all individuals that there can be, in the order in which they get them.

    They are the words of a Reed-Solomon code over GF(5): digit x is sum_j a_j x^j, for x = 0 to 4, with
    6 - `n_differing_parts` coefficients, so that any two codes differ in at least `n_differing_parts` digits. The order
    is random, but the first five codes differ in their constant alone and so hold every variant of every part.
    """
    places, n_free = np.arange(len(PARTS)), 6 - n_differing_parts
    coefficients = np.array(list(itertools.product(range(N_VARIANTS), repeat=n_free)))  # the last one is the constant
    powers = places[None, :] ** np.arange(n_free)[::-1, None]  # (n_free, 5)
    codes = coefficients @ powers % N_VARIANTS
    order = np.random.default_rng((seed, _CODES)).permutation(len(codes))
    is_first = order // N_VARIANTS == order[0] // N_VARIANTS
    return tuple(tuple(code) for code in codes[np.concatenate([order[is_first], order[~is_first]])].tolist())


@dataclass(frozen=True)
class _Job:
    """One image to draw.

    Attributes:
        identity: as in the file's name.
        individual: position in `identity_codes`, which tied clothes follow.
        camera, index: the camera and the number of the image among those of its identity and camera, from 0.
    """

    folder: str
    identity: str
    individual: int
    code: Code
    camera: int
    index: int

    @property
    def image_id(self) -> str:
        return f"{self.folder}/{self.identity}_c{self.camera + 1}s1_{self.index + 1:06d}_00.jpg"


def _jobs(cfg: IndividualsData) -> Iterator[_Job]:
    """All images: those of training and test individuals, distractors, junk."""
    codes = identity_codes(cfg.n_differing_parts, cfg.data_seed)
    n_known, gallery = cfg.n_identities + cfg.n_test_identities, MARKET_FOLDERS["gallery"]
    for n, camera, index in itertools.product(range(n_known), range(cfg.n_cameras), range(cfg.n_per_camera)):
        folder = MARKET_FOLDERS["train"] if n < cfg.n_identities else gallery if index else MARKET_FOLDERS["query"]
        yield _Job(folder, f"{n + 1:04d}", n, codes[n], camera, index)
    for identity, n_images in ((DISTRACTORS, cfg.n_distractors), (JUNK, cfg.n_junk)):
        for number in range(n_images):
            index, camera = divmod(number, cfg.n_cameras)
            n = n_known + number % (len(codes) - n_known) if identity == DISTRACTORS else number % len(codes)
            yield _Job(gallery, identity, n, codes[n], camera, index)


def _draw(cfg: IndividualsData, job: _Job, present: Collection[str] = PARTS) -> tuple[Image.Image, Image.Image]:
    # The identity of junk is -1, and seeds are not negative.
    seed = (cfg.data_seed, _IMAGES, int(job.identity) + 1, job.camera, job.index)
    clothes = (cfg.data_seed, _CLOTHES, job.individual) if cfg.tied_clothes else (*seed, _CLOTHES)
    camera = random_camera((cfg.data_seed, _CAMERAS), job.camera) if cfg.camera_effects else Camera()
    if job.identity == JUNK:
        camera = replace(camera, shift=(0.5, 0.0) if job.index % 2 else (0.0, 0.5))
    image, mask = draw_walker(
        job.code,
        random_clothes(np.random.default_rng(clothes)),
        camera,
        np.random.default_rng(seed),
        cfg,
        present=present,
    )
    mask.putpalette(_PALETTE)
    return image, mask


def _draw_all(cfg: IndividualsData, folder: Path) -> None:
    jobs = list(_jobs(cfg))
    check_free_space(folder, len(jobs) * cfg.picture_px**2 // 2)
    draw_each(lambda job: write_drawing(folder, job.image_id, *_draw(cfg, job)), jobs, "Drawing individuals")
    _write_identities(folder / _IDENTITIES, {job.identity: job.code for job in jobs if int(job.identity) > 0})


def _write_identities(path: Path, code_of: dict[str, Code]) -> None:
    """The variant of each part of each individual."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["identity", *PARTS])
        writer.writerows([identity, *code] for identity, code in code_of.items())
