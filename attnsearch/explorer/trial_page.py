"""What the page of a trial shows beside its images: scores with their meaning, how to score the rest, its texts."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from attnsearch.errors import ConfigError
from attnsearch.explorer.archives import NO_SCORES, ImageScores, OpenArchive, image_scores
from attnsearch.explorer.serialize import metric_values, quality_values, trial_values
from attnsearch.explorer.studies import monitor_of
from attnsearch.files import lies_in
from attnsearch.results.quality import known_quality
from attnsearch.results.study import StudyReader
from attnsearch.results.trial import TrialReader
from attnsearch.results.uncertainty import with_error

MAX_TEXT_BYTES = 2**20
_DEFAULT_RESULTS = Path("results")


def page_of_trial(study: StudyReader, number: int, opened: OpenArchive | None) -> dict[str, Any]:
    """The values of the page of a trial.

    Args:
        opened: the archive of the split that is shown, or None where the trial has no maps.
    Raises:
        ConfigError: there is no such trial.
    """
    trial = study.trial(number)
    scores = NO_SCORES if opened is None else image_scores(trial, opened.archive.split)
    return {
        "layout": study.layout,
        "trial": trial_values(trial.row, study.rows, has_maps=opened is not None),
        "metrics": list(scores.values),
        "about": metric_values([*scores.values, *trial.row.metrics, *study.rows.objectives]),
        "monitor": monitor_of(study),
        "means": _means(scores),
        "quality": [quality_values(one) for one in known_quality(trial)],
        "n_scored": len(scores.rows),
        "texts": [name for name, path in trial.files.texts.items() if lies_in(path, trial.files.directory)],
        **(_NO_MAPS if opened is None else _map_values(study, number, opened, len(scores.rows))),
    }


_NO_MAPS: dict[str, Any] = {
    **{"is_retrieval": False, "maps": {}, "error": None, "classes": ()},
    **{"n_unscored": 0, "command": ""},
}


def _map_values(study: StudyReader, number: int, opened: OpenArchive, n_scored: int) -> dict[str, Any]:
    """What `_NO_MAPS` says of a trial that has maps."""
    n_images = len(opened.archive.image_ids)
    return {
        "is_retrieval": opened.is_retrieval,
        "maps": opened.map_labels,
        "error": opened.error,
        "classes": opened.archive.class_names,
        "n_unscored": n_images - n_scored,
        "command": _command(study, number, opened) if n_scored < n_images else "",
    }


def _means(scores: ImageScores) -> list[dict[str, str]]:
    """Each mean with its standard error, or why it is undefined; label, direction and meaning of the score."""
    about = metric_values(scores.means)
    return [{**about[name], "text": _mean_text(scores, name)} for name in scores.means]


def _mean_text(scores: ImageScores, name: str) -> str:
    reason = scores.undefined.get(name)
    return with_error(scores.means[name], scores.errors.get(name)) if reason is None else f"undefined: {reason}"


def _command(study: StudyReader, number: int, opened: OpenArchive) -> str:
    """The command that scores all images of the split; empty where none does.

    In re-identification queries alone are scored, and on other splits than validation the published trial alone.
    """
    if opened.archive.saliency is None or opened.is_retrieval:
        return ""
    is_validation = opened.archive.split == "val"
    published = None if is_validation else study.first_published()
    if not is_validation and (published is None or published["trial"] != number):
        return ""
    root = study.layout.root
    words = ["attnsearch", "faithfulness", study.name, *(["--trial", str(number)] if is_validation else [])]
    words += [] if root == _DEFAULT_RESULTS else ["--results", str(root)]
    return shlex.join([*words, f"n_images={len(opened.archive.image_ids)}"])


def text_of(trial: TrialReader, name: str) -> bytes:
    """The settings or the log of a trial; of a long one the end, from a whole line on.

    Raises:
        ConfigError: another name, or no such file in the folder of the trial.
    """
    path = trial.files.texts.get(name)
    if path is None:
        raise ConfigError(f"texts of a trial are {', '.join(trial.files.texts)}, got {name!r}")
    if not lies_in(path, trial.files.directory):
        raise ConfigError(f"trial {trial.number} has no {name}")
    with path.open("rb") as file:
        n_bytes = file.seek(0, os.SEEK_END)
        file.seek(max(0, n_bytes - MAX_TEXT_BYTES))
        text = file.read(MAX_TEXT_BYTES)
    return text if n_bytes <= MAX_TEXT_BYTES else b"[...]\n" + text.partition(b"\n")[2]
