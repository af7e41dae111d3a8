"""Scores and curves of single images, where the trial was scored; where it was not, nothing is shown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnsearch.errors import StoreError
from attnsearch.results.cache import FileCache, stamp_of
from attnsearch.store.image_scores import read_scores
from attnsearch.store.layout import ScorePaths, StudyLayout
from attnsearch.types import Split


@dataclass(frozen=True, eq=False)
class ImageScores:
    """What was measured of the saliency of some images, by image id.

    Attributes:
        values: metric -> image id -> score; undefined ones are NaN. Metrics that no image has are left out.
        curves: (N, n_curves, n_steps + 1) float32 mapped from disk, or None.
        rows: image id -> row of `curves`.
        fractions: n_steps + 1 shares of the cells that were removed or inserted, from 0 to 1.
        settings: how the scores were measured.
    """

    values: Mapping[str, Mapping[str, float]]
    curves: NDArray[np.float32] | None
    curve_names: tuple[str, ...]
    rows: Mapping[str, int]
    fractions: tuple[float, ...]
    settings: Mapping[str, Any]

    def of_image(self, image_id: str) -> dict[str, float | None]:
        """Metric -> score of one image; None where it is undefined, nothing for an image that was not scored."""
        found = {name: values[image_id] for name, values in self.values.items() if image_id in values}
        return {name: value if math.isfinite(value) else None for name, value in found.items()}

    def means(self) -> dict[str, float]:
        """Metric -> mean over the images where it is defined."""
        return {name: float(np.nanmean(list(values.values()))) for name, values in self.values.items()}

    def curves_of(self, image_id: str) -> dict[str, list[float | None]]:
        """Curve -> its points for one image; empty where none were kept."""
        if self.curves is None or image_id not in self.rows:
            return {}
        rows = np.asarray(self.curves[self.rows[image_id]], dtype=np.float64)
        return {
            name: [float(value) if math.isfinite(value) else None for value in row]
            for name, row in zip(self.curve_names, rows, strict=True)
        }


NO_SCORES = ImageScores({}, None, (), {}, (), {})


class Scores:
    """Reads the scores of trials."""

    def __init__(self) -> None:
        self._read: FileCache[ImageScores] = FileCache(64)

    def of(self, layout: StudyLayout, number: int, split: Split) -> ImageScores:
        """The scores of one archive; `NO_SCORES` where it was not scored or the files do not fit together."""
        paths = layout.trial(number).scores(split)
        stamp = stamp_of(paths.about, paths.table, paths.curves)
        return self._read.get(paths.about, stamp, lambda: _read(paths))


def _read(paths: ScorePaths) -> ImageScores:
    try:
        table = read_scores(paths)
    except StoreError:
        return NO_SCORES  # not scored yet, or being scored again
    columns = {name: column for name, column in table.values.items() if np.isfinite(column).any()}
    settings = table.about.get("settings")
    return ImageScores(
        values={name: dict(zip(table.image_ids, column.tolist(), strict=True)) for name, column in columns.items()},
        curves=table.curves if table.curve_names else None,
        curve_names=table.curve_names,
        rows={image_id: row for row, image_id in enumerate(table.image_ids)},
        fractions=table.fractions,
        settings=settings if isinstance(settings, dict) else {},
    )
