"""Scores of single images on disk: a CSV, the curves, how they were measured, and a journal while they are made.

Deletion and insertion are published under the names and in the layout that BR-NPA's scripts gave them.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from attnsearch.errors import StoreError
from attnsearch.files import Check, atomic_write, atomic_write_array, csv_text, disk_errors, locked, make_folder
from attnsearch.metrics.gains import LEAST_MEAN_DROP, TERMS, gain_terms, image_gains, influence_values, is_term
from attnsearch.metrics.registry import find_metric, is_score
from attnsearch.store.inspection import Content, content_errors, open_array, read_json
from attnsearch.store.layout import Curve, StudyLayout
from attnsearch.store.score_journal import RENAMED, ImageScore
from attnsearch.store.trial_layout import ScorePaths, TrialLayout
from attnsearch.types import Split

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
_FIX = "score the trial again"
_LOCK_TIMEOUT_S = 60
METRIC_OF_CURVE: dict[Curve, str] = {"Del": "deletion", "Add": "insertion"}

Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Checkpoint(Content):
    epoch: int


class _About(Content):
    """What `scores_<split>.json` holds."""

    version: int
    digest: str
    settings: dict[str, Any]
    split: Split
    grid: list[int] = Field(min_length=2, max_length=2)
    images: str
    checkpoint: _Checkpoint
    n_images: int = Field(ge=1)
    curves: tuple[str, ...]
    fractions: tuple[Finite, ...]
    n_archived: int = 0
    whole: dict[str, float | None] = Field(default_factory=dict)
    floors: dict[str, float | None] = Field(default_factory=dict)
    iou_thresholds: dict[str, Finite] = Field(default_factory=dict)
    temperature: Finite | None = None
    n_correct: int | None = None
    reasons: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """The scores of some images of one split under one checkpoint.

    Attributes:
        values: metric -> (N,) float64, NaN where undefined; of a gain the influence values, see `metrics.gains`.
        terms: `gain.area`, `gain.untouched`, `gain.filled` -> (N,) float64, what the influence values are made of.
        curves: (N, n_curves, n_steps + 1) float32; no curve where nothing was measured in steps.
        fractions: n_steps + 1 fractions of the cells that were removed, or inserted, from 0 to 1.
        about: format, version, settings, digest and checkpoint.
    """

    image_ids: tuple[str, ...]
    values: Mapping[str, NDArray[np.float64]]
    curves: NDArray[np.float32]
    curve_names: tuple[str, ...]
    fractions: tuple[float, ...]
    about: Mapping[str, Any]
    terms: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Of the checkpoint, the images, the settings and the version: equal ones gave equal numbers."""
        return str(self.about["digest"])

    @property
    def whole(self) -> dict[str, float]:
        """Metric -> value of the scores that need all images of the archive at once; NaN = undefined."""
        values: Mapping[str, float | None] = self.about.get("whole", {})
        return {name: math.nan if value is None else float(value) for name, value in values.items()}

    def means(self) -> dict[str, float]:
        """Metric -> mean over the images where it is defined, NaN where that is none; and what `whole` has."""
        return {**{name: _mean(column) for name, column in self.values.items()}, **self.whole}

    def standard_errors(self) -> dict[str, float]:
        """Metric -> standard error of its mean over the images where it is defined; NaN of fewer than two."""
        return {name: _standard_error(column) for name, column in self.values.items()}

    def among(self, is_among: NDArray[np.bool_]) -> ScoreTable:
        """The table of those of the images (N,) alone: gains are ratios of their sums; without scores of all images."""
        terms = {name: column[is_among] for name, column in self.terms.items()}
        few = replace(
            self,
            image_ids=tuple(compress(self.image_ids, is_among.tolist())),
            values={name: column[is_among] for name, column in self.values.items()},
            curves=self.curves[is_among],
            about={**self.about, "whole": {}},
            terms=terms,
        )
        gains = {name: influence_values(*few._gain_terms(name)) for name in few.gains()}
        return replace(few, values={**few.values, **gains})

    def is_gain(self, metric: str) -> bool:
        """Whether the column of a metric holds the influence values of a gain."""
        return f"{metric}.{TERMS[0]}" in self.terms

    def gains(self) -> list[str]:
        """The metrics that are gains."""
        return [name for name in self.values if self.is_gain(name)]

    def _gain_terms(self, metric: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Differences of areas and drops of the images, (N,) each."""
        return gain_terms(self.terms, metric)

    def mean_drop(self, metric: str) -> float:
        """The mean over images of how far the number of a gain drops when all cells are removed."""
        drops = self._gain_terms(metric)[1]
        return float(drops.mean()) if len(drops) else math.nan

    def undefined_gains(self) -> dict[str, str]:
        """Gain -> why it is undefined, of those that are."""
        drops = {name: self.mean_drop(name) for name in self.gains()}
        return {
            name: f"the fill changes nothing: the mean drop is {drop:.3g}, and {LEAST_MEAN_DROP} is needed"
            for name, drop in drops.items()
            if np.isnan(self.values[name]).all()
        }

    def image_values(self, metric: str) -> NDArray[np.float64]:
        """What a metric is of each image alone (N,), to sort images by: see `image_gains`."""
        return image_gains(*self._gain_terms(metric)) if self.is_gain(metric) else self.values[metric]

    @property
    def reasons(self) -> dict[str, str]:
        """Metric -> why no image has it, where that is known: a word or two, a colon and a sentence."""
        return dict(self.about.get("reasons", {}))

    def trial_means(self) -> dict[str, float]:
        """Registered score -> mean over all scored images, as trials are chosen by it: never NaN."""
        whole = _without_nan({name: np.array([value]) for name, value in self.whole.items()})
        return {name: float(column.mean()) for name, column in (self.defined_values() | whole).items()}

    def defined_values(self) -> dict[str, NDArray[np.float64]]:
        """Registered score -> its values (N,); an undefined one counts as that of an uninformative map.

        See `Metric.undefined_as`.
        """
        return _without_nan(self.values)

    def trial_standard_errors(self) -> dict[str, float]:
        """Registered score of single images -> standard error of what `trial_means` has; NaN where no image has it."""
        never = self.never_defined()
        columns = self.defined_values().items()
        return {name: math.nan if name in never else _standard_error(column) for name, column in columns}

    def n_undefined(self) -> dict[str, int]:
        """Metric -> images without it, of those metrics that have such images."""
        counts = {name: int(np.isnan(column).sum()) for name, column in self.values.items()}
        return {name: count for name, count in counts.items() if count}

    def never_defined(self) -> list[str]:
        """The registered scores that no image has."""
        return [name for name, count in self.n_undefined().items() if count == len(self.image_ids) and is_score(name)]


def _without_nan(columns: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    return {
        name: np.where(np.isnan(column), find_metric(name).worst, column)
        for name, column in columns.items()
        if is_score(name)
    }


def _standard_error(column: NDArray[np.float64]) -> float:
    defined = column[~np.isnan(column)]
    return float(defined.std(ddof=1) / math.sqrt(len(defined))) if len(defined) > 1 else math.nan


def _mean(column: NDArray[np.float64]) -> float:
    defined = column[~np.isnan(column)]
    return float(defined.mean()) if len(defined) else math.nan


def make_table(scores: Sequence[ImageScore], fractions: Sequence[float], about: Mapping[str, Any]) -> ScoreTable:
    """The table of some images' scores, in their order.

    Raises:
        ValueError: no image, or images with other metrics or curves than the first one.
    """
    if not scores:
        raise ValueError("a table of scores needs an image")
    first = scores[0]
    for score in scores:
        if score.names() != first.names():
            raise ValueError(f"{score.image_id} must have the metrics and curves of {first.image_id}")
    values, terms = score_columns(scores)
    curves = np.array([list(score.curves.values()) for score in scores], dtype=np.float32)
    curves = curves.reshape(len(scores), len(first.curves), len(fractions) if first.curves else 0)
    ids = tuple(score.image_id for score in scores)
    return ScoreTable(ids, values, curves, tuple(first.curves), tuple(map(float, fractions)), dict(about), terms)


Columns = dict[str, NDArray[np.float64]]
"""Name -> (N,)."""


def score_columns(scores: Sequence[ImageScore]) -> tuple[Columns, Columns]:
    """The metrics of at least one image, gains at the place of the first of their terms, and the terms."""
    columns = {name: np.array([score.values[name] for score in scores], dtype=np.float64) for name in scores[0].values}
    values: Columns = {}
    for name, column in columns.items():
        if not is_term(name):
            values[name] = column
        elif name.endswith(f".{TERMS[0]}"):
            gain = name.removesuffix(f".{TERMS[0]}")
            values[gain] = influence_values(*gain_terms(columns, gain))
    return values, {name: column for name, column in columns.items() if is_term(name)}


def write_score_files(paths: ScorePaths, table: ScoreTable, *, check: Check | None = None) -> None:
    """Writes the CSV, the curves and, last, the JSON beside them.

    Raises:
        StoreError: the disk refuses.
    """
    with disk_errors(paths.about):
        paths.about.unlink(missing_ok=True)  # without it nobody reads a mixture of two scorings
    columns = {**table.values, **table.terms}
    rows = zip(table.image_ids, *([_cell(value) for value in column] for column in columns.values()), strict=True)
    atomic_write(paths.table, csv_text([("image_id", *columns), *rows]), check=check)
    atomic_write_array(paths.curves, table.curves, check=check)
    about = {
        "format": FORMAT,
        **table.about,
        "n_images": len(table.image_ids),
        "n_undefined": table.n_undefined(),
        "curves": list(table.curve_names),
        "fractions": list(table.fractions),
    }
    atomic_write(paths.about, json.dumps(about, indent=1, ensure_ascii=False) + "\n", check=check)


def _cell(value: float) -> str:
    return "" if math.isnan(value) else repr(float(value))


def remove_journal(paths: ScorePaths) -> None:
    """Deletes the journal, if there is one, that no scoring will continue.

    Raises:
        StoreError: the disk refuses.
    """
    with disk_errors(paths.journal):
        paths.journal.unlink(missing_ok=True)


def has_scores(paths: ScorePaths) -> bool:
    """Whether a finished scoring lies there."""
    return paths.about.exists()


def best_scores(files: TrialLayout, split: Split) -> ScorePaths | None:
    """Where the scores of a trial on most images lie: those of a race, or of the search; None without scores."""
    both = (files.scores(split, is_refined=is_refined) for is_refined in (True, False))
    return next(filter(has_scores, both), None)


def read_scores(paths: ScorePaths) -> ScoreTable:
    """Reads what `write_score_files` wrote; the curves are mapped into memory.

    Raises:
        StoreError: files are missing, cut off or of different scorings.
    """
    if not has_scores(paths):
        raise StoreError(f"{paths.about} does not exist; score the trial with `attnsearch faithfulness`")
    about = read_json(paths.about, _About, version=FORMAT, fix=_FIX)
    with content_errors(paths.table, _FIX), paths.table.open(encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file))
    curves = open_array(paths.curves, _FIX)
    with content_errors(paths.about, _FIX, what="does not fit the files beside it"):
        return _assemble(about, header, rows, curves)


def _assemble(about: _About, header: list[str], rows: list[list[str]], curves: Any) -> ScoreTable:
    if header[:1] != ["image_id"] or len(rows) != about.n_images:
        raise ValueError(f"{about.n_images} images, {len(rows)} rows")
    names, fractions = about.curves, about.fractions
    shape = (len(rows), len(names), len(fractions) if names else 0)
    if curves.shape != shape or curves.dtype != np.float32:
        raise ValueError(f"curves of shape {curves.shape}, not {shape}")
    ids, *cells = zip(*rows, strict=True)
    columns = {RENAMED.get(name, name): _numbers(column) for name, column in zip(header[1:], cells, strict=True)}
    terms = {name: columns.pop(name) for name in list(columns) if is_term(name)}
    return ScoreTable(ids, columns, curves, names, fractions, about.model_dump(exclude_unset=True), terms)


def _numbers(cells: Sequence[str]) -> NDArray[np.float64]:
    """(N,), NaN for an empty cell."""
    return np.array([float(cell or "nan") for cell in cells], dtype=np.float64)


def score_rows(table: ScoreTable) -> list[dict[str, Any]]:
    """The means of one scoring, a row per metric, each with the version and the settings that it was measured with."""
    shared = {
        "digest": table.digest,
        "split": str(table.about["split"]),
        "version": int(table.about["version"]),
        "settings": json.dumps(table.about["settings"], sort_keys=True),
    }
    undefined, errors, n_images = table.n_undefined(), table.standard_errors(), len(table.image_ids)
    return [
        {
            **shared,
            "metric": name,
            "value": _or_null(mean),
            "standard_error": _or_null(errors.get(name, math.nan)),
            "n_images": table.about["n_archived"] if name in table.whole else n_images,
            "n_undefined": undefined.get(name, 0),
        }
        for name, mean in table.means().items()
    ]


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else value


def best_epoch_rows(table: ScoreTable) -> list[dict[str, Any]]:
    """The scores of a running trial as metrics of its best epoch."""
    where = {"epoch": int(table.about["checkpoint"]["epoch"]), "split": str(table.about["split"])}
    return [{**where, "metric": name, "value": mean} for name, mean in table.trial_means().items()]


def scores_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows of scores as `TrialRecords.read_scores` returns them."""
    import pandas as pd

    columns = ["trial", "split", "metric", "value", "standard_error", "n_images", "n_undefined", "version", "settings"]
    frame = pd.DataFrame(list(rows), columns=[*columns, "digest"])
    frame = frame.astype({"value": "float64", "standard_error": "float64"})
    return frame.replace({"metric": RENAMED})


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
    with locked(layout.shared.areas_lock, timeout_s=_LOCK_TIMEOUT_S):
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
    return csv_text(sorted([*rows, [study, *cells]]))
