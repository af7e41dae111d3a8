"""What a metric of a study reaches without any information, as it was measured once for each grid of maps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from attnsearch.files import atomic_write
from attnsearch.store.inspection import Content, read_json

FORMAT = 1
_FIX = "delete it; the next `attnsearch search` measures the floors again"


class MeasuredFloors(Content):
    """The floors of one grid of maps.

    Attributes:
        grid: rows and columns of the maps.
        n_images: of validation, on which floors of maps were measured.
        n_split: all images of validation.
        version: of the scores.
        settings: digest of how maps were scored, the number of images apart.
        images: digest of the ids of all images of validation.
        values: metric without its split -> name of a floor -> value.
    """

    grid: tuple[int, int]
    n_images: int
    n_split: int
    version: int
    settings: str
    images: str
    values: Mapping[str, Mapping[str, float]] = Field(default_factory=dict)

    @property
    def key(self) -> tuple[object, ...]:
        """What tells one measurement from another."""
        return (*self.grid, self.version, self.settings, self.images)


class _File(Content):
    floors: list[MeasuredFloors]


def read_floors(path: Path) -> list[MeasuredFloors]:
    """All that were measured of a study; empty without the file.

    Raises:
        StoreError: the file is damaged, or of another format.
    """
    return read_json(path, _File, version=FORMAT, fix=_FIX).floors if path.exists() else []


def add_floors(path: Path, found: MeasuredFloors) -> None:
    """Puts a measurement beside those of other grids; one of the same images and settings is replaced.

    Raises:
        StoreError: the file is damaged, or the disk refuses.
    """
    others = [one for one in read_floors(path) if one.key != found.key]
    atomic_write(path, _FileOut(format=FORMAT, floors=[*others, found]).model_dump_json(indent=1) + "\n")


class _FileOut(_File):
    format: int
