"""Shows the progress of a running study: a table that is redrawn, or lines where stderr is no terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from attnsearch.cli._console import number
from attnsearch.progress import duration
from attnsearch.results.progress import StudyProgress, TrialProgress, Watcher

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

    def show(self, snapshot: StudyProgress) -> None:
        """Redraws."""
        self._live.start()
        self._live.update(build_table(snapshot), refresh=True)

    def close(self) -> None:
        """Leaves the last table on the screen."""
        self._live.stop()


class LineView:
    """Logs each new epoch and each new state of a trial."""

    def __init__(self) -> None:
        self._shown: dict[int, TrialProgress] | None = None

    def show(self, snapshot: StudyProgress) -> None:
        """Logs what differs from the last snapshot; of the first one, only what has begun and is not over."""
        for view in snapshot.trials:
            before = (self._shown or {}).get(view.number)
            is_new = before is None or (view.state, view.epoch) != (before.state, before.epoch)
            is_old_news = self._shown is None and not view.is_unfinished
            if is_new and not is_old_news and (view.state, view.epoch) != ("waiting", 0):
                logger.info("trial %d %s", view.number, describe(view, snapshot))
        self._shown = {view.number: view for view in snapshot.trials}


def build_table(snapshot: StudyProgress) -> Table:
    """The last trials of a study, and all that are not over."""
    table = Table(title=headline(snapshot), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for name in ("trial", "state", "epoch", f"best {snapshot.monitor}", "time"):
        table.add_column(name, justify="left" if name == "state" else "right")
    older = [view for view in snapshot.trials[:-MAX_ROWS] if view.is_unfinished]
    for view in (*older, *snapshot.trials[-MAX_ROWS:]):
        table.add_row(str(view.number), _state(view), _epoch(view), number(view.value), duration(view.seconds))
    return table


def headline(snapshot: StudyProgress) -> str:
    """`study br_npa_low_res: 3 of 25 trials done, 4 paused, about 12 min left`."""
    left = f", about {duration(snapshot.seconds_left)} left" if snapshot.seconds_left else ""
    paused = f", {snapshot.n_paused} paused" if snapshot.n_paused else ""
    return f"study {snapshot.study}: {snapshot.n_done} of {snapshot.n_trials} trials done{paused}{left}"


def describe(view: TrialProgress, snapshot: StudyProgress) -> str:
    """What is new of a trial, in one line."""
    if view.state == "fail":
        return f"failed: {view.error or 'reason unknown'}"
    where = f", epoch {_epoch(view)}" if view.standing is None else f" {view.standing}"
    measured = f"{view.state}{where}, best {snapshot.monitor} {number(view.value)}"
    return measured if view.is_unfinished else f"{measured}, {duration(view.seconds)}; {headline(snapshot)}"


def _state(view: TrialProgress) -> str:
    standing = view.standing
    return view.state if standing is None else f"{view.state}, place {standing.place} of {standing.n_reached}"


def _epoch(view: TrialProgress) -> str:
    return f"{view.epoch}/{view.n_epochs}"
