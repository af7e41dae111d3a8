"""Synthetic birds drawn again with parts left out or exchanged, or without a thing behind them, and all else as it was.

Files of the data set are JPEG, which changes pixels far from a part as well; here both images stay in memory.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

from PIL import Image

from attnsearch.config.data import DataConfig, SyntheticData
from attnsearch.data.synthetic.birds import N_VARIANTS, PARTS, BirdDrawing, Code
from attnsearch.data.synthetic.dataset import BirdJob, bird_jobs, species_codes
from attnsearch.data.synthetic.files import check_parts
from attnsearch.errors import ConfigError, DataError


class BirdRedraw:
    """The images of a synthetic data set as they were before they became files, under interventions.

    Two images of one bird differ only in pixels that a changed part or thing covers before or after, and next to them.
    Many images of one bird after each other are cheap, since what they have in common is drawn once.

    Attributes:
        codes: the variants of the parts of each class, in the order of the labels.
    """

    def __init__(self, cfg: SyntheticData) -> None:
        self.codes: tuple[Code, ...] = tuple(species_codes(cfg).values())
        self._cfg = cfg
        self._jobs = {job.image_id: job for job in bird_jobs(cfg)}
        self._drawing_of = lru_cache(maxsize=1)(self.drawing)

    @classmethod
    def of(cls, cfg: DataConfig) -> BirdRedraw:
        """Of the settings of any data set.

        Raises:
            ConfigError: its images cannot be drawn again.
        """
        if not isinstance(cfg, SyntheticData):
            raise ConfigError(
                f"data.name: parts can be exchanged in synthetic birds alone, got {cfg.name!r}; use data.name=synthetic"
            )
        return cls(cfg)

    def code_of(self, image_id: str) -> Code:
        """The variant of each part of an image's class.

        Raises:
            DataError: the data set has no such image.
        """
        return self._job(image_id).code

    def drawing(self, image_id: str) -> BirdDrawing:
        """A new drawing of an image, for a caller that renders it many times, or in a thread of its own.

        Raises:
            DataError: the data set has no such image.
        """
        return BirdDrawing(self._job(image_id).rng(), self._cfg)

    def n_clutter(self, image_id: str) -> int:
        """Number of things behind the bird: twigs, leaves and berries.

        Raises:
            DataError: the data set has no such image.
        """
        return self._drawing_of(image_id).n_clutter

    def draw(
        self,
        image_id: str,
        *,
        present: Collection[str] = PARTS,
        code: Code | None = None,
        without_clutter: int | None = None,
        counted: Collection[int] | None = None,
    ) -> tuple[Image.Image, Image.Image]:
        """An image (RGB), and the mask (L) of its parts, numbered from 1 as in `PARTS`, and of clutter from 10.

        Args:
            present: names of the parts that are drawn, also of a training image whose file lacks some.
            code: the variant of each part; None means that of the class.
            without_clutter: the thing behind the bird that is left out, from 0.
            counted: the numbers that the mask may hold, which takes time for each; None means all.
        Raises:
            DataError: the data set has no such image.
            ValueError: no such part, variant or thing.
        """
        check_parts(present, PARTS)
        drawing, code = self._drawing_of(image_id), code or self.code_of(image_id)
        if len(code) != len(PARTS) or not all(0 <= variant < N_VARIANTS for variant in code):
            raise ValueError(f"a code has {len(PARTS)} variants from 0 to {N_VARIANTS - 1}, got {code}")
        if without_clutter is not None and not 0 <= without_clutter < drawing.n_clutter:
            raise ValueError(
                f"{image_id} has {drawing.n_clutter} things behind the bird, counted from 0, got {without_clutter}"
            )
        return drawing.render(code, present=present, without_clutter=without_clutter, counted=counted)

    def _job(self, image_id: str) -> BirdJob:
        if image_id not in self._jobs:
            raise DataError(f"data synthetic: no image is called {image_id!r} under these settings")
        return self._jobs[image_id]
