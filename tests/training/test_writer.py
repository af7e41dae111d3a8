"""Writes beside training: in order, with copies of their own, and what becomes of their errors."""

from __future__ import annotations

import threading

import pytest
import torch

from attnsearch.errors import StoreError, TrialInterrupted, TrialPaused, TrialPruned
from attnsearch.training.writer import BackgroundWriter, copy_to_cpu


def refuse() -> None:
    raise StoreError("the disk is full")


def test_writes_follow_each_other_in_another_thread() -> None:
    seen: list[tuple[int, bool]] = []
    is_first_done = threading.Event()

    def note(number: int) -> None:
        if number == 1:
            is_first_done.wait(0.05)
        seen.append((number, threading.current_thread() is threading.main_thread()))

    with BackgroundWriter(lambda: None) as writer:
        for number in (1, 2, 3):
            writer.write(lambda number=number: note(number))  # type: ignore[misc]
    assert seen == [(1, False), (2, False), (3, False)]


def test_error_of_a_write_comes_with_the_next_one() -> None:
    writer = BackgroundWriter(lambda: None)
    writer.write(refuse)
    with pytest.raises(StoreError, match="the disk is full"):
        writer.write(lambda: None)
    writer.check()  # it was said once


def test_error_of_a_write_comes_with_a_check_once_it_has_ended() -> None:
    writer = BackgroundWriter(lambda: None)
    writer.write(refuse)
    assert writer._pending is not None
    assert writer._pending.exception() is not None
    with pytest.raises(StoreError, match="the disk is full"):
        writer.check()


def test_check_is_that_of_the_trial() -> None:
    def stop() -> None:
        raise TrialInterrupted

    with pytest.raises(TrialInterrupted):
        BackgroundWriter(stop).check()


def run_with_a_refused_write(outcome: type[Exception] | None) -> None:
    """A training that ends with `outcome`."""
    with BackgroundWriter(lambda: None) as writer:
        writer.write(refuse)
        if outcome is not None:
            raise outcome


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [(None, StoreError), (TrialPruned, StoreError), (TrialPaused, StoreError), (TrialInterrupted, TrialInterrupted)],
)
def test_last_error_comes_at_the_end_where_the_trial_itself_has_none(
    outcome: type[Exception] | None, expected: type[Exception]
) -> None:
    with pytest.raises(expected):
        run_with_a_refused_write(outcome)


def test_error_of_the_last_write_is_logged_where_another_one_ends_the_trial(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(TrialInterrupted):
        run_with_a_refused_write(TrialInterrupted)
    assert caplog.messages == ["the files of the last epoch were not written either: the disk is full"]


def test_copies_do_not_follow_what_they_were_made_from() -> None:
    weight = torch.arange(4.0).reshape(1, 2, 2, 1).contiguous(memory_format=torch.channels_last)
    state = {"model": {"weight": weight}, "optimizer": {"groups": [{"lr": 0.5, "steps": [torch.ones(1)]}]}}
    copied, wait = copy_to_cpu(state, torch.device("cpu"))
    wait()
    weight.add_(1)
    state["optimizer"]["groups"][0]["steps"][0].zero_()  # type: ignore[index]
    torch.testing.assert_close(copied["model"]["weight"].flatten(), torch.arange(4.0))
    assert copied["model"]["weight"].is_contiguous(memory_format=torch.channels_last)
    assert copied["optimizer"] == {"groups": [{"lr": 0.5, "steps": [torch.ones(1)]}]}
