"""What the pages show of a trial's images: maps by name, scores by image, hit or miss in the pointing game."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnsearch import geometry
from attnsearch.data.images import open_upright
from attnsearch.data.tables import ImageTable
from attnsearch.errors import AttnSearchError, ConfigError, DataError, StoreError
from attnsearch.figures.rankings import Rankings
from attnsearch.files import FileCache, stamp_of
from attnsearch.metrics.registry import score_metrics
from attnsearch.results.trial import TrialReader
from attnsearch.store.archive import read_archive, read_archive_without_maps
from attnsearch.store.image_scores import ScoreTable
from attnsearch.store.trial_layout import ArchivePaths
from attnsearch.types import AttentionArchive, Split

_BRIGHT = 127
_HALF = 0.5
_MASK_PX = 512  # masks are read in this size; a cell is far larger than one of its pixels


@dataclass(frozen=True, eq=False)
class OpenArchive:
    """One archive, opened.

    Attributes:
        is_retrieval: whether it is of re-identification.
        error: why its arrays cannot be shown, in one line, or None.
    """

    archive: AttentionArchive
    stamp: tuple[tuple[int, int, int], ...]
    is_retrieval: bool
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

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Image id -> its row."""
        return {image_id: row for row, image_id in enumerate(self.archive.image_ids)}

    @cached_property
    def rankings(self) -> Rankings | None:
        """The ranked galleries; None in classification, and where they cannot be read.

        Where features or ranks were removed, these have what was measured of each query alone.
        """
        return None if self.archive.retrieval is None else Rankings(self.archive.retrieval)

    @cached_property
    def roles(self) -> tuple[str | None, ...]:
        """`query` or `gallery` of each image, None in classification."""
        archive, rankings = self.archive, self.rankings
        if not self.is_retrieval:
            return (None,) * len(archive.image_ids)
        is_query = np.isfinite(archive.confidences)  # of queries alone, where the retrieval cannot be read
        if rankings is not None:
            is_query = rankings.retrieval.is_query[[rankings.row_of[image_id] for image_id in archive.image_ids]]
        return tuple("query" if one else "gallery" for one in is_query.tolist())

    @cached_property
    def verdicts(self) -> tuple[bool | None, ...]:
        """Whether each image is predicted correctly: a query by its first hit.

        None for gallery images, and for queries that have no match.
        """
        is_correct = (self.archive.labels == self.archive.predictions).tolist()
        return tuple(
            correct if role is None or (role == "query" and self._has_match(image_id)) else None
            for correct, role, image_id in zip(is_correct, self.roles, self.archive.image_ids, strict=True)
        )

    def _has_match(self, query_id: str) -> bool:
        """Whether a query has a match, as far as it is known."""
        rankings = self.rankings
        if rankings is None:
            return True
        return bool(rankings.retrieval.first_match[rankings.place_of(rankings.row_of[query_id])])

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
    """Opens the archives of trials and plays the pointing game on them; arrays stay mapped from disk. Thread-safe."""

    def __init__(self) -> None:
        self._open: FileCache[OpenArchive] = FileCache(64)
        self._hits: FileCache[NDArray[np.bool_] | None] = FileCache(64)

    def open(self, trial: TrialReader, split: str) -> OpenArchive:
        """The archive of one split.

        Raises:
            ConfigError: the trial has none.
            StoreError: it is damaged.
        """
        paths = trial.archive_paths(split)
        stamp = stamp_of(*paths.all)
        return self._open.get(paths.images, stamp, lambda: _open_archive(paths, stamp))

    def hits(self, trial: TrialReader, opened: OpenArchive) -> list[bool | None]:
        """The pointing game: hit (True) or miss (False) of each image; None where nothing tells where the object is.

        A pointing score of the image decides, that of masks before those of boxes and parts; without one the most
        salient cell must touch the mask of the image, or its box.
        """
        scores, ids = image_scores(trial, opened.archive.split), opened.archive.image_ids
        pointing = [metric.name for metric in score_metrics() if metric.is_hit]
        column = next((scores.values[name] for name in pointing if name in scores.values), {})
        scored = [column.get(image_id, math.nan) for image_id in ids]
        if not any(map(math.isnan, scored)):
            return [score >= _HALF for score in scored]
        measured = self._hits_in_targets(trial, opened)
        return [
            (None if measured is None else bool(measured[row])) if math.isnan(score) else score >= _HALF
            for row, score in enumerate(scored)
        ]

    def _hits_in_targets(self, trial: TrialReader, opened: OpenArchive) -> NDArray[np.bool_] | None:
        """(N,) hits in the masks or boxes of the data set; None where it is not on this machine, or has none."""
        table = trial.study.shared.image_files.table(trial.files.config, opened.archive.split)
        if table is None or opened.archive.saliency is None or (table.mask_paths is None and table.boxes is None):
            return None
        key = (trial.study.layout.study_dir, trial.number, opened.archive.split)
        return self._hits.get(key, (opened.stamp, id(table)), lambda: hits_in_targets(opened, table))


def _open_archive(paths: ArchivePaths, stamp: tuple[tuple[int, int, int], ...]) -> OpenArchive:
    is_retrieval = paths.retrieval.exists()
    try:
        return OpenArchive(read_archive(paths), stamp, is_retrieval, None)
    except AttnSearchError as error:
        reason = str(error).replace(f"{paths.images.parent}/", "")
    try:
        left = read_archive_without_maps(paths)
    except AttnSearchError:  # the galleries are damaged, too
        left = read_archive(paths, index_only=True)
    return OpenArchive(left, stamp, is_retrieval, reason)


@dataclass(frozen=True, eq=False)
class ImageScores:
    """What was measured of the saliency of some images, by image id.

    Attributes:
        values: metric -> image id -> score; undefined ones are NaN. Metrics that no image has are left out. The gain of
            an image is not what the mean gain is made of, which is a ratio of sums.
        curves: (N, n_curves, n_steps + 1) float32 mapped from disk, or None.
        rows: image id -> row of `curves`.
        fractions: n_steps + 1 fractions of the cells that were removed or inserted, from 0 to 1.
        settings: how the scores were measured.
        means, errors: metric -> mean over the images where it is defined and its standard error; NaN where undefined.
        undefined: gain -> why its mean is undefined.
    """

    values: Mapping[str, Mapping[str, float]]
    curves: NDArray[np.float32] | None
    curve_names: tuple[str, ...]
    rows: Mapping[str, int]
    fractions: tuple[float, ...]
    settings: Mapping[str, Any]
    means: Mapping[str, float]
    errors: Mapping[str, float]
    undefined: Mapping[str, str]

    def of_image(self, image_id: str) -> dict[str, float | None]:
        """Metric -> score of one image; None where it is undefined, nothing for an image that was not scored."""
        scores = {name: values[image_id] for name, values in self.values.items() if image_id in values}
        return {name: value if math.isfinite(value) else None for name, value in scores.items()}

    def curves_of(self, image_id: str) -> dict[str, list[float | None]]:
        """Curve -> its n_steps + 1 points for one image; empty where no curves were stored."""
        if self.curves is None or image_id not in self.rows:
            return {}
        rows = np.asarray(self.curves[self.rows[image_id]], dtype=np.float64)  # (n_curves, n_steps + 1)
        return {
            name: [float(value) if math.isfinite(value) else None for value in row]
            for name, row in zip(self.curve_names, rows, strict=True)
        }


NO_SCORES = ImageScores({}, None, (), {}, (), {}, {}, {}, {})


def image_scores(trial: TrialReader, split: Split) -> ImageScores:
    """The scores of a trial by image; `NO_SCORES` where its maps were not scored or the files do not fit together."""
    try:
        return scores_by_image(trial.score_table(split))
    except (ConfigError, StoreError):
        return NO_SCORES  # not scored yet, or being scored again


def scores_by_image(table: ScoreTable) -> ImageScores:
    """A table of scores by image, without the columns that no image has."""
    columns = {name: column for name in table.values if np.isfinite(column := table.image_values(name)).any()}
    settings = table.about.get("settings")
    return ImageScores(
        values={name: dict(zip(table.image_ids, column.tolist(), strict=True)) for name, column in columns.items()},
        curves=table.curves if table.curve_names else None,
        curve_names=table.curve_names,
        rows={image_id: row for row, image_id in enumerate(table.image_ids)},
        fractions=table.fractions,
        settings=settings if isinstance(settings, dict) else {},
        means={name: mean for name, mean in table.means().items() if name in columns},
        errors=table.standard_errors(),
        undefined=table.undefined_gains(),
    )


def hits_in_targets(opened: OpenArchive, table: ImageTable) -> NDArray[np.bool_] | None:
    """(N,) whether the most salient cell touches the mask or box; None if an image is not in the table."""
    archive = opened.archive
    row_of = {image_id: row for row, image_id in enumerate(table.image_ids)}
    if archive.saliency is None or any(image_id not in row_of for image_id in archive.image_ids):
        return None
    rows = [row_of[image_id] for image_id in archive.image_ids]
    n_images, height, width = archive.saliency.shape
    peak = np.asarray(archive.saliency).reshape(n_images, -1).argmax(axis=1)
    cells = geometry.cell_box(archive.crop_boxes, map_hw=(height, width), row=peak // width, column=peak % width)
    if table.mask_paths is not None:
        masks = [table.mask_paths[row] for row in rows]
        hits = [_touches_mask(c, m, s) for c, m, s in zip(cells, masks, archive.sizes_hw, strict=True)]
        return np.array(hits, dtype=bool)
    assert table.boxes is not None
    boxes = table.boxes[rows]
    meets: NDArray[np.bool_] = (cells[:, :2] < boxes[:, 2:]) & (boxes[:, :2] < cells[:, 2:])
    return np.array(meets.all(axis=1), dtype=bool)


def _touches_mask(cell: NDArray[np.float64], path: Path, size_hw: NDArray[np.int64]) -> bool:
    try:
        mask = np.asarray(open_upright(path, longest_px=_MASK_PX).convert("L"))
    except DataError:
        return False
    scale = np.array([mask.shape[1] / size_hw[1], mask.shape[0] / size_hw[0]])
    left, top = np.floor(cell[:2] * scale).astype(int).clip(0)
    right, bottom = np.ceil(cell[2:] * scale).astype(int)
    return bool((mask[top:bottom, left:right] > _BRIGHT).any())
