"""What the pages show of a trial's images: maps by name, also weighted by the feature norm, and scores by image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnsearch.errors import AttnSearchError, ConfigError, StoreError
from attnsearch.results.cache import FileCache, stamp_of
from attnsearch.results.trial import TrialReader
from attnsearch.store.archive import read_archive
from attnsearch.store.image_scores import ScoreTable
from attnsearch.store.layout import ArchivePaths
from attnsearch.types import AttentionArchive, Split


@dataclass(frozen=True, eq=False)
class OpenArchive:
    """One archive, opened; `error` is why its arrays cannot be shown, in one line, or None."""

    archive: AttentionArchive
    stamp: tuple[tuple[int, int, int], ...]
    error: str | None

    @property
    def map_labels(self) -> dict[str, str]:
        """Key of each map -> its label; the saliency first."""
        archive = self.archive
        labels = {} if archive.saliency is None else {"saliency": "saliency"}
        if archive.maps is not None:
            labels |= {f"map{index}": name for index, name in enumerate(archive.map_names)}
        if archive.norms is not None:
            labels |= {"norm": "feature norm"}
        if archive.maps is not None and archive.norms is not None and archive.map_names != ("norm",):
            labels |= {f"weighted{index}": f"{name} × norm" for index, name in enumerate(archive.map_names)}
        return labels

    def map_at(self, key: str, row: int) -> NDArray[np.float32]:
        """One map (h, w), as the model made it.

        Raises:
            ConfigError: no such map.
        """
        if key not in self.map_labels:
            raise ConfigError(f"map must be one of {', '.join(self.map_labels) or 'none'}, got {key!r}")
        archive = self.archive
        if key == "saliency" and archive.saliency is not None:
            return np.asarray(archive.saliency[row])
        if key == "norm" and archive.norms is not None:
            return np.asarray(archive.norms[row, 0])
        assert archive.maps is not None
        cells = np.asarray(archive.maps[row, int(key.removeprefix("weighted").removeprefix("map"))])  # (h, w)
        return cells * np.asarray(archive.norms[row, 0]) if key[0] == "w" and archive.norms is not None else cells


class Archives:
    """Opens the archives of trials; arrays stay mapped from disk. Safe between threads."""

    def __init__(self) -> None:
        self._open: FileCache[OpenArchive] = FileCache(64)
        self._rows: FileCache[dict[str, int]] = FileCache(64)

    def open(self, trial: TrialReader, split: str) -> OpenArchive:
        """The archive of one split.

        Raises:
            ConfigError: the trial has none.
            StoreError: it is damaged.
        """
        paths = trial.archive_paths(split)
        stamp = stamp_of(paths.images, paths.about, *paths.arrays.values())
        return self._open.get(paths.images, stamp, lambda: _open_archive(paths, stamp))

    def rows_of(self, opened: OpenArchive) -> Mapping[str, int]:
        """Image id -> its row in the archive."""
        ids = opened.archive.image_ids
        return self._rows.get(id(opened), opened, lambda: {image_id: row for row, image_id in enumerate(ids)})


def _open_archive(paths: ArchivePaths, stamp: tuple[tuple[int, int, int], ...]) -> OpenArchive:
    try:
        return OpenArchive(read_archive(paths), stamp, None)
    except AttnSearchError as error:
        return OpenArchive(read_archive(paths, index_only=True), stamp, _without_folder(str(error), paths))


def _without_folder(text: str, paths: ArchivePaths) -> str:
    return text.replace(f"{paths.images.parent}/", "")


@dataclass(frozen=True, eq=False)
class ImageScores:
    """What was measured of the saliency of some images, by image id.

    Attributes:
        values: metric -> image id -> score; undefined ones are NaN. Metrics that no image has are left out.
        curves: (N, n_curves, n_steps + 1) float32 mapped from disk, or None.
        rows: image id -> row of `curves`.
        fractions: n_steps + 1 fractions of the cells that were removed or inserted, from 0 to 1.
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
        scores = {name: values[image_id] for name, values in self.values.items() if image_id in values}
        return {name: value if math.isfinite(value) else None for name, value in scores.items()}

    def means(self) -> dict[str, float]:
        """Metric -> mean over the images where it is defined."""
        return {name: float(np.nanmean(list(values.values()))) for name, values in self.values.items()}

    def curves_of(self, image_id: str) -> dict[str, list[float | None]]:
        """Curve -> its n_steps + 1 points for one image; empty where no curves were stored."""
        if self.curves is None or image_id not in self.rows:
            return {}
        rows = np.asarray(self.curves[self.rows[image_id]], dtype=np.float64)  # (n_curves, n_steps + 1)
        return {
            name: [float(value) if math.isfinite(value) else None for value in row]
            for name, row in zip(self.curve_names, rows, strict=True)
        }


NO_SCORES = ImageScores({}, None, (), {}, (), {})


def image_scores(trial: TrialReader, split: Split) -> ImageScores:
    """The scores of a trial by image; `NO_SCORES` where its maps were not scored or the files do not fit together."""
    try:
        return _by_image(trial.score_table(split))
    except (ConfigError, StoreError):
        return NO_SCORES  # not scored yet, or being scored again


def _by_image(table: ScoreTable) -> ImageScores:
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
