"""A study at one moment: what its trials do, and how much is left."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING

from attnsearch.search.trials import TrialRow, row_of

if TYPE_CHECKING:
    import pandas as pd

    from attnsearch.search.handle import StudyHandle

DONE = ("complete", "pruned")
"""States that count towards the budget of a study."""
UNFINISHED = ("running", "waiting")


@dataclass(frozen=True)
class StudySummary:
    """One row of a list of studies.

    Attributes:
        state: "finished" with its budget spent, "running", "stopped" or "unreadable".
        states: state of a trial -> number of trials.
        n_trials: budget of complete and pruned trials.
        best: number of the best trial; None while none is complete.
        values: objectives of the best trial.
        errors: objective that is a score of maps -> standard error of its value.
        n_best: trials on the Pareto front.
        error: why the study cannot be read.
    """

    experiment: str
    study: str
    state: str
    states: Mapping[str, int] = field(default_factory=dict)
    n_trials: int = 0
    objectives: tuple[str, ...] = ()
    best: int | None = None
    values: tuple[float, ...] = ()
    errors: Mapping[str, float] = field(default_factory=dict)
    n_best: int = 0
    error: str | None = None

    @property
    def n_done(self) -> int:
        """Trials that count towards the budget."""
        return sum(self.states.get(state, 0) for state in DONE)


@dataclass(frozen=True)
class TrialProgress:
    """One trial; `value` is its best monitor so far, None before the first epoch; `seconds` since its start."""

    number: int
    state: str
    epoch: int
    n_epochs: int
    value: float | None
    seconds: float
    error: str | None = None

    @property
    def is_unfinished(self) -> bool:
        """Whether it runs, or waits to be run or continued."""
        return self.state in UNFINISHED


@dataclass(frozen=True)
class StudyProgress:
    """A study.

    Attributes:
        n_trials: budget of complete and pruned trials.
        seconds_left: None until an epoch has shown how long one takes.
    """

    study: str
    monitor: str
    trials: tuple[TrialProgress, ...]
    n_trials: int
    seconds_left: float | None = None

    @property
    def n_done(self) -> int:
        """Trials that count towards the budget."""
        return sum(trial.state in DONE for trial in self.trials)

    def epochs_left(self, n_epochs: int) -> int:
        """Epochs until the budget is spent, if no trial is pruned or stops early.

        Args:
            n_epochs: of a trial that has not begun.
        """
        n_left = max(0, self.n_trials - self.n_done)
        unfinished = [trial for trial in self.trials if trial.is_unfinished]
        begun = sorted(unfinished, key=lambda trial: trial.state == "waiting")[:n_left]
        return sum(trial.n_epochs - trial.epoch for trial in begun) + (n_left - len(begun)) * n_epochs


def progress_of(
    rows: Sequence[TrialRow], epochs: pd.DataFrame, *, monitor: str, direction: str, n_epochs: int
) -> tuple[TrialProgress, ...]:
    """All trials of a study.

    Args:
        epochs: of the unfinished trials: columns `trial`, `epoch` and `split/metric`.
        monitor, direction: the metric that the best epoch is chosen by, and its better direction.
        n_epochs: of a trial whose number of epochs is not searched.
    """
    last, values = {}, {}
    for number, table in epochs.groupby("trial"):
        last[number] = int(table["epoch"].max())
        if monitor in table:
            values[number] = float(table[monitor].max() if direction == "maximize" else table[monitor].min())
    return tuple(
        TrialProgress(
            number=row.number,
            state=row.state,
            epoch=row.epochs_run or last.get(row.number, 0),
            n_epochs=int(row.params.get("train.epochs", n_epochs)),
            value=row.metrics.get(monitor, values.get(row.number)),
            seconds=row.seconds or _seconds_since_start(row),
            error=row.error,
        )
        for row in rows
    )


def _seconds_since_start(row: TrialRow) -> float:
    """Optuna's times are local and naive."""
    if row.started is None or row.state == "waiting":
        return 0.0
    return ((row.ended or datetime.now()) - row.started).total_seconds()


class Watcher:
    """Takes a snapshot of a search now and then while it runs, and shows it.

    Args:
        show: what is done with each snapshot.
        every_s: the least time between two of them.
        clock: seconds.
    """

    def __init__(
        self,
        show: Callable[[StudyProgress], None],
        *,
        every_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._show, self._every_s, self._clock = show, every_s, clock
        self._handle: StudyHandle | None = None
        self._shown_at = -math.inf
        self._begun: tuple[float, int] | None = None  # moment and epochs of the first snapshot

    def __call__(self, handle: StudyHandle) -> None:
        """What a running search calls again and again."""
        if handle is not self._handle:
            self._handle, self._begun = handle, None
        if self._clock() - self._shown_at >= self._every_s:
            self.refresh()

    def refresh(self) -> None:
        """Takes and shows a snapshot at once, of the study of the last call."""
        if self._handle is not None:
            self._shown_at = self._clock()
            self._show(self._with_time_left(snapshot(self._handle), self._handle.loaded.experiment.train.epochs))

    def _with_time_left(self, progress: StudyProgress, n_epochs: int) -> StudyProgress:
        """With the time that the epochs left will take, if each takes as long as those since the first snapshot."""
        n_run = sum(trial.epoch for trial in progress.trials)
        begun_at, n_before = self._begun = self._begun or (self._shown_at, n_run)
        if n_run <= n_before:
            return progress
        seconds_per_epoch = (self._shown_at - begun_at) / (n_run - n_before)
        return replace(progress, seconds_left=progress.epochs_left(n_epochs) * seconds_per_epoch)


def snapshot(handle: StudyHandle) -> StudyProgress:
    """A study that runs; of unfinished trials the epochs are read from the database."""
    config = handle.loaded.study
    rows = [row_of(trial, n_values=len(config.objectives)) for trial in handle.trials()]
    epochs = handle.store.read_epochs([row.number for row in rows if row.state in UNFINISHED])
    trials = progress_of(
        rows,
        epochs,
        monitor=config.monitor,
        direction=config.monitor_direction,
        n_epochs=handle.loaded.experiment.train.epochs,
    )
    return StudyProgress(config.name, config.monitor, trials, config.n_trials)
