"""`attnsearch show`: the trials of one study, its Pareto front, and what their choice flatters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attnsearch.cli._console import counted, number, print_json, print_line, print_table, short_names
from attnsearch.cli._options import RESULTS, AsJson, Results, Storage, StudyArgument
from attnsearch.metrics.registry import all_metrics
from attnsearch.progress import duration
from attnsearch.results.uncertainty import with_error

if TYPE_CHECKING:
    from attnsearch.search.trials import StudyRows, TrialRow

Errors = Mapping[int, Mapping[str, float]]
"""Trial -> objective -> standard error."""


def show(study: StudyArgument, results: Results = RESULTS, storage: Storage = None, as_json: AsJson = False) -> None:
    """Show every trial of a study: state, objectives, best epoch, hyperparameters, time."""
    from attnsearch.results.halving import brackets_in, leader_lines
    from attnsearch.results.quality import known_quality, quality_lines
    from attnsearch.results.reader import find_study  # imports Optuna

    reader = find_study(study, results, storage=storage)
    rows = reader.rows
    errors = reader.value_errors()
    if as_json:
        for trial in rows.trials:
            print_json(trial_fields(trial, rows) | {"value_errors": errors.get(trial.number, {})})
        return
    print_trials(rows, errors)
    if len(rows.objectives) > 1 and rows.best:
        print_front(rows, [trial.row for trial in reader.front], errors)
        print_importances(reader.importances())
    if best := reader.best_row():
        quality = (f"  {line}" for line in quality_lines(known_quality(reader.trial(best.number))))
        print_line("\n".join([f"trial {best.number}, on validation:", *quality]))
    leading = (f"leading: {line}" for line in leader_lines(reader))
    for line in (*map(str, brackets_in(reader)), *leading, *reader.selection().lines):
        print_line(line)


def print_trials(rows: StudyRows, errors: Errors) -> None:
    """The table of trials; the best ones carry a star, failed and paused ones a line below."""
    keys = list(dict.fromkeys(key for trial in rows.trials for key in trial.params))
    imported = ("imported from",) if any(trial.imported_from for trial in rows.trials) else ()
    columns = ("trial", "state", *rows.objectives, "best epoch", *short_names(keys), "time", *imported)
    print_table(
        columns, [_cells(trial, rows, keys, errors) for trial in rows.trials], title=f"study {rows.name} (* best)"
    )
    for trial in rows.trials:
        if trial.error:
            print_line(f"trial {trial.number}: {trial.error}")
        elif trial.state == "paused" and trial.standing:
            print_line(f"trial {trial.number}: paused {trial.standing}")


def print_front(rows: StudyRows, front: Sequence[TrialRow], errors: Errors) -> None:
    """The Pareto front of a study with several objectives, with the raw scores that were measured beside them."""
    keys = list(dict.fromkeys(key for trial in front for key in trial.params))
    raw = [f"val/{metric.name}" for metric in all_metrics() if metric.is_raw]
    raw = [key for key in raw if key not in rows.objectives and any(key in trial.metrics for trial in front)]
    columns = ("trial", *rows.objectives, *(key.removeprefix("val/") for key in raw), *short_names(keys))

    def cells(trial: TrialRow) -> Sequence[str]:
        measured = map(number, (trial.metrics.get(key) for key in raw))
        return (str(trial.number), *_values(trial, rows, errors), *measured, *_params(trial, keys))

    print_table(columns, map(cells, front), title=f"Pareto front of {rows.name}: {counted(len(front), 'trial')}")


def print_importances(importances: Mapping[str, Mapping[str, float]]) -> None:
    """How much each hyperparameter matters.

    Args:
        importances: objective -> hyperparameter -> fraction, empty while there are too few trials.
    """
    if importances:
        names = list(dict.fromkeys(name for fractions in importances.values() for name in fractions))
        lines = [(key, *(number(fractions.get(name)) for name in names)) for key, fractions in importances.items()]
        print_table(("objective", *short_names(names)), lines, title="importance of the hyperparameters")


def _values(trial: TrialRow, rows: StudyRows, errors: Errors) -> list[str]:
    """The objectives, each score with its standard error."""
    of_trial = errors.get(trial.number, {})
    pairs = zip(rows.objectives, trial.values, strict=False)
    return [with_error(value, of_trial.get(key)) for key, value in pairs] or ["-"] * len(rows.objectives)


def _cells(trial: TrialRow, rows: StudyRows, keys: Iterable[str], errors: Errors) -> Sequence[str]:
    values = _values(trial, rows, errors)
    star = "*" if trial.number in rows.best else ""
    measured = (*values, str(trial.best_epoch or "-"), *_params(trial, keys), duration(trial.seconds))
    imported = (trial.imported_from or "-",) if any(one.imported_from for one in rows.trials) else ()
    return (f"{trial.number}{star}", trial.state, *measured, *imported)


def _params(trial: TrialRow, keys: Iterable[str]) -> list[str]:
    values = [trial.params.get(key, "-") for key in keys]
    return [number(value) if isinstance(value, float) else str(value) for value in values]


def trial_fields(trial: TrialRow, rows: StudyRows) -> dict[str, Any]:
    """One trial for machines; `kept_epoch` is the name of `best_epoch` in version 0.1, printed until 0.3."""
    names = {"study": rows.name, "best": trial.number in rows.best}
    standing = None if trial.standing is None else vars(trial.standing)
    return {**names, **vars(trial), "standing": standing, "kept_epoch": trial.best_epoch}
