"""The interface between a search and what runs its trials, such as processes on this machine."""

from __future__ import annotations

from typing import Protocol


class Launcher(Protocol):
    """The workers of one study.

    Nothing runs before `start`; from then on `stop` ends all that was started, whatever error or signal came.
    """

    def start(self, started_at: float) -> None:
        """Starts all workers.

        Args:
            started_at: of the search, UTC seconds since 1970; failures before it do not count.
        """
        ...

    def is_working(self) -> bool:
        """Whether any worker still has, or may get, something to do; asked several times a second.

        Raises:
            AttnSearchError: a worker met an error that no other one can pass.
        """
        ...

    def stop(self) -> None:
        """Ends all workers; their trials return to the queue."""
        ...

    def is_dead(self, worker: str) -> bool:
        """Whether the worker of this name, out of a lease, is known to be gone."""
        ...
