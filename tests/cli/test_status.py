"""What `attnsearch status` prints."""

from __future__ import annotations

import json

import pytest

from attnsearch.cli.status import _cells, status_lines
from attnsearch.results.status import StudyStatus, WorkerStatus
from tests.cli.conftest import Run

WORKER = WorkerStatus("node1", 4711, "GPU-7", 3, 5, 20, 240.0)
STATUS = StudyStatus("CUB/hunt", "running", 7, 25, 4, 1, (WORKER,), 360.0, 1800.0, 9000.0, 16_000.0, 1.25, 2)


def test_status_reads_as_sentences() -> None:
    assert status_lines(STATUS) == [
        "study CUB/hunt: running, 7 of 25 trials done, 4 paused, 1 waiting",
        "  now        1 worker on 1 machine, 360 epochs per hour, about 30 min left",
        "  cost       2.50 worker hours so far, epochs take 1.25 times as long as in the dry run",
        "  test       2 evaluations",
    ]


@pytest.mark.parametrize(
    ("worker", "cells"),
    [
        (WORKER, ("node1", "4711", "GPU-7", "3", "5/20", "4 min")),
        (
            WorkerStatus("node2", None, None, None, 0, 0, -3.0),
            ("node2", "?", "-", "publishes", "", "over: any worker takes the trial"),
        ),
    ],
)
def test_workers_are_rows(worker: WorkerStatus, cells: tuple[str, ...]) -> None:
    assert _cells(worker) == cells


def test_a_finished_study_is_shown_once(run: Run) -> None:
    (line,) = run("status", "loupe", "--watch", "--json")
    found = json.loads(line)
    assert (found["state"], found["workers"], found["machines"]) == ("finished", [], [])
    assert found["seconds_left"] is None
    assert run("status", "loupe")[0] == "study demo/loupe: finished, 1 of 1 trials done"
