"""The interface between a search and what runs its trials, such as processes on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class WorkerOrders:
    """What one worker process runs.

    Attributes:
        study_yaml: of the folder of a study that was begun.
        overrides: `key=value` settings of this machine, see `MACHINE_SETTINGS`.
        storage: URL of the database; None is what the environment names, else the study.
        parent: process id of the search that it belongs to: it ends with it, and leaves the publication to it. None for
            a worker that was started by itself.
        until_idle: whether it ends as soon as it would have to wait for the trials of others.
        stop_after_s: seconds after which it returns its trial to the queue.
    """

    study_yaml: Path
    overrides: tuple[str, ...] = ()
    storage: str | None = None
    parent: int | None = None
    until_idle: bool = False
    stop_after_s: float | None = None


class Launcher(Protocol):
    """The workers of one study.

    Nothing runs before `start`; from then on `stop` ends all that was started, whatever error or signal came.
    """

    def start(self) -> None:
        """Starts all workers."""
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
