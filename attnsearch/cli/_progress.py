"""A running study at one moment: what its trials do, and how long it may still take."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from attnsearch.cli._console import duration, number
from attnsearch.search.handle import StudyHandle

logger = logging.getLogger(__name__)

MAX_ROWS = 20


@contextmanager
def watching() -> Iterator[Watcher]:
    """A watcher whose view fits stderr; a table stays on the screen when the block ends."""
    if not sys.stderr.isatty():
        yield Watcher(LineView().show)
        return
    view = LiveView()
    try:
        yield Watcher(view.show)
    finally:
        view.close()


class LiveView:
    """A table that is redrawn in place; it appears with the first snapshot, after the bars of the preparation."""

    def __init__(self) -> None:
        self._live = Live(console=Console(stderr=True), auto_refresh=False, redirect_stdout=False)

    def show(self, snapshot: Snapshot) -> None:
        """Redraws."""
        self._live.start()
        self._live.update(build_table(snapshot), refresh=True)

    def close(self) -> None:
        """Leaves the last table on the screen."""
        self._live.stop()


class LineView:
    """Logs each new epoch and each new state of a trial."""

    def __init__(self) -> None:
        self._shown: dict[int, TrialView] | None = None

    def show(self, snapshot: Snapshot) -> None:
        """Logs what differs from the last snapshot; of the first one, only what has begun and is not over."""
        for view in snapshot.trials:
            before = (self._shown or {}).get(view.number)
            is_new = before is None or (view.state, view.epoch) != (before.state, before.epoch)
            is_old_news = self._shown is None and not view.is_unfinished
            if is_new and not is_old_news and (view.state, view.epoch) != ("waiting", 0):
                logger.info("trial %d %s", view.number, describe(view, snapshot))
        self._shown = {view.number: view for view in snapshot.trials}


def build_table(snapshot: Snapshot) -> Table:
    """The last trials of a study, and all that are not over."""
    table = Table(title=headline(snapshot), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for name in ("trial", "state", "epoch", f"best {snapshot.monitor}", "time"):
        table.add_column(name, justify="left" if name == "state" else "right")
    older = [view for view in snapshot.trials[:-MAX_ROWS] if view.is_unfinished]
    for view in (*older, *snapshot.trials[-MAX_ROWS:]):
        table.add_row(str(view.number), view.state, _epoch(view), number(view.value), duration(view.seconds))
    return table


def headline(snapshot: Snapshot) -> str:
    """`study br_npa_low_res: 3 of 25 trials done, about 12 min left`."""
    left = f", about {duration(snapshot.seconds_left)} left" if snapshot.seconds_left else ""
    return f"study {snapshot.study}: {snapshot.n_done} of {snapshot.n_trials} trials done{left}"


def describe(view: TrialView, snapshot: Snapshot) -> str:
    """What is new of a trial, in one line."""
    if view.state == "fail":
        return f"failed: {view.error or 'reason unknown'}"
    measured = f"{view.state}, epoch {_epoch(view)}, best {snapshot.monitor} {number(view.value)}"
    return measured if view.is_unfinished else f"{measured}, {duration(view.seconds)}; {headline(snapshot)}"


def _epoch(view: TrialView) -> str:
    return f"{view.epoch}/{view.n_epochs}"


DONE = ("complete", "pruned")
"""States that count towards the budget of a study."""


@dataclass(frozen=True)
class TrialView:
    """One trial; `value` is its best monitor so far, None before the first epoch."""

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
class Snapshot:
    """A study; `seconds_left` is None until an epoch has shown how long one takes."""

    study: str
    monitor: str
    trials: tuple[TrialView, ...]
    n_done: int
    n_trials: int
    seconds_left: float | None


class Watcher:
    """Takes a snapshot now and then while the supervisor works, and hands it to a view.

    Args:
        show: what is done with each snapshot.
        every_s: the least time between two of them.
        clock: seconds.
    """

    def __init__(
        self, show: Callable[[Snapshot], None], *, every_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._show, self._every_s, self._clock = show, every_s, clock
        self._session: StudyHandle | None = None
        self._shown_at = -math.inf
        self._begun: tuple[float, int] | None = None  # moment and epochs of the first snapshot

    def __call__(self, session: StudyHandle) -> None:
        """The supervisor's tick."""
        self._session = session
        if self._clock() - self._shown_at >= self._every_s:
            self.refresh()

    def refresh(self) -> None:
        """Takes and shows a snapshot at once, of the study of the last tick."""
        if self._session is not None:
            self._shown_at = self._clock()
            self._show(self._snapshot(self._session))

    def _snapshot(self, session: StudyHandle) -> Snapshot:
        config, views = session.loaded.study, view_trials(session)
        n_epochs = sum(view.epoch for view in views)
        begun_at, n_before = self._begun = self._begun or (self._shown_at, n_epochs)
        left = epochs_left(views, n_trials=config.n_trials, n_epochs=session.loaded.experiment.train.epochs)
        return Snapshot(
            study=config.name,
            monitor=config.monitor,
            trials=views,
            n_done=sum(view.state in DONE for view in views),
            n_trials=config.n_trials,
            seconds_left=left * (self._shown_at - begun_at) / (n_epochs - n_before) if n_epochs > n_before else None,
        )


def epochs_left(views: tuple[TrialView, ...], *, n_trials: int, n_epochs: int) -> int:
    """Epochs until the budget is spent, if no trial is pruned or stops early.

    Args:
        n_trials: the budget of complete and pruned trials.
        n_epochs: of a trial that has not begun.
    """
    n_left = max(0, n_trials - sum(view.state in DONE for view in views))
    unfinished = sorted((view for view in views if view.is_unfinished), key=lambda view: view.state == "waiting")[
        :n_left
    ]
    return sum(view.n_epochs - view.epoch for view in unfinished) + (n_left - len(unfinished)) * n_epochs


def view_trials(session: StudyHandle) -> tuple[TrialView, ...]:
    """All trials; of unfinished ones the epochs are read from the database."""
    trials = session.trials()
    unfinished = [trial.number for trial in trials if not trial.state.is_finished()]
    frame = session.store.read_epochs(unfinished)
    monitor, direction = session.loaded.study.monitor, session.loaded.study.monitor_direction
    epochs, values = {}, {}
    for trial, rows in frame.groupby("trial"):
        epochs[trial] = int(rows["epoch"].max())
        if monitor in rows:
            values[trial] = float(rows[monitor].max() if direction == "maximize" else rows[monitor].min())
    n_epochs = session.loaded.experiment.train.epochs
    return tuple(_view(t, epochs.get(t.number, 0), values.get(t.number), monitor, n_epochs) for t in trials)


def _view(trial: FrozenTrial, epoch: int, value: float | None, monitor: str, n_epochs: int) -> TrialView:
    attributes: dict[str, Any] = trial.user_attrs
    return TrialView(
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
