"""The command that searches, and the summary that it ends with."""

from __future__ import annotations

import math
import os
import resource
import shlex
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnsearch.cli._console import StopRequest, duration, floor_lines, number, print_json, print_line, signals_to
from attnsearch.cli._options import RESULTS, AsJson, Overrides, Plugins, Profile, Results, Storage, Workers
from attnsearch.errors import DONE, INTERRUPTED
from attnsearch.results.uncertainty import with_error
from attnsearch.types import SPLITS

if TYPE_CHECKING:
    from attnsearch.results.study import StudyReader
    from attnsearch.results.trial import TrialReader
    from attnsearch.search.run import SearchOutcome


def search(
    study: Annotated[str, typer.Argument(help="A file of studies/ by its bare name, or a path.")],
    overrides: Overrides = None,
    profile: Profile = None,
    workers: Workers = None,
    results: Results = RESULTS,
    storage: Storage = None,
    plugins: Plugins = None,
    as_json: AsJson = False,
) -> int:
    """Search the hyperparameters of a study; started again, it continues where it stopped."""
    from attnsearch.config.load import load_study, with_storage

    loaded = load_study(study, profile=profile, overrides=overrides or (), plugins=plugins or ())
    loaded = with_storage(loaded, storage, overrides or ())

    from attnsearch.cli._progress import watching
    from attnsearch.results.reader import load_study as read_study
    from attnsearch.search.confirm import run_and_confirm  # imports torch

    started = time.monotonic()
    stop = StopRequest("stopping: running trials return to the queue; once more ends at once")
    with signals_to(stop.take), watching() as watcher:
        ended = run_and_confirm(loaded, root=results, n_workers=workers, should_stop=stop.is_asked, tick=watcher)
        watcher.refresh()
    reader = read_study(ended.plan.layout.study_dir, storage=loaded.study.storage)
    times = {"seconds": time.monotonic() - started, "processor_seconds": processor_seconds()}
    if as_json:
        print_json(outcome_values(reader, ended, times))
    else:
        print_line("\n".join(summary_lines(reader, ended, times)))
    return INTERRUPTED if ended.outcome == "interrupted" else DONE


def processor_seconds() -> float:
    """Processor time of this process and of its workers that have ended, user and system."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def outcome_values(study: StudyReader, ended: SearchOutcome, times: dict[str, float]) -> dict[str, Any]:
    """What is said when a search ends, for machines; `times` are of this run, workers included."""
    from attnsearch.store.urls import redact

    return {
        "study": study.layout.study,
        "outcome": ended.outcome,
        "trials": dict(Counter(row.state for row in study.rows.trials)),
        "best": [_best_values(trial) for trial in _best(study)],
        "ties": list(study.rows.ties),
        "published": [str(path) for path in _published(study)],
        "folder": str(study.layout.study_dir),
        "storage": redact(ended.plan.url),
        **{name: round(value, 3) for name, value in times.items()},
    }


def summary_lines(study: StudyReader, ended: SearchOutcome, times: dict[str, float]) -> list[str]:
    """The same for people."""
    from attnsearch.results.selection import end_lines
    from attnsearch.store.urls import default_url, redact

    layout, url = study.layout, ended.plan.url
    counts = ", ".join(f"{n} {state}" for state, n in Counter(row.state for row in study.rows.trials).items())
    artifacts = f" --artifact-dir {_shown(layout.artifacts)}" if layout.artifacts.is_dir() else ""
    storage = "" if url == default_url(layout) else f" --storage {shlex.quote(redact(url))}"
    return [
        f"study {layout.study}: {ended.outcome.replace('_', ' ')}; trials: {counts or 'none'}",
        *(line for trial in _best(study) for line in _best_lines(trial)),
        *(f"  selected   {line}" for line in end_lines(study)),
        *(f"  published  {_shown(path)}" for path in _published(study)),
        f"  all files  {_shown(layout.study_dir)}",
        f"  dashboard  attnsearch dashboard {shlex.quote(_shown(layout.experiment_dir))}{storage}",
        f"  or         optuna-dashboard {redact(url)}{artifacts}",
        f"  time       {duration(times['seconds'])}, {times['processor_seconds']:.0f} s of processor time",
    ]


def _best(study: StudyReader) -> list[TrialReader]:
    """The best trial, or the Pareto front, by number."""
    return [study.trial(number) for number in sorted(study.rows.best)]


def _best_values(trial: TrialReader) -> dict[str, Any]:
    row = trial.row
    return {
        "trial": trial.number,
        **dict.fromkeys(("best_epoch", "kept_epoch"), row.best_epoch),  # the second is its name until 0.3
        **{"values": trial.values, "value_errors": trial.value_errors, "params": row.params},
        "test": _test_metrics(trial),
    }


def _test_metrics(trial: TrialReader) -> dict[str, float]:
    """Those that are defined."""
    return {name: value for name, value in trial.test_metrics().items() if not math.isnan(value)}


def _best_lines(trial: TrialReader) -> list[str]:
    values, tests, errors = trial.values, _test_metrics(trial), trial.value_errors
    text = ", ".join(f"{key} {with_error(value, errors.get(key))}" for key, value in values.items())
    names = [name for name in tests if name in [key.partition("/")[2] for key in values]]
    test = "".join(f", test/{name} {number(tests[name])}" for name in names)
    params = "  ".join(f"{key}={value}" for key, value in trial.params.items())
    best = f"  best       trial {trial.number}, epoch {trial.row.best_epoch}: {text}{test}"
    return [best, f"             {params}", *floor_lines(trial.floors())]


def _published(study: StudyReader) -> list[Path]:
    """The published files to open first: metrics, maps and norms of the best trial."""
    for entry in study.published_sets()[:1]:
        files = study.layout.published(entry["epoch"])
        for split in reversed(SPLITS):
            archive = files.archive(split)
            if archive.images.exists():
                return [path for path in (files.model_csv(split), archive.maps, archive.norms) if path.exists()]
    return []


def _shown(path: Path) -> str:
    """Relative to where the user is, if it lies below."""
    here = Path.cwd()
    return os.fspath(path.relative_to(here) if path.is_relative_to(here) else path)
