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
from attnsearch.results.trial import TrialReader
from attnsearch.results.uncertainty import with_error

TEXTS = ("config.yaml", "log.txt")
"""Files of a trial that are shown as they are."""
MAX_TEXT_BYTES = 2**20
_DEFAULT_RESULTS = Path("results")


def page_of_trial(trial: TrialReader, opened: OpenArchive | None) -> dict[str, Any]:
    """The values of the page of a trial.

    Args:
        opened: the archive of the split that is shown, or None where the trial has no maps.
    """
    archive = None if opened is None else opened.archive
    scores = NO_SCORES if archive is None else image_scores(trial, archive.split)
    metrics = [*scores.values, *(key for key in trial.row.metrics), *trial.study.rows.objectives]
    n_images = 0 if archive is None else len(archive.image_ids)
    return {
        "layout": trial.study.layout,
        "trial": trial_values(trial.row, trial.study.rows, has_maps=opened is not None),
        "is_retrieval": opened is not None and opened.is_retrieval,
        "maps": {} if opened is None else opened.map_labels,
        "error": None if opened is None else opened.error,
        "classes": () if archive is None else archive.class_names,
        "metrics": list(scores.values),
        "about": metric_values(metrics),
        "monitor": monitor_of(trial.study),
        "means": _means(scores),
        "quality": [quality_values(one) for one in known_quality(trial)],
        "n_scored": len(scores.rows),
        "n_unscored": n_images - len(scores.rows),
        "command": _command(trial, opened, n_images) if len(scores.rows) < n_images else "",
        "texts": [name for name in TEXTS if lies_in(text_path(trial, name), trial.files.directory)],
    }


def _means(scores: ImageScores) -> list[dict[str, str]]:
    """Each mean with its standard error, or why it is undefined; label, direction and meaning of the score."""
    about = metric_values(scores.means)
    return [{**about[name], "text": _mean_text(scores, name)} for name in scores.means]


def _mean_text(scores: ImageScores, name: str) -> str:
    reason = scores.undefined.get(name)
    return with_error(scores.means[name], scores.errors.get(name)) if reason is None else f"undefined: {reason}"


def _command(trial: TrialReader, opened: OpenArchive | None, n_images: int) -> str:
    """The command that scores all images of the split; empty where none does.

    In re-identification queries alone are scored, and on other splits than validation the published trial alone.
    """
    if opened is None or opened.archive.saliency is None or opened.is_retrieval:
        return ""
    layout, is_validation = trial.study.layout, opened.archive.split == "val"
    published = None if is_validation else trial.study.first_published()
    if not is_validation and (published is None or published["trial"] != trial.number):
        return ""
    words = ["attnsearch", "faithfulness", trial.study.name, *(["--trial", str(trial.number)] if is_validation else [])]
    words += [] if layout.root == _DEFAULT_RESULTS else ["--results", str(layout.root)]
    return shlex.join([*words, f"n_images={n_images}"])


def text_path(trial: TrialReader, name: str) -> Path:
    """Where one of `TEXTS` lies.

    Raises:
        ConfigError: another name.
    """
    paths = {"config.yaml": trial.files.config, "log.txt": trial.files.log}
    if name not in paths:
        raise ConfigError(f"the files of a trial that can be shown are {', '.join(TEXTS)}, got {name!r}")
    return paths[name]


def text_of(trial: TrialReader, name: str) -> bytes:
    """One of `TEXTS`, of a long one the end, from a whole line on.

    Raises:
        ConfigError: another name, or no such file in the folder of the trial.
    """
    path = text_path(trial, name)
    if not lies_in(path, trial.files.directory):
        raise ConfigError(f"trial {trial.number} has no {name}")
    with path.open("rb") as file:
        n_bytes = file.seek(0, os.SEEK_END)
        file.seek(max(0, n_bytes - MAX_TEXT_BYTES))
        text = file.read(MAX_TEXT_BYTES)
    return text if n_bytes <= MAX_TEXT_BYTES else b"[...]\n" + text.partition(b"\n")[2]
