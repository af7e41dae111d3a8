"""A study at one moment: what its trials do, and how much is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial, TrialState

from attnsearch.search.handle import StudyHandle

if TYPE_CHECKING:
    import pandas as pd

DONE = ("complete", "pruned")
"""States that count towards the budget of a study."""


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
        return self.state in ("running", "waiting")


@dataclass(frozen=True)
class StudyProgress:
    """A study; `seconds_left` is None until an epoch has shown how long one takes.

    Attributes:
        n_done, n_trials: trials that are complete or pruned, and the budget of those.
    """

    study: str
    monitor: str
    trials: tuple[TrialProgress, ...]
    n_done: int
    n_trials: int
    seconds_left: float | None = None


def n_done(trials: Sequence[TrialProgress]) -> int:
    """Trials that count towards the budget."""
    return sum(trial.state in DONE for trial in trials)


def epochs_left(trials: Sequence[TrialProgress], *, n_trials: int, n_epochs: int) -> int:
    """Epochs until the budget is spent, if no trial is pruned or stops early.

    Args:
        n_trials: the budget of complete and pruned trials.
        n_epochs: of a trial that has not begun.
    """
    n_left = max(0, n_trials - n_done(trials))
    unfinished = sorted((one for one in trials if one.is_unfinished), key=lambda one: one.state == "waiting")[:n_left]
    return sum(one.n_epochs - one.epoch for one in unfinished) + (n_left - len(unfinished)) * n_epochs


def trials_of(handle: StudyHandle) -> tuple[TrialProgress, ...]:
    """All trials of a study that runs; of unfinished ones the epochs are read from the database."""
    trials, config = handle.trials(), handle.loaded.study
    unfinished = [trial.number for trial in trials if not trial.state.is_finished()]
    return progress_of(
        trials,
        handle.store.read_epochs(unfinished),
        monitor=config.monitor,
        direction=config.monitor_direction,
        n_epochs=handle.loaded.experiment.train.epochs,
    )


def progress_of(
    trials: Sequence[FrozenTrial], epochs: pd.DataFrame, *, monitor: str, direction: str, n_epochs: int
) -> tuple[TrialProgress, ...]:
    """All trials of a study.

    Args:
        epochs: of the unfinished trials: columns `trial`, `epoch` and `split/metric`.
        monitor, direction: the metric that the best epoch is chosen by, and its better direction.
        n_epochs: of a trial whose number of epochs is not searched.
    """
    last, values = {}, {}
    for number, rows in epochs.groupby("trial"):
        last[number] = int(rows["epoch"].max())
        if monitor in rows:
            values[number] = float(rows[monitor].max() if direction == "maximize" else rows[monitor].min())
    return tuple(_progress(one, last.get(one.number, 0), values.get(one.number), monitor, n_epochs) for one in trials)


def _progress(trial: FrozenTrial, epoch: int, value: float | None, monitor: str, n_epochs: int) -> TrialProgress:
    attributes: dict[str, Any] = trial.user_attrs
    return TrialProgress(
        number=trial.number,
        state=trial.state.name.lower(),
        epoch=int(attributes.get("epochs_run", epoch)),
        n_epochs=int(trial.params.get("train.epochs", n_epochs)),
        value=attributes.get(monitor, value),
        seconds=float(attributes.get("seconds", 0.0)) or _seconds_since_start(trial),
        error=attributes.get("error"),
    )


def _seconds_since_start(trial: FrozenTrial) -> float:
    """Optuna's times are local and naive."""
    if trial.datetime_start is None or trial.state == TrialState.WAITING:
        return 0.0
    return ((trial.datetime_complete or datetime.now()) - trial.datetime_start).total_seconds()
