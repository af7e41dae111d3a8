"""Tables of what can be run, of the studies in the results, and of one study's trials."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attnsearch.cli._console import duration, number, print_line, print_table
from attnsearch.cli.found import all_studies
from attnsearch.config.load import Kind, find_file, load_stored_settings, names
from attnsearch.errors import AttnSearchError, StoreError
from attnsearch.metrics.registry import is_score, score_metrics
from attnsearch.search.pareto import front_of, reliability
from attnsearch.search.trials import StudyRows, TrialRow, read_study, reader_url
from attnsearch.store.inspection import inspect_database
from attnsearch.store.layout import StudyLayout
from attnsearch.store.urls import connection_url

KINDS: dict[Kind, str] = {"studies": "study", "configs": "config", "configs/profiles": "profile"}


def known_files() -> list[dict[str, str]]:
    """All studies, configs and profiles that have a bare name."""
    return [
        {"name": name, "kind": word, "file": str(find_file(name, (kind,)))}
        for kind, word in KINDS.items()
        for name in names(kind)
    ]


def known_studies(root: Path, storage: str | None) -> list[dict[str, Any]]:
    """One row for each study in the results; `error` says why one cannot be read.

    Args:
        storage: as `reader_url`; asked once for all studies, so that a server that is away is waited for once.
    Raises:
        ConfigError: `storage` is not a usable URL.
    """
    fault = _fault_of(connection_url(storage)) if storage else None
    return [_study_row(layout, storage, fault) for layout in all_studies(root)]


def _fault_of(url: str) -> StoreError | None:
    try:
        inspect_database(url, must_exist=True)
    except StoreError as error:
        return error
    return None


def _study_row(layout: StudyLayout, storage: str | None, fault: StoreError | None) -> dict[str, Any]:
    row = {"experiment": layout.experiment, "study": layout.study}
    try:
        if fault is not None:
            raise fault
        return {**row, **_progress(layout, read_study(reader_url(layout, storage), layout.study)), "error": None}
    except AttnSearchError as error:
        reason = "; ".join(line.strip() for line in str(error).splitlines())
        return {**row, "state": "unreadable", "trials": None, "failed": None, "best": None, "error": reason}


def _progress(layout: StudyLayout, rows: StudyRows) -> dict[str, Any]:
    n_trials = load_stored_settings(layout.study_yaml).n_trials
    states = [trial.state for trial in rows.trials]
    n_done = states.count("complete") + states.count("pruned")
    state = "finished" if n_done >= n_trials else "running" if "running" in states else "stopped"
    best = next((trial for trial in rows.trials if trial.number in rows.best), None)
    return {
        "state": state,
        "trials": f"{n_done}/{n_trials}",
        "failed": str(states.count("fail")),
        "best": best.values[0] if best else None,
    }


def print_trials(rows: StudyRows) -> None:
    """The table of `show`; the best trials carry a star, failed ones a line below."""
    keys = list(dict.fromkeys(key for trial in rows.trials for key in trial.params))
    columns = ("trial", "state", *rows.objectives, "best epoch", *short_names(keys), "time")
    print_table(columns, [_cells(trial, rows, keys) for trial in rows.trials], title=f"study {rows.name} (* best)")
    for trial in rows.trials:
        if trial.error:
            print_line(f"trial {trial.number}: {trial.error}")


MIN_ALPHA = 0.4
"""Krippendorff's alpha below which the order of the trials depends on which images one looks at."""


def print_front(rows: StudyRows, shares: Mapping[str, Mapping[str, float]]) -> None:
    """The Pareto front of a study with several objectives, and the share of each setting in each objective.

    Args:
        shares: objective -> setting -> share, empty while there are too few trials.
    """
    front = front_of(rows)
    if not front:
        return
    keys = list(dict.fromkeys(key for trial in front for key in trial.params))
    raw = [metric.name for metric in score_metrics() if metric.is_raw]  # read together: also a random order's
    raw = [name for name in raw if any(f"val/{name}" in trial.metrics for trial in front)]
    raw = [name for name in raw if f"val/{name}" not in rows.objectives]
    columns = ("trial", *rows.objectives, *raw, *short_names(keys))
    cells = [
        (
            str(trial.number),
            *map(number, trial.values),
            *(number(trial.metrics.get(f"val/{name}")) for name in raw),
            *_params(trial, keys),
        )
        for trial in front
    ]
    print_table(columns, cells, title=f"front of {rows.name}: {len(front)} trials")
    if shares:
        names = list(dict.fromkeys(name for one in shares.values() for name in one))
        lines = [(key, *(number(one.get(name)) for name in names)) for key, one in shares.items()]
        print_table(("objective", *short_names(names)), lines, title="what tells the best trials from the others")


def print_reliability(layout: StudyLayout, rows: StudyRows) -> None:
    """How far the order of the front, or of all complete trials of a study with one objective, can be trusted."""
    if len(rows.objectives) > 1:
        numbers = list(rows.best)
    else:
        numbers = [trial.number for trial in rows.trials if trial.state == "complete"]
    for key in rows.objectives:
        metric = key.partition("/")[2]
        found = reliability(layout, numbers, metric) if is_score(metric) else None
        if found is None:
            continue
        if isinstance(found, str):
            print_line(f"how far the order in {key} can be trusted is unknown: {found}")
            continue
        fills = "" if math.isnan(found.second_fill) else f", under two fills {number(found.second_fill)}"
        if found.n_undefined:
            fills += f", {found.n_undefined} of {found.n_trials * found.n_images} scores undefined"
        weak = "; do not call a winner" if found.alpha < MIN_ALPHA else ""
        print_line(
            f"order of {found.n_trials} trials in {key} over {found.n_images} images: alpha {number(found.alpha)}, "
            f"best stays best {number(found.stable)}{fills}{weak}"
        )


def _cells(trial: TrialRow, rows: StudyRows, keys: Iterable[str]) -> Sequence[str]:
    values = [number(value) for value in trial.values] or ["-"] * len(rows.objectives)
    star = "*" if trial.number in rows.best else ""
    epoch = str(trial.best_epoch or "-")
    return (f"{trial.number}{star}", trial.state, *values, epoch, *_params(trial, keys), duration(trial.seconds))


def _params(trial: TrialRow, keys: Iterable[str]) -> list[str]:
    found = [trial.params.get(key, "-") for key in keys]
    return [number(value) if isinstance(value, float) else str(value) for value in found]


def short_names(keys: Sequence[str]) -> list[str]:
    """The last part of each dotted key, or the whole key where that part is not its own."""
    last = [key.rpartition(".")[2] for key in keys]
    return [name if last.count(name) == 1 else key for name, key in zip(last, keys, strict=True)]


def trial_values(trial: TrialRow, rows: StudyRows) -> dict[str, Any]:
    """One trial for machines; `kept_epoch` is what 0.1 called `best_epoch`, and goes in 0.3."""
    return {"study": rows.name, "best": trial.number in rows.best, **vars(trial), "kept_epoch": trial.best_epoch}
