"""What a reader must know of how the best trial was chosen: what the choice flatters, and how far it came."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from attnsearch.config.study import StudyConfig
from attnsearch.metrics.registry import is_score
from attnsearch.metrics.statistics import ALPHA, cross_fitted
from attnsearch.results.uncertainty import Trial, tie_line, undefined_lines
from attnsearch.search.history import History, history_of
from attnsearch.search.pareto import Reliability
from attnsearch.search.patience import Outlook, outlook_of
from attnsearch.search.study import Stop
from attnsearch.search.trials import StudyRows
from attnsearch.store.study_files import Confirmation, ConfirmedMetric, ConfirmedTrial
from attnsearch.types import HALVES, BestEpochs

MIN_ALPHA = 0.4
"""Krippendorff's alpha below which the order of the trials depends on the images that were scored."""


@dataclass(frozen=True)
class SelectedValue:
    """The best value of the monitor over all complete trials and their epochs, and what it is worth.

    Attributes:
        best: as selected, which flatters: chance counts among what is chosen.
        cross_fitted: epoch and trial chosen on one half of validation and measured on the other, the mean of both ways.
    """

    metric: str
    n_trials: int
    best: float
    cross_fitted: float

    @property
    def line(self) -> str:
        """What the value is worth, as a sentence without a full stop."""
        return (
            f"best {self.metric} {self.best:.4g} is selected from all epochs of {_counted(self.n_trials)}; chosen on "
            f"one half of validation and measured on the other it is {self.cross_fitted:.4g}"
        )


@dataclass(frozen=True)
class Selection:
    """How the best trials of a study were chosen.

    Attributes:
        notes: which trials are tied with the best one, and which have no value of an objective.
        value: None where validation was not measured in halves.
        orders: objective that is a score of maps -> how far images agree on the order of the trials, or why not known.
        history: None while no feasible trial is complete.
        confirmation: None where the best trials were not repeated.
        stop: why the search ended before its budget was spent; None where it did not.
        outlook: None with few trials, and where settings are repeated.
    """

    notes: tuple[str, ...]
    value: SelectedValue | None
    orders: Mapping[str, Reliability | str]
    history: History | None
    confirmation: Confirmation | None
    stop: Stop | None = None
    outlook: Outlook | None = None

    @property
    def lines(self) -> list[str]:
        """One sentence for each, without a full stop."""
        lines = leading_lines(self.notes, self.value)
        lines += [order_line(key, order) for key, order in self.orders.items()]
        lines += [] if self.confirmation is None else confirmation_lines(self.confirmation)
        lines += [history_line(self.history)] if self.history and len(self.history.trials) > 1 else []
        lines += [] if self.stop is None else [stop_line(self.stop)]
        return lines if self.outlook is None else [*lines, outlook_line(self.outlook)]


class Searched(Protocol):
    """What is asked of a study, as `StudyReader`."""

    @property
    def rows(self) -> StudyRows: ...
    @property
    def settings(self) -> StudyConfig: ...
    @property
    def is_plain_run(self) -> bool: ...
    @property
    def monitor(self) -> tuple[str, str]: ...
    @property
    def confirmation(self) -> Confirmation | None: ...
    def trial(self, number: int) -> Trial: ...
    def best_epochs(self, numbers: Collection[int], metrics: Sequence[str], *, is_higher: bool) -> BestEpochs: ...
    def reliability(self, metric: str) -> Reliability | str | None: ...


def selection_of(study: Searched) -> Selection:
    """How the best trials of a study were chosen.

    Raises:
        ConfigError, StoreError: the study or its scores cannot be read.
    """
    rows = study.rows
    names = {key: key.partition("/")[2] for key in rows.objectives}
    orders = {key: study.reliability(name) for key, name in names.items() if is_score(name)}
    return Selection(
        notes=notes_of(study),
        value=selected_value(study),
        orders={key: order for key, order in orders.items() if order is not None},
        history=history_of(rows),
        confirmation=study.confirmation,
        stop=stop_of(study),
        outlook=None if study.is_plain_run or study.settings.repeats else outlook_of(rows),
    )


def stop_of(study: Searched) -> Stop | None:
    """Why a search ended before its budget was spent; None where it did not, or was continued with more patience."""
    stop = study.rows.stop
    return stop if stop is not None and stop.holds(study.settings) else None


def end_lines(study: Searched) -> list[str]:
    """What a search ends with: ties, undefined objectives, what the best value is worth, and why it ended early.

    Raises:
        ConfigError, StoreError: the study or its scores cannot be read.
    """
    stop = stop_of(study)
    return [*leading_lines(notes_of(study), selected_value(study)), *([] if stop is None else [stop_line(stop)])]


def leading_lines(notes: Iterable[str], value: SelectedValue | None) -> list[str]:
    """One sentence for each, without a full stop."""
    return [*notes, *([] if value is None else [value.line])]


def notes_of(study: Searched) -> tuple[str, ...]:
    """Which trials are tied with the best one, and which have no value of an objective."""
    rows = study.rows
    complete = [study.trial(row.number) for row in rows.complete]
    return (*filter(None, [tie_line(rows)]), *undefined_lines(complete, rows.objectives))


def selected_value(study: Searched) -> SelectedValue | None:
    """The best value of the monitor with its cross-fitted estimate; None where validation has no halves."""
    metric, direction = study.monitor
    is_higher = direction == "maximize"
    columns = [metric, *(f"{metric}{half}" for half in HALVES)]
    numbers = [row.number for row in study.rows.complete if row.is_feasible]
    found = study.best_epochs(numbers, columns, is_higher=is_higher)
    if not found.n_trials:
        return None
    whole, first, second = found.values.T
    estimate = cross_fitted(first, second, higher_is_better=is_higher)
    return SelectedValue(metric, found.n_trials, float(whole.max() if is_higher else whole.min()), estimate)


def order_line(key: str, order: Reliability | str) -> str:
    """How far images agree on the order of the trials in one objective."""
    if isinstance(order, str):
        return f"agreement on the order in {key} is unknown: {order}"
    more = "" if math.isnan(order.second_fill) else f", under two fills {order.second_fill:.4g}"
    if order.n_undefined:
        more += f", {order.n_undefined} of {order.n_trials * order.n_images} scores undefined"
    weak = "; images disagree too much to name a best trial" if order.alpha < MIN_ALPHA else ""
    alpha, same, chance, corrected = map(
        _four_digits, (order.alpha, order.winner.same, order.winner.chance, order.winner.corrected)
    )
    return (
        f"order of {_counted(order.n_trials)} in {key} over {order.n_images} images: Krippendorff's alpha {alpha}, "
        f"same winner on random halves {same} (by chance {chance}), its score on the other half {corrected}{more}{weak}"
    )


def confirmation_lines(found: Confirmation) -> list[str]:
    """One sentence for each metric: the verdict, and the mean of each repeated trial."""
    return [_confirmation_line(one, found.n_seeds) for one in found.metrics]


def _confirmation_line(one: ConfirmedMetric, n_seeds: int) -> str:
    close = [trial.trial for trial in one.trials[1:] if trial.p is None or trial.p >= ALPHA]
    ahead = [trial.trial for trial in one.trials if trial.is_ahead]
    verdict = {
        "separated": "is separated from all others",
        "not separated": f"is not separated from {', '.join(map(str, close))}",
        "not confirmed": f"is not confirmed, {', '.join(map(str, ahead))} ahead",
    }
    means = "; ".join(_mean_of(trial, n_seeds) for trial in one.trials)
    return f"with {n_seeds} fresh seeds, trial {one.winner} {verdict[one.verdict]} in {one.metric}: {means}"


def _mean_of(trial: ConfirmedTrial, n_seeds: int) -> str:
    if trial.mean is None:
        return f"trial {trial.trial} failed"
    interval = "" if trial.low is None or trial.high is None else f" ({trial.low:.4g} to {trial.high:.4g})"
    p = "" if trial.p is None else f", p {trial.p:.2g}"
    seeds = "" if trial.n_seeds == n_seeds else f", {trial.n_seeds} of {n_seeds} seeds"
    return f"trial {trial.trial} has {trial.mean:.4g}{interval}{p}{seeds}"


def history_line(history: History) -> str:
    """One number for each complete trial."""
    values = " ".join("–" if math.isnan(value) else f"{value:.3g}" for value in history.values)
    if not history.n_bounding:
        return f"best {history.measure} after each complete trial: {values}"
    first = f"the first {_counted(history.n_bounding)}"
    return f"hypervolume after each complete trial, 1 spanning the worst and best values of {first}: {values}"


def stop_line(stop: Stop) -> str:
    """Why a search ended before its budget was spent."""
    return f"ended by patience={stop.patience}: {stop.reason}; a larger one, or null, continues the search"


def outlook_line(outlook: Outlook) -> str:
    """What a search that is twice as long may bring."""
    what = outlook.measure if outlook.measure == "hypervolume" else f"best {outlook.measure}"
    return (
        f"estimate: as many trials again would improve the {what} by about {outlook.next:.2g} on average; from half of "
        f"the {_counted(outlook.n_trials)} to all of them it improved by {outlook.last:.2g}"
    )


def _four_digits(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4g}"


def _counted(n_trials: int) -> str:
    return "1 trial" if n_trials == 1 else f"{n_trials} trials"
