"""How sure a score of maps is: its standard error beside the mean, why it is undefined, and which trials are tied.

Importing this file does not import Optuna or pandas.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from attnsearch.errors import AttnSearchError
from attnsearch.metrics.registry import find_metric, is_score

if TYPE_CHECKING:
    from attnsearch.search.trials import StudyRows
    from attnsearch.store.image_scores import ScoreTable

MAX_DECIMALS = 6
ErrorsOf = Callable[["Trial", Iterable[str]], dict[str, float]]


class Trial(Protocol):
    """What is asked of a trial."""

    @property
    def number(self) -> int: ...
    def score_summary(self) -> Mapping[str, float]: ...
    def score_table(self) -> ScoreTable: ...


def with_error(value: float, error: float | None) -> str:
    """`0.869 ± 0.018`: a mean to the digits that its standard error leaves; four digits without an error.

    Args:
        error: None or NaN where there is none, as of a single image.
    """
    if error is None or math.isnan(error) or math.isnan(value):
        return "-" if math.isnan(value) else f"{value:.4g}"
    decimals = max(1 - math.floor(math.log10(error)), 0) if error > 0 else math.inf
    if decimals > MAX_DECIMALS:
        return f"{value:.4g} ± {error:.2g}"
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def score_summary_of(table: ScoreTable, measured: Mapping[str, float]) -> dict[str, float]:
    """The scores over the images of a table, as `TrialReader.score_summary`.

    Args:
        measured: `split/metric` -> what the trial has of it; a score with another mean has neither error nor interval.
    """
    from attnsearch.metrics.statistics import mean_interval  # imports scipy

    split, errors, values = table.about["split"], table.trial_standard_errors(), table.defined_values()
    means = {f"{split}/{name}": mean for name, mean in table.trial_means().items()}
    summary = dict(means)
    for name, error in errors.items():
        key = f"{split}/{name}"
        if math.isclose(measured.get(key, means[key]), means[key], rel_tol=1e-5, abs_tol=1e-8):
            interval = mean_interval(values[name])
            ends = (math.nan, math.nan) if math.isnan(error) else (interval.low, interval.high)
            summary |= dict(zip((f"{key}_se", f"{key}_low", f"{key}_high"), (error, *ends), strict=True))
    return summary


def tie_line(rows: StudyRows) -> str | None:
    """Which trials are tied with the best one, as a sentence without a full stop; None where none is."""
    if len(rows.ties) < 2:
        return None
    first, *others = map(str, rows.ties)
    if len(rows.objectives) > 1:
        return f"trials {', '.join(map(str, sorted(rows.ties)))} are not surely beaten on {rows.n_refined} images"
    return f"best trial {first} = {', '.join(others)}: within two standard errors on {rows.n_refined} images"


def value_errors(trial: Trial, objectives: Iterable[str]) -> dict[str, float]:
    """Objective that is a score of maps -> standard error of the trial's value; NaN where no image has it.

    Args:
        objectives: of the study; files are read only where one of them is such a score.
    Raises:
        ConfigError, StoreError: there is no such trial, or its scores are damaged.
    """
    keys = [key for key in objectives if is_score(key.partition("/")[2])]
    summary = trial.score_summary() if keys else {}
    return {key: summary[f"{key}_se"] for key in keys if f"{key}_se" in summary}


def known_errors(trial: Trial, objectives: Iterable[str]) -> dict[str, float]:
    """As `value_errors`; empty where the scores are damaged, so that what the search measured can be shown."""
    try:
        return value_errors(trial, objectives)
    except AttnSearchError:
        return {}


def undefined_lines(trials: Iterable[Trial], objectives: Iterable[str]) -> list[str]:
    """Which trials have no value of an objective, a sentence without a full stop for each such objective.

    Raises:
        ConfigError, StoreError: there is no such trial, or its scores are damaged.
    """
    of_objective: dict[str, list[Trial]] = {}
    keys = list(objectives)
    for trial in trials:
        for key, error in value_errors(trial, keys).items():
            if math.isnan(error) and key.partition("/")[2] in trial.score_table().never_defined():
                of_objective.setdefault(key, []).append(trial)
    return [_undefined_line(key, found) for key, found in of_objective.items()]


def _undefined_line(key: str, trials: Sequence[Trial]) -> str:
    name, table = key.partition("/")[2], trials[0].score_table()
    reason = {**table.reasons, **table.undefined_gains()}.get(name, "")
    numbers = ", ".join(str(trial.number) for trial in trials)
    of_trials = f"trial {numbers}" if len(trials) == 1 else f"trials {numbers}"
    of_first = "" if len(trials) == 1 else f" (trial {trials[0].number})"
    why = f": {reason}{of_first}" if reason else ""
    return f"{key} of {of_trials} is undefined and counts as {find_metric(name).worst:g}{why}"
