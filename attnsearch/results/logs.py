"""Passes what is stored of a study to a logger, after the search or while it runs."""

from __future__ import annotations

import math
from pathlib import Path

from attnsearch.errors import StoreError
from attnsearch.loggers.base import check_loggers
from attnsearch.loggers.process import LoggerProcess
from attnsearch.metrics.registry import is_score
from attnsearch.results.study import StudyReader
from attnsearch.search.logs import attached_images, log_end, logged_run

ENDED = ("complete", "pruned", "fail")


def log_study(study: StudyReader, name: str) -> Path:
    """Logs all trials that have begun; what was logged before, by a search or another call, is passed over.

    Args:
        name: of the logger.
    Returns:
        The folder of the logger.
    Raises:
        ConfigError: its package is not installed, or the study cannot be read.
        StoreError: the logger failed, or the study cannot be read.
    """
    check_loggers([name])
    folder = study.layout.logged(name)
    process = LoggerProcess(name, folder)
    try:
        _log_trials(study, process)
    finally:
        problem = process.close(patience_s=None)
    if problem:
        raise StoreError(f"{study.name}: not all of it was logged by {name}: {problem}")
    return folder


def _log_trials(study: StudyReader, process: LoggerProcess) -> None:
    stored, storage = study.shared.databases.study(study.layout), study.shared.databases.storage
    epochs = study.epochs_of([row.number for row in study.rows.trials])
    trials = {trial.number: trial for trial in stored.get_trials(deepcopy=False)}
    opened = storage(study.shared.databases.url(study.layout), has_reports=False)
    for row in study.rows.trials:
        if row.number not in epochs:
            continue
        process.start_run(logged_run(study.layout, stored, row.number, study.trial(row.number).config))
        for values in epochs[row.number].drop(columns="trial", errors="ignore").to_dict("records"):
            measured = {str(key): float(value) for key, value in values.items() if _is_of_epoch(str(key))}
            defined = {key: value for key, value in measured.items() if not math.isnan(value)}
            process.log_epoch(int(values["epoch"]), defined, may_wait=True)
        if row.state in ENDED:
            log_end(process, row, attached_images(trials[row.number], opened, study.layout.shared))


def _is_of_epoch(column: str) -> bool:
    """Whether training has measured it; scores of the best epoch are added at the end."""
    return column != "epoch" and not is_score(column.partition("/")[2])
