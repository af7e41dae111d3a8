"""The pointing game per image: whether the most salient cell lies on the object, by scores, masks or boxes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attnsearch import geometry
from attnsearch.data.images import open_upright
from attnsearch.data.tables import ImageTable
from attnsearch.errors import DataError
from attnsearch.explorer.archives import OpenArchive, image_scores
from attnsearch.metrics.registry import score_metrics
from attnsearch.results.cache import FileCache
from attnsearch.results.trial import TrialReader

_BRIGHT = 127
_HALF = 0.5
_MASK_PX = 512  # masks are read in this size; a cell is far larger than one of its pixels


class TargetHits:
    """The pointing game: which images have their most salient cell on the object, or on its discriminative parts."""

    def __init__(self) -> None:
        self._measured: FileCache[NDArray[np.bool_] | None] = FileCache(64)

    def hits(self, trial: TrialReader, opened: OpenArchive) -> list[bool | None]:
        """Hit (True) or miss (False) of each image; None where no score, mask or box says where the object is.

        A pointing score of the image decides, that of masks before those of boxes and parts; without one the most
        salient cell must touch the mask of the image, or its box.
        """
        scores, ids = image_scores(trial, opened.archive.split), opened.archive.image_ids
        pointing = [metric.name for metric in score_metrics() if metric.is_hit]
        column = next((scores.values[name] for name in pointing if name in scores.values), {})
        scored = [column.get(image_id, math.nan) for image_id in ids]
        if not any(map(math.isnan, scored)):
            return [score >= _HALF for score in scored]
        measured = self._by_targets(trial, opened)
        return [
            (None if measured is None else bool(measured[row])) if math.isnan(score) else score >= _HALF
            for row, score in enumerate(scored)
        ]

    def _by_targets(self, trial: TrialReader, opened: OpenArchive) -> NDArray[np.bool_] | None:
        """(N,) hits in the masks or boxes of the data set; None where it is not on this machine, or has none."""
        table = trial.image_table(opened.archive.split)
        if table is None or opened.archive.saliency is None or (table.mask_paths is None and table.boxes is None):
            return None
        key = (trial.study.layout.study_dir, trial.number, opened.archive.split)
        return self._measured.get(key, (opened.stamp, id(table)), lambda: hits_in_targets(opened, table))


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
