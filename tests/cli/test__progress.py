"""What a person sees of a running search: a table, or lines."""

from __future__ import annotations

import io
import logging
from dataclasses import replace

import pytest
from rich.console import Console

from attnsearch.cli._progress import LineView, build_table, build_view, headline, resumed, running_line
from attnsearch.results.progress import EpochSteps, StudyProgress, TrialProgress
from attnsearch.search.standings import Standing

RUNNING = TrialProgress(number=1, state="running", epoch=2, n_epochs=8, value=0.5, seconds=31.0)
DONE = TrialProgress(number=0, state="complete", epoch=8, n_epochs=8, value=0.75, seconds=120.0)
PAUSED = replace(RUNNING, number=2, state="paused", standing=Standing(1, 1, 2, 5, 9))
SNAPSHOT = StudyProgress("hunt", "val/accuracy", (DONE, RUNNING), n_trials=4, seconds_left=330.0)


def test_headline_tells_progress_and_time_left() -> None:
    assert headline(SNAPSHOT) == "study hunt: 1 of 4 trials done, about 6 min left"
    assert headline(replace(SNAPSHOT, seconds_left=None)) == "study hunt: 1 of 4 trials done"
    paused = replace(SNAPSHOT, trials=(DONE, RUNNING, PAUSED))
    assert headline(paused) == "study hunt: 1 of 4 trials done, 1 paused, about 6 min left"


def test_paused_trial_says_where_it_waits(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "attnsearch")
    view = LineView()
    view.show(replace(SNAPSHOT, trials=(replace(PAUSED, state="running", epoch=1, standing=None),)))
    view.show(replace(SNAPSHOT, trials=(PAUSED,)))
    pruned = replace(PAUSED, state="pruned")
    view.show(replace(SNAPSHOT, trials=(pruned,), seconds_left=None))
    assert caplog.messages[1:] == [
        "trial 2 paused at epoch 2, rung 1, place 5 of 9, best val/accuracy 0.5",
        "trial 2 pruned at epoch 2, rung 1, place 5 of 9, best val/accuracy 0.5, 31 s; study hunt: 1 of 4 trials done",
    ]
    table = build_table(replace(SNAPSHOT, trials=(PAUSED,)))
    assert list(map(str, table.columns[1].cells)) == ["paused, place 5 of 9"]


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
        "resuming trial 1 (epoch 3 of 8)",
        "trial 1 running, epoch 3/8, best val/accuracy 0.5",
        "trial 1 failed: loss became NaN",
    ]


def test_a_trial_that_begins_is_news() -> None:
    view, begun = LineView(), replace(RUNNING, epoch=0, value=None)
    assert resumed(replace(SNAPSHOT, trials=(DONE, begun))) == []
    assert [line.split(",")[0] for line in view._news(replace(SNAPSHOT, trials=(begun,)), {})] == ["trial 1 running"]


def test_running_trials_tell_their_steps_and_hyperparameters() -> None:
    busy = replace(
        RUNNING,
        params={"train.optimizer.lr": 0.00213, "model.n_vectors": 3},
        steps=EpochSteps(epoch=3, step=31, n_steps=50, images_per_s=411.7),
    )
    assert running_line(busy) == "trial 1: step 31 of 50, 412 images/s, lr 0.00213, n_vectors 3"
    assert running_line(RUNNING) == "trial 1: begins"
    console = Console(file=io.StringIO(), width=80)
    console.print(build_view(replace(SNAPSHOT, trials=(DONE, busy))))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0] == "study hunt: 1 of 4 trials done, about 6 min left"
    assert lines[-1] == running_line(busy)
    assert max(map(len, lines)) <= 80


def test_end_of_a_trial_is_a_line_with_the_progress(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "attnsearch")
    view = LineView()
    view.show(replace(SNAPSHOT, trials=(replace(DONE, state="running"),)))
    view.show(replace(SNAPSHOT, trials=(DONE,)))
    assert caplog.messages[-1] == (
        "trial 0 complete, epoch 8/8, best val/accuracy 0.75, 2 min; study hunt: 1 of 4 trials done, about 6 min left"
    )
