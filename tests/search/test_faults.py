"""Searches survive what happens to processes: kills, signals, sleeps, other writers."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pandas as pd
import pytest

from attnsearch.store.epochs import read_csv
from tests.search.faults import Harmed, polling, wait_for
from tests.search.studies import ON_EACH_DATABASE

pytestmark = pytest.mark.slow


@pytest.fixture
def harmed(tmp_path: Path, backend: str, request: pytest.FixtureRequest) -> Harmed:
    server = str(request.getfixturevalue("postgres_url")) if backend == "postgresql" else None
    harmed = Harmed(tmp_path, n_trials=2, n_epochs=8, server=server)
    harmed.write()
    return harmed


@ON_EACH_DATABASE
def test_killed_worker_loses_no_trial_and_no_epoch(harmed: Harmed) -> None:
    search = harmed.start()
    trial, epoch, pid = harmed.in_mid_trial()
    os.kill(pid, signal.SIGKILL)
    assert harmed.finish(search) == 0
    assert harmed.problems() == []
    assert harmed.attempts(trial) == 2
    assert "resumes after epoch" in harmed.log(trial)
    assert epoch >= 1


def test_killed_supervisor_is_replaced_by_the_next_start(harmed: Harmed) -> None:
    search = harmed.start()
    trial, _, _ = harmed.in_mid_trial()
    os.kill(search.pid, signal.SIGKILL)
    search.wait()
    assert harmed.finish(harmed.start()) == 0
    assert harmed.problems() == []
    assert harmed.attempts(trial) == 2


def test_killed_training_continues_its_trial_as_if_nothing_had_happened(tmp_path: Path) -> None:
    killed, undisturbed = (Harmed(tmp_path / name, n_trials=1, n_epochs=8) for name in ("killed", "undisturbed"))
    for one in (killed, undisturbed):
        one.write_training()
    training = killed.start_training()
    trial, _, pid = killed.in_mid_trial()
    assert (trial, pid) == (0, training.pid)  # it trains in its own process
    os.kill(training.pid, signal.SIGKILL)
    training.wait()
    for one in (killed, undisturbed):
        assert one.finish(one.start_training()) == 0
        assert one.problems() == []
    assert [one.attempts(0) for one in (killed, undisturbed)] == [2, 1]
    assert "resumes after epoch" in killed.log(0)
    costs = ["seconds", "images_per_s", "peak_memory_mb"]
    epochs = [read_csv(one.layout.trial(0).epochs_csv).drop(columns=costs) for one in (killed, undisturbed)]
    assert {"train_loss", "val_loss", "val_accuracy"} <= set(epochs[0].columns)
    pd.testing.assert_frame_equal(*epochs, check_exact=True)


def test_stopped_search_returns_its_trials_and_goes_on(harmed: Harmed) -> None:
    search = harmed.start()
    trial, _, _ = harmed.in_mid_trial()
    search.send_signal(signal.SIGTERM)
    assert harmed.finish(search) == 130
    assert {row.state for row in harmed.rows().trials} <= {"waiting", "complete"}
    assert harmed.rows().trials[trial].state == "waiting"
    assert harmed.finish(harmed.start()) == 0
    assert harmed.problems() == []
    assert "resumes after epoch" in harmed.log(trial)


def test_worker_that_slept_through_its_lease_overwrites_nothing(tmp_path: Path) -> None:
    harmed = Harmed(tmp_path, n_trials=2, n_epochs=12)
    harmed.write(lease_s=2.0)
    search = harmed.start()
    trial, _, pid = harmed.in_mid_trial()
    harmed.pause(pid)
    try:
        wait_for(
            lambda: True if harmed.attempts(trial) == 2 or harmed.rows().trials[trial].state == "complete" else None
        )
    finally:
        os.kill(pid, signal.SIGCONT)
    assert harmed.finish(search) == 0
    assert harmed.problems() == []
    assert (
        "was taken over"
        in (harmed.layout.study_dir / "worker0.log").read_text() + (harmed.layout.study_dir / "worker1.log").read_text()
    )


def test_enqueued_trials_run_once_each_under_many_workers_and_a_reader(tmp_path: Path) -> None:
    points = [{"train.optimizer.lr": round(1e-4 * (1 + index), 7)} for index in range(12)]
    harmed = Harmed(tmp_path, n_trials=len(points), n_epochs=1)
    harmed.write(n_images=4, n_workers=3, enqueue=points)
    with polling(harmed) as errors:
        assert harmed.finish(harmed.start()) == 0
    assert errors == []
    assert harmed.problems() == []
    drawn = sorted(trial.params["train.optimizer.lr"] for trial in harmed.rows().trials)
    assert drawn == [point["train.optimizer.lr"] for point in points]


def test_second_search_of_a_running_study_is_refused(tmp_path: Path) -> None:
    harmed = Harmed(tmp_path, n_trials=2, n_epochs=1000)
    harmed.write()
    search = harmed.start()
    try:
        harmed.in_mid_trial()
        written = harmed.layout.study_yaml.read_text()
        assert harmed.finish(harmed.start("n_trials=1")) == 1
        assert "another process runs this study" in (harmed.folder / "search.log").read_text()
        assert harmed.layout.study_yaml.read_text() == written  # workers that are started again read it
    finally:
        search.terminate()
        assert harmed.finish(search) == 130
