"""Scores and curves of single images, where the trial was scored; where it was not, nothing is shown."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnsearch.explorer.memo import Memo, stamp_of
from attnsearch.store.layout import StudyLayout


@dataclass(frozen=True, eq=False)
class ImageScores:
    """What was measured of each image's saliency.

    Attributes:
        values: metric -> image id -> score; undefined ones are NaN.
        curves: (n_images, n_curves, n_steps + 1) float32 mapped from disk, or None.
        curve_names: one per curve.
        fractions: n_steps + 1 shares of the cells that were removed or inserted, from 0 to 1.
        rows: image id -> row of `curves`.
        settings: how the curves were measured.
    """

    values: Mapping[str, Mapping[str, float]]
    curves: NDArray[np.float32] | None = None
    curve_names: tuple[str, ...] = ()
    fractions: tuple[float, ...] = ()
    rows: Mapping[str, int] | None = None
    settings: Mapping[str, Any] | None = None

    def of_image(self, image_id: str) -> dict[str, float | None]:
        """Metric -> score of one image; None where it is undefined."""
        found = {name: values[image_id] for name, values in self.values.items() if image_id in values}
        return {name: value if math.isfinite(value) else None for name, value in found.items()}

    def curves_of(self, image_id: str) -> dict[str, list[float | None]]:
        """Curve -> its points for one image; empty where none were kept."""
        if self.curves is None or self.rows is None or image_id not in self.rows:
            return {}
        rows = np.asarray(self.curves[self.rows[image_id]], dtype=np.float64)
        return {
            name: [float(value) if math.isfinite(value) else None for value in row]
            for name, row in zip(self.curve_names, rows, strict=True)
        }


NO_SCORES = ImageScores({})


class Scores:
    """Reads the scores of trials."""

    def __init__(self) -> None:
        self._read: Memo[ImageScores] = Memo(64)

    def of(self, layout: StudyLayout, number: int, split: str) -> ImageScores:
        """The scores of one archive; `NO_SCORES` where it was not scored or the files cannot be understood."""
        folder = layout.trial(number).directory
        paths = (folder / f"scores_{split}.csv", folder / f"curves_{split}.npy", folder / f"scores_{split}.json")
        stamp = stamp_of(*paths)
        return self._read.get((folder, split), stamp, lambda: _read(*paths))


def _read(table: Path, curves: Path, about: Path) -> ImageScores:
    if not table.is_file():
        return NO_SCORES
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or "image_id" not in rows[0]:
        return NO_SCORES
    names = [name for name in rows[0] if name not in (None, "image_id", "row")]
    values = {name: {row["image_id"]: _number(row[name]) for row in rows} for name in names}
    values = {name: column for name, column in values.items() if any(map(math.isfinite, column.values()))}
    scores = ImageScores(values)
    try:
        return _with_curves(scores, [row["image_id"] for row in rows], curves, about)
    except (OSError, ValueError, KeyError, TypeError):
        return scores  # curves are optional; the page says that there are none


def _with_curves(scores: ImageScores, ids: list[str], curves: Path, about: Path) -> ImageScores:
    described = json.loads(about.read_text(encoding="utf-8"))
    array = np.load(curves, mmap_mode="r", allow_pickle=False)
    names, fractions = tuple(map(str, described["curves"])), tuple(map(float, described["fractions"]))
    if array.shape != (len(ids), len(names), len(fractions)):
        raise ValueError(f"curves must have the shape {(len(ids), len(names), len(fractions))}, got {array.shape}")
    settings = described.get("settings")
    rows = {image_id: row for row, image_id in enumerate(ids)}
    return ImageScores(scores.values, array, names, fractions, rows, settings if isinstance(settings, dict) else None)


def _number(text: str | None) -> float:
    """A cell; yes and no count as 1 and 0, text and nothing as undefined."""
    if text in ("True", "False"):
        return float(text == "True")
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
