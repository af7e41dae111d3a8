"""What the page of a study shows: all of its trials, what runs at this moment, and which settings matter."""

from __future__ import annotations

from typing import Any

from attnsearch.config.load import load_stored_study, without_variables
from attnsearch.errors import AttnSearchError
from attnsearch.explorer.serialize import plain, study_values
from attnsearch.explorer.site import site
from attnsearch.files import stamp_of
from attnsearch.results.forecast import outlook
from attnsearch.results.halving import brackets_in
from attnsearch.results.progress import UNFINISHED, TrialProgress
from attnsearch.results.quality import ENERGY, GAINS, POINTING, Quality
from attnsearch.results.status import workers_of
from attnsearch.results.study import StudyReader
from attnsearch.results.uncertainty import known_errors
from attnsearch.search.standings import BracketState

MAIN_SCORES = (*GAINS, *ENERGY, *POINTING)
"""Scores of maps that a table of trials shows unless others are chosen."""


def page_of_study(study: StudyReader) -> dict[str, Any]:
    """All that the page of a study shows at first; `live` is what changes without a trial that ends."""
    return {**_stored_values(study), "live": live_values(study)}


def _stored_values(study: StudyReader) -> dict[str, Any]:
    rows = study.rows
    with_maps = frozenset(study.numbers_with_maps())
    errors = study.value_errors(known_errors)
    stamp = (rows, with_maps, errors, stamp_of(study.layout.study_yaml))

    def make() -> dict[str, Any]:
        monitor, brackets = monitor_of(study), _brackets_of(study)
        values = study_values(study.layout, rows, errors, with_maps=with_maps, monitor=monitor, brackets=brackets)
        chosen = [key for key in values["metrics"] if key.rpartition("/")[2] in MAIN_SCORES]
        return {**values, "main_scores": chosen, "facts": _facts_of(study)}

    return site().studies.get(study.layout, stamp, make)


def monitor_of(study: StudyReader) -> str | None:
    """The metric that best epochs are chosen by, or None where the settings cannot be read."""
    try:
        return study.monitor[0]
    except AttnSearchError:
        return None  # the settings are broken; what was measured can be shown


def _brackets_of(study: StudyReader) -> list[BracketState]:
    try:
        return brackets_in(study)
    except AttnSearchError:
        return []  # likewise


def _facts_of(study: StudyReader) -> dict[str, str]:
    """What was trained, on what and when: name -> text."""
    trials = study.rows.trials
    dates = [one for trial in trials for one in (trial.started, trial.ended) if one is not None]
    when = {} if not dates else {"from": plain(min(dates)), "to": plain(max(dates))}
    try:
        stored = study.trial(0).config if study.is_plain_run else load_stored_study(study.layout.study_yaml).experiment
    except AttnSearchError:
        return when
    config = without_variables(stored)
    root = "" if config.data.root_path is None else f" ({config.data.root_path.name})"
    size = " x ".join(map(str, dict.fromkeys(config.data.image_hw)))
    return {"model": config.model.name, "data": f"{config.data.name}{root}, {size} px", **when}


def live_values(study: StudyReader) -> dict[str, Any]:
    """How far a study is, who works on it, and how good its best trial is.

    Of trials that are not finished: `epoch` of `n_epochs`, the best `value` of the monitor and its epoch, and seconds.
    """
    summary = study.summary()
    values = {
        "state": summary.state,
        "n_done": summary.n_done,
        "n_trials": summary.n_trials,
        "best": summary.best,
        "quality": [_quality_values(one) for one in summary.quality],
    }
    return {**values, "trials": [], "workers": [], "seconds_left": None, **_unfinished_values(study)}


def _quality_values(quality: Quality) -> dict[str, Any]:
    values: dict[str, Any] = plain({**quality.fields, "name": quality.name, "text": quality.text})
    return values


def _unfinished_values(study: StudyReader) -> dict[str, Any]:
    """Nothing where all trials have ended, or where the settings cannot be read."""
    if study.is_plain_run or not any(row.state in UNFINISHED for row in study.rows.trials):
        return {}
    try:
        rest = outlook(study)
        workers = workers_of(study, rest.progress.trials)
    except AttnSearchError:
        return {}
    is_running = any(one.state == "running" for one in rest.progress.trials)
    return {
        "trials": [_progress_values(one) for one in rest.progress.trials if one.is_unfinished],
        "workers": [{"machine": one.machine, "pid": one.pid, "gpu": one.gpu, "trial": one.trial} for one in workers],
        "seconds_left": plain(rest.seconds_left) if is_running else None,
    }


def _progress_values(trial: TrialProgress) -> dict[str, Any]:
    values: dict[str, Any] = plain(
        {
            "number": trial.number,
            "state": trial.state,
            "epoch": trial.epoch,
            "n_epochs": trial.n_epochs,
            "value": trial.value,
            "best_epoch": trial.best_epoch,
            "seconds": trial.seconds,
        }
    )
    return values


def importance_values(study: StudyReader) -> dict[str, Any]:
    """As `StudyReader.importances`, computed again once a trial has ended."""
    rows = study.rows
    stamp = tuple(row.number for row in rows.complete)
    values: dict[str, Any] = site().importances.get(study.layout, stamp, lambda: plain(study.importances()))
    return values
