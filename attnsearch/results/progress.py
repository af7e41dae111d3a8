"""A study at one moment: what its trials do, and how much is left."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from attnsearch.errors import AttnSearchError
from attnsearch.results.quality import ANSWERS, GAINS, Quality, known_quality
from attnsearch.results.uncertainty import known_errors
from attnsearch.search.brackets import all_brackets, is_counted
from attnsearch.search.standings import Standing, standings_of
from attnsearch.search.study import OF_TRIAL
from attnsearch.search.trials import StudyRows, TrialRow, rows_of_trials
from attnsearch.store.layout import StudyLayout

if TYPE_CHECKING:
    import pandas as pd

    from attnsearch.config.study import StudyConfig
    from attnsearch.results.trial import TrialReader
    from attnsearch.search.halving import Bracket
    from attnsearch.search.handle import StudyHandle

UNFINISHED = ("running", "waiting", "paused")


@dataclass(frozen=True)
class StudySummary:
    """One row of a list of studies.

    Attributes:
        state: "finished" with its budget or its patience spent, "running", "stopped" or "unreadable".
        states: state of a trial, as in `TrialRow` -> number of trials.
        n_done, n_trials: trials that count towards the budget, see `is_done`, and the budget.
        best: number of the best trial; None while none is complete.
        values: objectives of the best trial.
        errors: objective that is a score of maps -> standard error of its value.
        quality: accuracy, faithfulness and localisation of the best trial beside their floors.
        n_best: trials on the Pareto front.
        error: why the study cannot be read.
    """

    experiment: str
    study: str
    state: str
    states: Mapping[str, int] = field(default_factory=dict)
    n_done: int = 0
    n_trials: int = 0
    objectives: tuple[str, ...] = ()
    best: int | None = None
    values: tuple[float, ...] = ()
    errors: Mapping[str, float] = field(default_factory=dict)
    quality: tuple[Quality, ...] = ()
    n_best: int = 0
    error: str | None = None

    @property
    def answer(self) -> Quality | None:
        """The accuracy, or mAP, of the best trial."""
        return next((one for one in self.quality if one.metric in ANSWERS), None)

    @property
    def faithfulness(self) -> Quality | None:
        """How faithful the maps of the best trial are; None where they were not scored."""
        return next((one for one in self.quality if one.metric in GAINS), None)

    @property
    def best_text(self) -> str:
        """The objectives of the best trial."""
        return ", ".join(f"{key} {value:.4g}" for key, value in zip(self.objectives, self.values, strict=False))


class ListedStudy(Protocol):
    """What is asked of a study, as `StudyReader`."""

    @property
    def layout(self) -> StudyLayout: ...
    @property
    def rows(self) -> StudyRows: ...
    @property
    def settings(self) -> StudyConfig: ...
    def best_row(self) -> TrialRow | None: ...
    def trial(self, number: int) -> TrialReader: ...


def summary_of_study(study: ListedStudy, n_trials_of: Callable[[], int]) -> StudySummary:
    """One row of a list of studies; the reason where it cannot be read.

    Args:
        n_trials_of: the budget, which may be unreadable too.
    """
    names = study.layout.experiment, study.layout.study
    try:
        rows, best, n_trials = study.rows, study.best_row(), n_trials_of()
    except AttnSearchError as error:
        return StudySummary(*names, "unreadable", error=str(error))
    is_stopped = rows.stop is not None and rows.stop.holds(study.settings)
    trial = None if best is None else study.trial(best.number)
    return StudySummary(
        *names,
        state_of(rows.trials, n_trials, is_stopped=is_stopped),
        states=Counter(row.state for row in rows.trials),
        n_done=sum(map(is_done, rows.trials)),
        n_trials=n_trials,
        objectives=tuple(rows.objectives),
        best=None if best is None else best.number,
        values=() if best is None else best.values,
        errors={} if trial is None else known_errors(trial, rows.objectives),
        quality=() if trial is None else tuple(known_quality(trial)),
        n_best=len(rows.best),
    )


def is_done(trial: TrialRow | TrialProgress) -> bool:
    """Whether a trial counts against the budget, see `is_counted`."""
    return is_counted(
        trial.state,
        is_compared=trial.standing is not None,
        is_repetition=OF_TRIAL in trial.params,
        is_imported=bool(trial.imported_from),
    )


def state_of(trials: Iterable[TrialRow | TrialProgress], n_trials: int, *, is_stopped: bool) -> str:
    """The state of a study that can be read, as in `StudySummary`.

    Args:
        n_trials: budget of the study.
        is_stopped: whether its patience has ended, so that no new trials start.
    """
    known = tuple(trials)
    if sum(map(is_done, known)) >= n_trials:
        return "finished"
    is_running = any(trial.state == "running" for trial in known)
    return "running" if is_running else "finished" if is_stopped else "stopped"


@dataclass(frozen=True)
class EpochSteps:
    """How far the epoch (from 1) of a running trial is: steps that are done, of how many, and images per second."""

    epoch: int
    step: int
    n_steps: int
    images_per_s: float


def read_steps(path: Path) -> EpochSteps | None:
    """What a trial in training tells of itself; None between epochs, and of what cannot be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        numbers = {name: int(values[name]) for name in ("epoch", "step", "n_steps")}
        return EpochSteps(**numbers, images_per_s=float(values["images_per_s"]))
    except (OSError, ValueError, TypeError, LookupError):
        return None


@dataclass(frozen=True)
class TrialProgress:
    """One trial; `value` is its best monitor so far, None before the first epoch; `seconds` are those it has run.

    `best_epoch` is the first epoch with that value, 0 before it. `standing` is the last rung that a paused, pruned or
    failed one has reached. `steps` are of the epoch that runs.
    """

    number: int
    state: str
    epoch: int
    n_epochs: int
    value: float | None
    seconds: float
    error: str | None = None
    standing: Standing | None = None
    imported_from: str = ""
    best_epoch: int = 0
    params: Mapping[str, object] = field(default_factory=dict)
    steps: EpochSteps | None = None

    @property
    def is_unfinished(self) -> bool:
        """Whether it runs, or waits to be run or continued, paused at a rung or not."""
        return self.state in UNFINISHED


@dataclass(frozen=True)
class StudyProgress:
    """A study.

    Attributes:
        n_trials: budget of trials that are done.
        brackets: of a search with halving, those that are still to be opened included.
        seconds_left: None until an epoch has shown how long one takes.
    """

    study: str
    monitor: str
    trials: tuple[TrialProgress, ...]
    n_trials: int
    brackets: tuple[Bracket, ...] = ()
    seconds_left: float | None = None

    @property
    def n_done(self) -> int:
        """Trials that count towards the budget."""
        return sum(map(is_done, self.trials))

    @property
    def n_paused(self) -> int:
        """Trials that wait at a rung."""
        return sum(trial.state == "paused" for trial in self.trials)

    def epochs_left(self, n_epochs: int) -> int:
        """Epochs until the budget is spent, if no trial fails or stops early, nor a pruner but halving ends one.

        Args:
            n_epochs: of a trial that has not begun.
        """
        if self.brackets:
            return self._epochs_of_brackets(n_epochs)
        n_left = max(0, self.n_trials - self.n_done)
        unfinished = [trial for trial in self.trials if trial.is_unfinished]
        begun = sorted(unfinished, key=lambda trial: trial.state == "waiting")[:n_left]
        return sum(trial.n_epochs - trial.epoch for trial in begun) + (n_left - len(begun)) * n_epochs

    def _epochs_of_brackets(self, n_epochs: int) -> int:
        """Those of each bracket, and of enqueued trials, which run to their end."""
        trained = {trial.number: trial.epoch for trial in self.trials}
        members = {trial.number for bracket in self.brackets for trial in bracket.trials}
        others = [trial for trial in self.trials if trial.is_unfinished and trial.number not in members]
        of_brackets = sum(bracket.epochs_left(n_epochs, trained) for bracket in self.brackets)
        return of_brackets + sum(trial.n_epochs - trial.epoch for trial in others)


def progress_of(
    rows: Sequence[TrialRow], epochs: pd.DataFrame, *, monitor: str, direction: str, n_epochs: int
) -> tuple[TrialProgress, ...]:
    """All trials of a study.

    Args:
        epochs: of the unfinished trials: columns `trial`, `epoch` and `split/metric`.
        monitor, direction: the metric that the best epoch is chosen by, and its better direction.
        n_epochs: of a trial whose number of epochs is not searched.
    """
    last, best = {}, {}
    for number, table in epochs.groupby("trial"):
        last[number] = int(table["epoch"].max())
        best[number] = _best_in(table, monitor, direction)
    return tuple(
        TrialProgress(
            number=row.number,
            state=row.state,
            epoch=last.get(row.number, row.epochs_run),
            n_epochs=int(row.params.get("train.epochs", n_epochs)),
            value=best[row.number][1] if row.number in best else row.metrics.get(monitor),
            seconds=_seconds(row),
            error=row.error,
            standing=row.standing,
            imported_from=row.imported_from,
            best_epoch=best[row.number][0] if row.number in best else row.best_epoch,
            params=row.params,
        )
        for row in rows
    )


def _best_in(epochs: pd.DataFrame, monitor: str, direction: str) -> tuple[int, float | None]:
    """The first of the best epochs of a trial, and its value; 0 and None where the monitor is undefined in all."""
    measured = epochs.dropna(subset=[monitor]).sort_values("epoch") if monitor in epochs else epochs.iloc[:0]
    if measured.empty:
        return 0, None
    values = measured[monitor]
    place = int(values.argmax() if direction == "maximize" else values.argmin())
    return int(measured["epoch"].iloc[place]), float(values.iloc[place])


def _seconds(row: TrialRow) -> float:
    """How long a trial has run; of one that runs again, what is stored is of the time before."""
    if row.started is None or row.state in ("waiting", "paused") or (row.seconds and row.state != "running"):
        return row.seconds
    return row.seconds + ((row.ended or datetime.now()) - row.started).total_seconds()  # Optuna's times are local


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
    loaded, stored = handle.loaded, handle.trials()
    config, brackets = loaded.study, all_brackets(handle.study, stored, loaded)
    standings, objectives = standings_of(brackets), tuple(config.objectives)
    rows = rows_of_trials(stored, objectives, standings)
    epochs = handle.store.read_epochs([row.number for row in rows if row.state in UNFINISHED])
    trials = progress_of(
        rows,
        epochs,
        monitor=config.monitor,
        direction=config.monitor_direction,
        n_epochs=loaded.experiment.train.epochs,
    )
    trials = tuple(_with_steps(trial, handle.layout) for trial in trials)
    return StudyProgress(config.name, config.monitor, trials, config.n_trials, tuple(brackets))


def _with_steps(trial: TrialProgress, layout: StudyLayout) -> TrialProgress:
    """A running trial with the steps of the epoch behind its last one; a file that a killed process left is older."""
    steps = read_steps(layout.trial(trial.number).progress) if trial.state == "running" else None
    return replace(trial, steps=steps) if steps and steps.epoch == trial.epoch + 1 else trial
