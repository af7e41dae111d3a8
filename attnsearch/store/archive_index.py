"""The CSV that says which image each row of an archive is, and what the model made of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnsearch.errors import StoreError
from attnsearch.store.damage import content_errors
from attnsearch.types import AttentionArchive

COLUMNS = (
    *("row", "image_id", "label", "class_name", "prediction", "predicted_class", "confidence"),
    *("height_px", "width_px", "crop_left", "crop_top", "crop_right", "crop_bottom"),
)

_FIX = "evaluate the trial again"


@dataclass(frozen=True)
class ArchiveIndex:
    """The per-image columns of an archive, shaped and typed as in `AttentionArchive`."""

    image_ids: tuple[str, ...]
    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]
    confidences: NDArray[np.float32]
    sizes_hw: NDArray[np.int64]
    crop_boxes: NDArray[np.float64]


def index_header() -> str:
    return ",".join(COLUMNS) + "\n"


def index_rows(part: AttentionArchive, first_row: int) -> str:
    """The CSV lines of one part of an archive, whose first image has the row `first_row`, from 0."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for index, image_id in enumerate(part.image_ids):
        label, prediction = int(part.labels[index]), int(part.predictions[index])
        names = _class_name(part, label), _class_name(part, prediction)
        # str of a numpy float is the shortest text that reads back as the same float32 or float64
        numbers = [str(value) for value in (*part.sizes_hw[index], *part.crop_boxes[index])]
        confidence = str(part.confidences[index])
        writer.writerow([first_row + index, image_id, label, names[0], prediction, names[1], confidence, *numbers])
    return text.getvalue()


def read_index(path: Path) -> ArchiveIndex:
    """Reads what `index_header` and `index_rows` wrote.

    Raises:
        StoreError: the file is missing, cut off or of another kind.
    """
    with content_errors(path, _FIX), path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    if not rows or tuple(rows[0]) != COLUMNS:
        raise StoreError(f"{path} is not the index of an archive: its columns must be {','.join(COLUMNS)}")
    broken = [number for number, row in enumerate(rows[1:], start=2) if len(row) != len(COLUMNS)]
    if broken:
        raise StoreError(f"{path}:{broken[0]}: a row must have {len(COLUMNS)} cells, {_FIX}")
    columns = dict(zip(COLUMNS, zip(*rows[1:], strict=True), strict=True)) if rows[1:] else {}
    with content_errors(path, _FIX, what="holds a value that cannot be read"):
        index = _typed(columns)
        _require_sane(index)
    return index


def _typed(columns: Mapping[str, Sequence[str]]) -> ArchiveIndex:
    return ArchiveIndex(
        image_ids=tuple(columns["image_id"]),
        labels=np.array(columns["label"], dtype=np.int64),
        predictions=np.array(columns["prediction"], dtype=np.int64),
        confidences=np.array(columns["confidence"], dtype=np.float32),
        sizes_hw=_stack(columns, COLUMNS[7:9], np.int64),
        crop_boxes=_stack(columns, COLUMNS[9:13], np.float64),
    )


def _require_sane(index: ArchiveIndex) -> None:
    """Sizes and boxes that a picture can have; labels are compared with the classes by who knows those."""
    if (index.sizes_hw < 1).any():
        raise ValueError(f"height_px and width_px must be at least 1, got {index.sizes_hw.min()}")
    if not np.isfinite(index.crop_boxes).all():
        raise ValueError("the edges of a crop must be finite")


def _stack(columns: Mapping[str, Sequence[str]], names: Sequence[str], dtype: Any) -> NDArray[Any]:
    return np.stack([np.array(columns[name], dtype=dtype) for name in names], axis=1)


def _class_name(part: AttentionArchive, index: int) -> str:
    return part.class_names[index] if 0 <= index < len(part.class_names) else ""
