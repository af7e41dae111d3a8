"""What a search says of its end when its workers ended first."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from attnsearch.errors import SearchStopped
from attnsearch.search.handle import StudyHandle
from attnsearch.search.run import supervise

Open = Callable[..., StudyHandle]


class EndedWorkers:
    """A launcher whose workers have all ended without an error, after some trials."""

    def __init__(self, handle: StudyHandle, n_done: int) -> None:
        self._handle, self._n_done = handle, n_done

    def start(self, started_at: float) -> None:
        for _ in range(self._n_done):
            self._handle.study.tell(self._handle.study.ask(), 0.5)

    def is_working(self) -> bool:
        return False

    def stop(self) -> None:
        """Nobody is left."""

    def is_dead(self, worker: str) -> bool:
        return True


@pytest.mark.parametrize(("n_done", "is_stopped", "outcome"), [
    (4, False, "finished"),
    (1, True, "interrupted"),  # a signal to the whole group reached them first
])  # fmt: skip
def test_search_whose_workers_ended_early_is_not_finished(
    open_tiny: Open, n_done: int, is_stopped: bool, outcome: str
) -> None:
    handle = open_tiny(n_trials=4)
    launcher = EndedWorkers(handle, n_done)
    assert supervise(handle, launcher, should_stop=lambda: is_stopped, tick=lambda _handle: None) == outcome


def test_workers_that_all_left_are_no_interruption(open_tiny: Open) -> None:
    handle = open_tiny(n_trials=4)
    with pytest.raises(SearchStopped, match=r"all workers ended by themselves after 1 of 4 trials"):
        supervise(handle, EndedWorkers(handle, 1), should_stop=lambda: False, tick=lambda _handle: None)


def test_stopped_search_starts_no_worker_again(open_tiny: Open) -> None:
    looks: list[str] = []

    class SignalledWorkers(EndedWorkers):
        """Workers that the signal has ended too, and that would be started again if anyone looked."""

        def is_working(self) -> bool:
            looks.append("started again")
            return True

    handle = open_tiny()
    launcher = SignalledWorkers(handle, 0)
    outcome = supervise(handle, launcher, should_stop=lambda: True, tick=lambda _handle: None)
    assert (outcome, looks) == ("interrupted", [])
