"""The images of a data set as plain columns, one table per split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attnsearch.errors import DataError
from attnsearch.types import Split


@dataclass(frozen=True, eq=False)
class ImageTable:
    """One split, sorted by class and then by name.

    Attributes:
        image_ids: N stable strings, the POSIX path relative to the data root.
        labels: (N,) int64 positions in `class_names`.
        mask_paths: one picture per image that is bright on its discriminative parts, or None.
        boxes: (N, 4) float64 left, top, right, bottom of the object in original pixels, or None.
        points: (N, P, 2) float64 x, y of named parts in original pixels, NaN where a part is hidden, or None.
        point_names: P names.
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

    def __len__(self) -> int:
        return len(self.image_ids)


@dataclass(frozen=True, eq=False)
class DataTables:
    """The splits of a data set; `val_hash` tells whether two runs validate on the same images."""

    root: Path
    class_names: tuple[str, ...]
    train: ImageTable
    val: ImageTable
    test: ImageTable | None
    val_hash: str

    def of(self, split: Split) -> ImageTable:
        """The table of a split.

        Raises:
            DataError: the data set has no test split.
        """
        table = {"train": self.train, "val": self.val, "test": self.test}[split]
        if table is None:
            raise DataError(f"{self.root} has no test split; add a test folder of class folders, or use val")
        return table

    def present(self) -> tuple[ImageTable, ...]:
        """The tables that exist, in the order train, val, test."""
        return tuple(table for table in (self.train, self.val, self.test) if table is not None)


def hash_ids(image_ids: Iterable[str]) -> str:
    """SHA-256 of the sorted ids, in hexadecimal: the same for the same set of images in any order."""
    return hashlib.sha256("\n".join(sorted(image_ids)).encode(errors="surrogateescape")).hexdigest()
