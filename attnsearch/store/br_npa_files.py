"""Deletion and insertion under the names and in the layout that BR-NPA's scripts gave them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from attnsearch.errors import StoreError
from attnsearch.files import atomic_write, atomic_write_array, disk_errors, locked, make_folder
from attnsearch.store.image_scores import ScoreTable
from attnsearch.store.layout import Curve, StudyLayout

LOCK_TIMEOUT_S = 60
METRIC_OF_CURVE: dict[Curve, str] = {"Del": "deletion", "Add": "insertion"}


def write_areas(layout: StudyLayout, curve: Curve, table: ScoreTable) -> list[str]:
    """Writes `attMetr<curve>_<study>.npy`, and the study's line in both `attMetrics_<curve>` files.

    The lines of other studies stay. An undefined area is an empty cell, and no part of the mean.

    Returns:
        Names of the files, in the experiment's folder.
    Raises:
        StoreError: the table has no such curve, or the disk refuses.
    """
    metric = METRIC_OF_CURVE[curve]
    if metric not in table.curve_names:
        raise StoreError(f"{layout.study}: {metric} was not scored; add faithfulness to evaluation.scores.families")
    make_folder(layout.experiment_dir)
    atomic_write_array(layout.curves_npy(curve), with_cells_left(table, metric))
    areas = table.values[metric]
    means, images = layout.shared.areas_csv(curve), layout.shared.areas_csv(curve, per_image=True)
    with locked(layout.shared.areas_lock, timeout_s=LOCK_TIMEOUT_S):
        for path, cells in ((means, [_cell(table.means()[metric])]), (images, list(map(_cell, areas)))):
            with disk_errors(path):
                before = path.read_text(encoding="utf-8") if path.exists() else ""
            atomic_write(path, _replace_line(before, layout.study, cells))
    return [layout.curves_npy(curve).name, means.name, images.name]


def with_cells_left(table: ScoreTable, metric: str) -> NDArray[np.float32]:
    """(N, S + 1, 2) cells that are still to be handled, and the class probability; the untouched start is the first."""
    rows, columns = table.about["grid"]
    left = (1.0 - np.array(table.fractions)) * rows * columns
    scores = np.asarray(table.curves[:, table.curve_names.index(metric)])
    return np.stack([np.broadcast_to(left, scores.shape), scores], axis=-1).astype(np.float32)


def _replace_line(text: str, study: str, cells: Sequence[str]) -> str:
    rows = [row for row in csv.reader(io.StringIO(text)) if row and row[0] != study]
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(sorted([*rows, [study, *cells]]))
    return out.getvalue()


def _cell(value: float) -> str:
    return "" if np.isnan(value) else repr(float(value))
