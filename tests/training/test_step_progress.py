"""The small file that says how far the running epoch is."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest

from attnsearch.results.progress import EpochSteps, read_steps
from attnsearch.training.step_progress import EVERY_S, StepProgress


class Clock:
    """Seconds that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_steps_and_speed_are_written_every_few_seconds_and_gone_at_the_end(tmp_path: Path) -> None:
    clock, path, checks = Clock(), tmp_path / "progress.json", []
    steps = StepProgress(path, lambda: checks.append(1), clock=clock)
    with steps.epoch(3, n_steps=10, batch_size=8) as check:
        for index in range(5):
            check()
            assert path.exists() == (index == 4)
            clock.now += EVERY_S / 4 if index < 3 else EVERY_S
        assert read_steps(path) == EpochSteps(
            epoch=3, step=4, n_steps=10, images_per_s=4 * 8 / (0.75 * EVERY_S + EVERY_S)
        )
    assert len(checks) == 5
    assert not path.exists()
    assert read_steps(path) is None


def test_an_epoch_that_fails_leaves_no_file(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "progress.json"
    steps = StepProgress(path, lambda: None, clock=clock)
    with suppress(ZeroDivisionError), steps.epoch(1, n_steps=2, batch_size=1) as check:
        clock.now += EVERY_S
        check()
        assert path.exists()
        raise ZeroDivisionError
    assert not path.exists()


def test_a_disk_that_refuses_costs_the_trial_nothing(tmp_path: Path) -> None:
    clock, checks = Clock(), []
    steps = StepProgress(tmp_path / "no/such/progress.json", lambda: checks.append(1), clock=clock)
    with steps.epoch(1, n_steps=2, batch_size=1) as check:
        for _ in range(2):
            clock.now += EVERY_S
            check()
    assert len(checks) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"epoch": "x"}', json.dumps({"epoch": 1})])
def test_a_damaged_file_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "progress.json").write_text(text)
    assert read_steps(tmp_path / "progress.json") is None
