"""Shows the progress of a running study: a table that is redrawn, or lines where stderr is no terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from attnsearch.cli._console import number, say, short_names
from attnsearch.cli._style import painted_state
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
        """Redraws; the first time it also says which trials continue."""
        if not self._live.is_started:
            for line in resumed(snapshot):
                say(line)
        self._live.start()
        self._live.update(build_view(snapshot), refresh=True)

    def close(self) -> None:
        """Leaves the last table on the screen."""
        self._live.stop()


class LineView:
    """Logs each new epoch and each new state of a trial."""

    def __init__(self) -> None:
        self._shown: dict[int, TrialProgress] | None = None

    def show(self, snapshot: StudyProgress) -> None:
        """Logs what differs from the last snapshot, and at first which trials continue."""
        continued, shown = ([], self._shown) if self._shown is not None else (resumed(snapshot), _of_before(snapshot))
        for line in (*continued, *self._news(snapshot, shown)):
            logger.info("%s", line)
        self._shown = {view.number: view for view in snapshot.trials}

    @staticmethod
    def _news(snapshot: StudyProgress, shown: Mapping[int, TrialProgress]) -> Iterator[str]:
        for view in snapshot.trials:
            before, now = shown.get(view.number), (view.state, view.epoch)
            if now != ("waiting", 0) and (before is None or now != (before.state, before.epoch)):
                yield f"trial {view.number} {describe(view, snapshot)}"


def _of_before(snapshot: StudyProgress) -> dict[int, TrialProgress]:
    """The trials of a first snapshot that were begun before this search."""
    return {view.number: view for view in snapshot.trials if view.epoch > 0 or not view.is_unfinished}


def resumed(snapshot: StudyProgress) -> list[str]:
    """A line for each trial that continues where it stopped: `resuming trial 0 (epoch 11 of 30)`."""
    begun = [view for view in snapshot.trials if view.state in ("running", "waiting") and view.epoch]
    return [f"resuming trial {view.number} (epoch {view.epoch + 1} of {view.n_epochs})" for view in begun]


def build_view(snapshot: StudyProgress) -> Group:
    """The headline, the table, and what the running trials do at this moment."""
    running = [Text(running_line(view), style="dim") for view in snapshot.trials if view.state == "running"]
    return Group(Text(headline(snapshot), style="bold"), build_table(snapshot), *running[:MAX_ROWS])


def running_line(view: TrialProgress) -> str:
    """`trial 1: step 31 of 50, 412 images/s, lr 0.002, dropout 0.4`."""
    steps = view.steps
    now = [f"step {steps.step} of {steps.n_steps}, {steps.images_per_s:.0f} images/s"] if steps else []
    names = short_names(list(view.params))
    values = [number(value) if isinstance(value, float) else str(value) for value in view.params.values()]
    settings = [f"{name} {value}" for name, value in zip(names, values, strict=True)]
    return f"trial {view.number}: {', '.join([*now, *settings]) or 'begins'}"


def build_table(snapshot: StudyProgress) -> Table:
    """The last trials of a study, and all that are not over; narrow enough for 80 columns."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("trial", "state", "epoch", f"best {snapshot.monitor}", "time"):
        table.add_column(name, justify="left" if name == "state" else "right", overflow="fold")
    older = [view for view in snapshot.trials[:-MAX_ROWS] if view.is_unfinished]
    for view in (*older, *snapshot.trials[-MAX_ROWS:]):
        table.add_row(
            str(view.number),
            Text.from_ansi(painted_state(_state(view), sys.stderr)),
            _epoch(view),
            number(view.value),
            duration(view.seconds),
        )
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
