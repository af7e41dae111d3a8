"""The values of pages and their scripts, ready for JSON."""

from __future__ import annotations

import base64
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attnsearch.explorer.archives import ImageScores, OpenArchive
from attnsearch.metrics.registry import all_metrics, better_direction, metric_of, title_of
from attnsearch.results.full_scores import MAX_MASKED_SCORE
from attnsearch.results.quality import POINTING, Quality, known_quality
from attnsearch.results.selection import Selection
from attnsearch.results.study import StudyReader
from attnsearch.results.trial import TrialReader
from attnsearch.search.standings import BracketState
from attnsearch.search.trials import StudyRows, TrialRow
from attnsearch.store.layout import StudyLayout
from attnsearch.types import HALVES


def plain(value: Any) -> Any:
    """A value for JSON: an undefined number becomes null, a time is in UTC, any other object its text."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def summary_values(study: StudyReader) -> dict[str, Any]:
    """One row of the list of studies; one that cannot be read has an error."""
    row = study.summary()
    return {
        "experiment": row.experiment,
        "study": row.study,
        "error": row.error,
        "n_trials": sum(row.states.values()),
        "n_running": row.states.get("running", 0),
        "n_paused": row.states.get("paused", 0),
        "n_failed": row.states.get("fail", 0),
        "objectives": list(row.objectives),
        "titles": [title_of(key) for key in row.objectives],
        "values": list(row.values),
        "errors": plain(dict(row.errors)),
        "best": row.best,
        "answer": None if row.answer is None else quality_values(row.answer),
        "faithfulness": None if row.faithfulness is None else quality_values(row.faithfulness),
        "is_run": study.is_plain_run,
    }


def quality_values(found: Quality) -> dict[str, Any]:
    """A number of the best trial beside its floors, and the same as a line of text."""
    values: dict[str, Any] = plain(found.fields)
    return {**values, "name": found.name, "text": found.text, "floor": plain({"floor": found.floor})["floor"]}


def metric_values(keys: Iterable[str]) -> dict[str, dict[str, str]]:
    """Name of each metric -> how pages show it: `label`, one line of `summary`, the `better` direction and its group.

    Args:
        keys: `split/name`, or bare names.
    """
    names = sorted({key.rpartition("/")[2] for key in keys})
    return {
        name: {
            "label": title_of(name),
            "summary": summary_of(name),
            "better": better_direction(f"val/{name}", "maximize"),
            "group": _group_of(name),
        }
        for name in names
    }


def _group_of(name: str) -> str:
    metric = metric_of(name)
    return "other" if metric is None else metric.group.replace("_", " ")


def summary_of(key: str) -> str:
    """What a metric measures, in one line; empty for one that is not registered here."""
    metric = metric_of(key)
    return "" if metric is None else metric.summary


def study_values(
    layout: StudyLayout,
    rows: StudyRows,
    errors: Mapping[int, Mapping[str, float]],
    *,
    with_maps: Collection[int],
    monitor: str | None,
    brackets: Collection[BracketState],
) -> dict[str, Any]:
    """A study and all its trials.

    Args:
        errors: trial -> objective -> standard error.
        with_maps: numbers of the trials that have maps.
        monitor: the metric that best epochs are chosen by, or None where the settings cannot be read.
        brackets: of a search with halving.
    """
    metrics = sorted({key for trial in rows.trials for key in trial.metrics}, key=_place_of)
    return {
        "experiment": layout.experiment,
        "study": layout.study,
        "objectives": dict(rows.objectives),
        "best": list(rows.best),
        "metrics": metrics,
        "monitor": monitor,
        "is_retrieval": any(is_retrieval_metric(key) for key in [*metrics, *rows.objectives]),
        "about": metric_values([*metrics, *rows.objectives]),
        "params": list(dict.fromkeys(key for trial in rows.trials for key in trial.params)),
        "ties": list(rows.ties),
        "brackets": [asdict(bracket) for bracket in brackets],
        "trials": [
            trial_values(trial, rows, has_maps=trial.number in with_maps)
            | {"errors": plain(dict(errors.get(trial.number, {})))}
            for trial in rows.trials
        ],
    }


def _place_of(key: str) -> tuple[int, str]:
    """Sorts metrics in the order of the registry, those that are not in it last."""
    metric, known = metric_of(key), all_metrics()
    return (len(known) if metric is None else known.index(metric), key)


def is_retrieval_metric(key: str) -> bool:
    """Whether a metric is one of ranked galleries."""
    metric = metric_of(key)
    return metric is not None and metric.group == "retrieval"


def trial_values(trial: TrialRow, rows: StudyRows, *, has_maps: bool) -> dict[str, Any]:
    """One trial; `values` by objective."""
    values = dict(zip(rows.objectives, trial.values, strict=False))
    return {
        "number": trial.number,
        "state": trial.state,
        "best": trial.number in rows.best,
        "feasible": trial.is_feasible,
        "values": plain(values),
        "metrics": plain(dict(trial.metrics)),
        "params": plain(dict(trial.params)),
        "best_epoch": trial.best_epoch,
        "epochs_run": trial.epochs_run,
        "seconds": plain(trial.seconds),
        "error": trial.error,
        "standing": None if trial.standing is None else str(trial.standing),
        "imported_from": trial.imported_from,
        "started": plain(trial.started),
        "maps": has_maps,
    }


def epochs_values(frames: dict[int, pd.DataFrame]) -> dict[str, Any]:
    """Trial -> column -> values by epoch; what is measured on halves of validation is no curve to choose by."""
    return {
        str(number): plain({str(name): list(frame[name]) for name in frame if _is_drawn(str(name))})
        for number, frame in frames.items()
    }


def _is_drawn(column: str) -> bool:
    return column != "trial" and not column.endswith(HALVES)


def selection_values(selection: Selection) -> dict[str, Any]:
    """Sentences, and the history as a line: what it measures, and a value for each complete trial."""
    history = selection.history
    drawn = None if history is None else {"measure": history.measure, "values": plain(history.values)}
    return {"lines": selection.lines, "history": drawn}


def map_values(array: NDArray[np.float32]) -> dict[str, Any]:
    """A map (h, w): its cells in row-major order as base64 of little-endian float32."""
    cells = np.ascontiguousarray(array, dtype="<f4")
    return {"h": array.shape[0], "w": array.shape[1], "cells": base64.b64encode(cells.tobytes()).decode()}


def image_values(opened: OpenArchive, row: int) -> dict[str, Any]:
    """One image of an archive without its maps; `box` is the model's view in original pixels.

    In re-identification `role` is `query` or `gallery`, and what is predicted of a gallery image is null.
    """
    archive, role = opened.archive, opened.roles[row]
    label, prediction = int(archive.labels[row]), int(archive.predictions[row])
    is_predicted = role != "gallery"
    return {
        "row": row,
        "id": archive.image_ids[row],
        "role": role,
        **split_values(opened, archive.image_ids[row]),
        "label": label,
        "prediction": prediction if is_predicted else None,
        "true": class_name(archive.class_names, label),
        "predicted": class_name(archive.class_names, prediction) if is_predicted else None,
        "correct": opened.verdicts[row],
        "confidence": plain(float(archive.confidences[row])),
        "size": [int(archive.sizes_hw[row][0]), int(archive.sizes_hw[row][1])],
        "box": [float(edge) for edge in archive.crop_boxes[row]],
    }


def split_values(opened: OpenArchive, image_id: str) -> dict[str, Any]:
    """What only re-identification knows of an image, its row in the split and its camera; empty in classification.

    The row is left out where there are no ranks, so that no page leads to a gallery that cannot be shown.
    """
    rankings = opened.rankings
    if rankings is None:
        return {}
    row, retrieval = rankings.row_of[image_id], rankings.retrieval
    camera = None if retrieval.cameras is None else retrieval.camera_names[retrieval.cameras[row]]
    return {"split_row": row, "camera": camera} if retrieval.has_ranks else {"camera": camera}


def score_values(opened: OpenArchive, scores: ImageScores, image_id: str) -> dict[str, Any]:
    """The scores of one image, its curves and how they were measured; `curve_of` is what the curves follow."""
    of_match = scores.settings.get("target") == "label"
    cosine = f"cosine to the {'nearest match' if of_match else 'first hit'}"
    return {
        "scores": scores.of_image(image_id),
        "metrics": metric_values(scores.values),
        "curves": scores.curves_of(image_id),
        "fractions": list(scores.fractions),
        "settings": plain(dict(scores.settings or {})),
        "max_masked_score": MAX_MASKED_SCORE,
        "explained": _explained(opened, scores, image_id),
        "curve_of": cosine if opened.is_retrieval else "class probability",
    }


def _explained(opened: OpenArchive, scores: ImageScores, image_id: str) -> str:
    """The class whose probability the scores of an image follow."""
    archive = opened.archive
    labels = archive.labels if scores.settings.get("target") == "label" else archive.predictions
    row = opened.row_of.get(image_id)
    return "" if row is None else class_name(archive.class_names, int(labels[row]))


def pointing_values(trial: TrialReader) -> dict[str, Any] | None:
    """The pointing game of a trial on validation beside what hits without information; None where it is not scored."""
    found = next((one for one in known_quality(trial) if one.metric in POINTING), None)
    return None if found is None else quality_values(found)


def image_title(opened: OpenArchive, row: int) -> str:
    """What the page of an archived image is headed: its class, or its identity."""
    name = class_name(opened.archive.class_names, int(opened.archive.labels[row]))
    return f"Identity {name}, {opened.roles[row]}" if opened.is_retrieval else name


def class_name(names: tuple[str, ...], label: int) -> str:
    """The name of a class, or its number where the archive does not know it."""
    return names[label] if 0 <= label < len(names) else f"class {label}"
