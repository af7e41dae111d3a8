"""Runs the trials of a study in this process, one after the other: for `train`, notebooks and tests."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait

from attnsearch.data.loader import DataSource
from attnsearch.search.context import Worker
from attnsearch.search.handle import StudyHandle
from attnsearch.search.launchers import local
from attnsearch.search.worker import run_worker


class InProcess:
    """One worker in a thread, so that the search still hears signals and shows progress.

    Parts that a notebook or a script registers in `__main__` are known here, and to no other process.

    Args:
        data: opened from the study's experiment.
    """

    def __init__(self, handle: StudyHandle, data: DataSource) -> None:
        self._handle, self._data = handle, data
        self._worker = Worker(local.worker_name(), None)
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="attnsearch-worker")
        self._work: Future[None] | None = None

    def start(self, started_at: float) -> None:
        """Starts the thread."""
        self._work = self._threads.submit(run_worker, self._handle, self._worker, self._data, started_at=started_at)

    def is_working(self) -> bool:
        """Whether the thread runs.

        Raises:
            AttnSearchError: what ended it.
        """
        if self._work is None or not self._work.done():
            return self._work is not None
        self._work.result()
        return False

    def stop(self) -> None:
        """Asks the thread to return its trial to the queue, and waits until it has."""
        self._worker.stop.set()
        if self._work is not None:
            wait([self._work])
        self._threads.shutdown()

    def is_dead(self, worker: str) -> bool:
        """As for other workers of this machine, but this one is gone when its thread has ended."""
        if worker == self._worker.name:
            return self._work is None or self._work.done()
        return local.is_dead(worker)
