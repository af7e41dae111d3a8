"""What a person sees of a running search, and what Ctrl-C does."""

from __future__ import annotations

import io
import logging
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from optuna.trial import TrialState
from rich.console import Console

from attnsearch.cli._console import duration, number, size
from attnsearch.cli._progress import (
    LineView,
    Watcher,
    build_table,
    headline,
)
from attnsearch.cli._signals import StopRequest, signals_to
from attnsearch.results.progress import StudyProgress, TrialProgress, epochs_left, trials_of
from attnsearch.search.handle import StudyHandle
from attnsearch.types import EpochRecord
from tests.search.conftest import backend, empty_database, make_database, open_tiny

__all__ = ["backend", "empty_database", "make_database", "open_tiny"]

RUNNING = TrialProgress(number=1, state="running", epoch=2, n_epochs=8, value=0.5, seconds=31.0)
DONE = TrialProgress(number=0, state="complete", epoch=8, n_epochs=8, value=0.75, seconds=120.0)
SNAPSHOT = StudyProgress("hunt", "val/accuracy", (DONE, RUNNING), n_done=1, n_trials=4, seconds_left=330.0)


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def validation(epoch: int, accuracy: float) -> EpochRecord:
    return EpochRecord(epoch, "val", 4, 0.7, {}, {"accuracy": accuracy}, 0.01, 1.0, 4.0, 10.0)


def test_epochs_left_are_those_of_begun_and_of_new_trials() -> None:
    # one done, one with 8 - 2 left, and 4 - 2 that have not begun, of 10 epochs each
    assert epochs_left((DONE, RUNNING), n_trials=4, n_epochs=10) == 6 + 2 * 10


def test_enqueued_trials_beyond_the_budget_take_no_time() -> None:
    waiting = replace(RUNNING, number=2, state="waiting", epoch=0)
    assert epochs_left((waiting, RUNNING), n_trials=1, n_epochs=10) == 6  # the running one comes first
    assert epochs_left((DONE, waiting), n_trials=1, n_epochs=10) == 0


def test_failed_trials_do_not_count_towards_the_budget() -> None:
    failed = replace(DONE, state="fail", epoch=3)
    assert epochs_left((failed,), n_trials=2, n_epochs=10) == 20


def test_headline_tells_progress_and_time_left() -> None:
    assert headline(SNAPSHOT) == "study hunt: 1 of 4 trials done, about 6 min left"
    assert headline(replace(SNAPSHOT, seconds_left=None)) == "study hunt: 1 of 4 trials done"


def test_table_has_a_row_for_each_trial() -> None:
    console = Console(file=io.StringIO(), width=100)
    console.print(build_table(SNAPSHOT))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    rows = [line.split() for line in text.splitlines() if line.split()[:1] in (["0"], ["1"])]
    assert rows == [["0", "complete", "8/8", "0.75", "2", "min"], ["1", "running", "2/8", "0.5", "31", "s"]]


def test_table_of_a_long_study_shows_the_last_trials_and_those_that_run() -> None:
    views = tuple(replace(RUNNING if index == 3 else DONE, number=index) for index in range(60))
    table = build_table(replace(SNAPSHOT, trials=views))
    assert list(table.columns[0].cells) == ["3", *map(str, range(40, 60))]


def test_lines_tell_what_is_new_and_nothing_twice(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "attnsearch")
    view = LineView()
    view.show(SNAPSHOT)
    view.show(SNAPSHOT)
    failed = replace(RUNNING, state="fail", epoch=0, error="loss became NaN")
    view.show(replace(SNAPSHOT, trials=(DONE, replace(RUNNING, epoch=3))))
    view.show(replace(SNAPSHOT, trials=(DONE, failed)))
    assert caplog.messages == [
        "trial 1 running, epoch 2/8, best val/accuracy 0.5",
        "trial 1 running, epoch 3/8, best val/accuracy 0.5",
        "trial 1 failed: loss became NaN",
    ]


def test_end_of_a_trial_is_a_line_with_the_progress(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "attnsearch")
    view = LineView()
    view.show(replace(SNAPSHOT, trials=(replace(DONE, state="running"),)))
    view.show(replace(SNAPSHOT, trials=(DONE,)))
    assert caplog.messages[-1] == (
        "trial 0 complete, epoch 8/8, best val/accuracy 0.75, 2 min; study hunt: 1 of 4 trials done, about 6 min left"
    )


def test_view_reads_running_trials_from_the_records(open_tiny: Callable[..., StudyHandle]) -> None:
    handle = open_tiny()
    for accuracies in ((0.25, 0.75, 0.5), (0.5,)):
        trial = handle.study.ask()
        records = [validation(epoch, accuracy) for epoch, accuracy in enumerate(accuracies, 1)]
        handle.store.write_epochs(trial.number, records, attempt=None)
    ended = handle.study.ask()
    for key, value in {"epochs_run": 2, "seconds": 9.5, "val/accuracy": 1.0}.items():
        ended.set_user_attr(key, value)
    handle.study.tell(ended, 1.0)
    views = trials_of(handle)
    assert [(v.number, v.state, v.epoch, v.n_epochs, v.value) for v in views] == [
        (0, "running", 3, 2, 0.75),
        (1, "running", 1, 2, 0.5),
        (2, "complete", 2, 2, 1.0),
    ]
    assert views[2].seconds == 9.5


def test_view_of_a_loss_shows_the_smallest(open_tiny: Callable[..., StudyHandle]) -> None:
    handle = open_tiny(monitor="val/loss", objectives={"val/loss": "minimize"})
    trial = handle.study.ask()
    records = [replace(validation(epoch, 0.5), loss=loss) for epoch, loss in ((1, 0.4), (2, 0.9))]
    handle.store.write_epochs(trial.number, records, attempt=None)
    assert trials_of(handle)[0].value == 0.4


def test_time_left_follows_the_epochs_of_this_run(open_tiny: Callable[..., StudyHandle]) -> None:
    handle, clock, shown = open_tiny(n_trials=2), Clock(), list[StudyProgress]()
    watcher = Watcher(shown.append, every_s=1.0, clock=clock)
    trial = handle.study.ask()
    watcher(handle)
    clock.now += 0.5
    watcher(handle)  # too early for another one
    clock.now += 9.5
    handle.store.write_epochs(trial.number, [validation(1, 0.5)], attempt=None)
    watcher(handle)
    # 10 s for one epoch; one is left of this trial and two of the other
    assert [snapshot.seconds_left for snapshot in shown] == [None, pytest.approx(30.0)]


def test_watcher_has_nothing_to_refresh_before_the_first_tick() -> None:
    shown: list[StudyProgress] = []
    Watcher(shown.append).refresh()
    assert shown == []


def test_waiting_trials_take_no_time(open_tiny: Callable[..., StudyHandle]) -> None:
    handle = open_tiny(enqueue=[{"train.optimizer.lr": 1e-3}])
    assert [(view.state, view.seconds) for view in trials_of(handle)] == [("waiting", 0.0)]
    assert handle.trials(TrialState.WAITING)


def test_first_signal_asks_and_second_ends(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    stop = StopRequest("stopping: wait", clock=clock)
    assert not stop.is_asked()
    with signals_to(stop.take):
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_asked()
        assert stop.is_asked()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert caplog.messages == ["stopping: wait"]


@pytest.mark.parametrize("polled_s_ago", [6.0, None])
def test_signal_ends_at_once_while_nobody_can_stop_cleanly(polled_s_ago: float | None) -> None:
    clock = Clock()
    stop = StopRequest("stopping", clock=clock)
    if polled_s_ago is not None:
        stop.is_asked()
        clock.now += polled_s_ago
    with signals_to(stop.take), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with signals_to(StopRequest("stopping").take):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


CASES: list[tuple[Callable[[Any], str], float | None, str]] = [
    (duration, 4.4, "4 s"),
    (duration, 99.4, "99 s"),
    (duration, 100.0, "2 min"),
    (duration, 12_000.0, "3 h 20 min"),
    (number, 0.123456, "0.1235"),
    (number, float("nan"), "-"),
    (number, None, "-"),
    (size, 1500, "1.5 KB"),
    (size, 2_500_000, "2.5 MB"),
    (size, 3_210_000_000, "3.21 GB"),
]


@pytest.mark.parametrize(("form", "value", "text"), CASES)
def test_numbers_are_short(form: Callable[[Any], str], value: float | None, text: str) -> None:
    assert form(value) == text
