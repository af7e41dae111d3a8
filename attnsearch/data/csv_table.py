"""A CSV file that lists images, their classes and splits, and optionally their masks."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from attnsearch.config.data import CsvData
from attnsearch.data.listing import DataProblem, ListedImage, Listing
from attnsearch.errors import DataError
from attnsearch.files import atomic_write
from attnsearch.types import SPLITS

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("path", "label", "split")


def list_images(cfg: CsvData) -> Listing:
    """The images that the file lists; relative paths start at its folder.

    Raises:
        DataError: there is no such file, or a row lacks a path, a label or a split.
    """
    file = cfg.root_path.absolute()
    images = [_image(file, line, row) for line, row in read_rows(file, COLUMNS)]
    listing = Listing.of(file.parent, images)
    twice = [name for name, count in Counter(image.image_id for image in images).items() if count > 1]
    if not twice:
        return listing
    message = f"{file} lists {len(twice)} images twice, such as {twice[0]}; keep one row of each"
    return replace(listing, problems=(DataProblem("layout", twice[0], message),))


def write_table(frame: pd.DataFrame, target: Path) -> None:
    """Writes a table with the columns `path`, `label`, `split` and perhaps `mask` so that it is read from anywhere.

    Raises:
        DataError: a column is missing.
        StoreError: the disk refuses.
    """
    if missing := [name for name in COLUMNS if name not in frame.columns]:
        raise DataError(f"the table has no column {', '.join(missing)}; it needs {', '.join(COLUMNS)}")
    paths = [name for name in ("path", "mask") if name in frame.columns]
    absolute = frame.assign(**{name: [str(Path(path).absolute()) for path in frame[name]] for name in paths})
    atomic_write(target, absolute.to_csv(index=False).encode())


def read_rows(file: Path, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, str | None]]]:
    """(line, column -> text) of each row.

    Args:
        columns: those that the file must have.
    Raises:
        DataError: the file cannot be read, or lacks a column.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
                raise DataError(f"{file}:1: has no column {', '.join(missing)}; it needs {', '.join(columns)}")
            for row in reader:
                yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read: {error}; it must be a CSV file") from error


def _image(file: Path, line: int, row: Mapping[str, str | None]) -> ListedImage:
    path, label = row["path"] or "", row["label"] or ""
    split = next((split for split in SPLITS if split == row["split"]), None)
    if not path or not label:
        raise DataError(f"{file}:{line}: needs a path and a label, got {path!r} and {label!r}")
    if split is None:
        raise DataError(f"{file}:{line}: split must be {', '.join(SPLITS[:-1])} or {SPLITS[-1]}, got {row['split']!r}")
    mask = file.parent / mask_path if (mask_path := row.get("mask")) else None
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
    return ListedImage(split, label, "/".join(parts), file.parent / path, mask_path=mask)
