"""What a search says of its end when its workers ended first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import attnsearch.search.run as module
from attnsearch.errors import SearchStopped
from attnsearch.search.handle import StudyHandle
from attnsearch.search.run import supervise

Open = Callable[..., StudyHandle]


@pytest.mark.parametrize(("n_done", "is_stopped", "outcome"), [
    (4, False, "finished"),
    (1, True, "interrupted"),  # a signal to the whole group reached them first
])  # fmt: skip
def test_search_whose_workers_ended_early_is_not_finished(
    open_tiny: Open, monkeypatch: pytest.MonkeyPatch, n_done: int, is_stopped: bool, outcome: str
) -> None:
    session = open_tiny(n_trials=4)
    monkeypatch.setattr(module, "WorkerPool", ended_crew(session, n_done))
    assert supervise(session, n_workers=1, should_stop=lambda: is_stopped, tick=lambda _session: None) == outcome


def test_workers_that_all_left_are_no_interruption(open_tiny: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    session = open_tiny(n_trials=4)
    monkeypatch.setattr(module, "WorkerPool", ended_crew(session, 1))
    with pytest.raises(SearchStopped, match=r"all workers ended by themselves after 1 of 4 trials"):
        supervise(session, n_workers=1, should_stop=lambda: False, tick=lambda _session: None)


def ended_crew(session: StudyHandle, n_done: int) -> type:
    class EndedCrew:
        """Workers that have all ended without an error, after some trials."""

        def __init__(self, _session: StudyHandle, **_settings: Any) -> None:
            for _ in range(n_done):
                session.study.tell(session.study.ask(), 0.5)

        def start(self) -> None:
            """They have run already."""

        def is_working(self) -> bool:
            return False

        def stop(self) -> None:
            """Nobody is left."""

    return EndedCrew


def test_stopped_search_starts_no_worker_again(open_tiny: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []

    class SignalledCrew:
        """Workers that the signal has ended too, and that would be started again if anyone looked."""

        def __init__(self, _session: StudyHandle, **_settings: Any) -> None:
            pass

        def start(self) -> None:
            """They run already."""

        def is_working(self) -> bool:
            looks.append("started again")
            return True

        def stop(self) -> None:
            """Nobody is left."""

    monkeypatch.setattr(module, "WorkerPool", SignalledCrew)
    outcome = supervise(open_tiny(), n_workers=1, should_stop=lambda: True, tick=lambda _session: None)
    assert (outcome, looks) == ("interrupted", [])
