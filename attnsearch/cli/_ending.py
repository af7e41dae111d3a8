"""What a search says when it ends: the best trials and their files, or which trial leads."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnsearch.cli._console import program, shown_path
from attnsearch.progress import duration
from attnsearch.results.uncertainty import with_error
from attnsearch.types import SPLITS

if TYPE_CHECKING:
    from attnsearch.results.study import StudyReader
    from attnsearch.results.trial import TrialReader
    from attnsearch.search.run import SearchOutcome


def outcome_values(study: StudyReader, ended: SearchOutcome, times: dict[str, float]) -> dict[str, Any]:
    """What is said when a search ends, for machines; `times` are of this run, workers included."""
    from attnsearch.results.halving import leader_of
    from attnsearch.store.urls import redact

    leader = leader_of(study)
    return {
        "study": study.layout.study,
        "outcome": ended.outcome,
        "trials": dict(Counter(row.state for row in study.rows.trials)),
        "best": [_best_values(trial) for trial in _best(study)],
        "leading": None if leader is None else vars(leader),
        "ties": list(study.rows.ties),
        "published": [str(path) for path in _published(study)],
        "folder": str(study.layout.study_dir),
        "storage": redact(ended.plan.url),
        **{name: round(value, 3) for name, value in times.items()},
    }


def summary_lines(study: StudyReader, ended: SearchOutcome, times: dict[str, float]) -> list[str]:
    """The same for people."""
    from attnsearch.results.halving import leader_lines
    from attnsearch.results.selection import end_lines
    from attnsearch.store.urls import default_url, redact

    layout, url = study.layout, ended.plan.url
    counts = ", ".join(f"{n} {state}" for state, n in Counter(row.state for row in study.rows.trials).items())
    storage = "" if url == default_url(layout) else f" --storage {shlex.quote(redact(url))}"
    return [
        f"study {layout.study}: {ended.outcome.replace('_', ' ')}; trials: {counts or 'none'}",
        *(line for trial in _best(study) for line in _best_lines(trial)),
        *(f"  leading    {line}" for line in leader_lines(study)),
        *(f"  selected   {line}" for line in end_lines(study)),
        *(f"  published  {shown_path(path)}" for path in _published(study)),
        f"  all files  {shown_path(layout.study_dir)}",
        f"  dashboard  {program()} dashboard {shlex.quote(shown_path(layout.experiment_dir))}{storage}",
        f"  or         optuna-dashboard {redact(url)}{_artifact_option(layout.artifacts)}",
        f"  time       {duration(times['seconds'])}, {times['processor_seconds']:.0f} s of processor time",
    ]


def _artifact_option(folder: Path) -> str:
    return f" --artifact-dir {shown_path(folder)}" if folder.is_dir() else ""


def _best(study: StudyReader) -> list[TrialReader]:
    """The best trial, or the Pareto front, by number."""
    return [study.trial(number) for number in sorted(study.rows.best)]


def _best_values(trial: TrialReader) -> dict[str, Any]:
    from attnsearch.results.quality import known_quality

    row = trial.row
    return {
        "trial": trial.number,
        **dict.fromkeys(("best_epoch", "kept_epoch"), row.best_epoch),  # the second is its name until 0.3
        **{"values": trial.values, "value_errors": trial.value_errors, "params": row.params},
        "test": _test_metrics(trial),
        "quality": [one.fields for one in known_quality(trial)],
    }


def _test_metrics(trial: TrialReader) -> dict[str, float]:
    """Those that are defined."""
    return {name: value for name, value in trial.test_metrics().items() if not math.isnan(value)}


def _best_lines(trial: TrialReader) -> list[str]:
    """The trial, its values of objectives that are no line of their own, and accuracy and maps beside their floors."""
    from attnsearch.results.quality import known_quality, quality_lines

    found, errors = known_quality(trial), trial.value_errors
    others = {key: value for key, value in trial.values.items() if key not in {f"val/{one.metric}" for one in found}}
    text = ", ".join(f"{key} {with_error(value, errors.get(key))}" for key, value in others.items())
    best = f"  best       trial {trial.number}, epoch {trial.row.best_epoch}{': ' if text else ''}{text}"
    params = "  ".join(f"{key}={value}" for key, value in trial.params.items())
    return [best, f"             {params}", *(f"  {line}" for line in quality_lines(found))]


def _published(study: StudyReader) -> list[Path]:
    """The published files to open first: metrics, maps and norms of the best trial."""
    for entry in study.published_sets()[:1]:
        files = study.layout.published(entry["epoch"])
        for split in reversed(SPLITS):
            archive = files.archive(split)
            if archive.images.exists():
                return [path for path in (files.model_csv(split), archive.maps, archive.norms) if path.exists()]
    return []
