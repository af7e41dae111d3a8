"""What one worker process runs, however it was started."""

from __future__ import annotations

import logging
import os
import platform
import secrets
import signal
import threading
from contextlib import closing
from pathlib import Path

from attnsearch.data.loader import DataSource
from attnsearch.errors import DONE, INTERRUPTED, TRANSIENT, AttnSearchError, TransientError
from attnsearch.search.context import Worker
from attnsearch.search.handle import StudyHandle
from attnsearch.search.launchers.devices import joined_devices
from attnsearch.search.launchers.standby import imports_frozen
from attnsearch.search.plan import SearchPlan
from attnsearch.search.slots import name_on_gpu
from attnsearch.search.worker import run_worker
from attnsearch.store.urls import hide
from attnsearch.types import URL_VARIABLE

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def worker_name() -> str:
    """The name of this process in the leases: host, process, a random part, which no two workers share, and its GPU."""
    return name_on_gpu(f"{platform.node()}:{os.getpid()}:{secrets.token_hex(4)}")


def run_process(study_yaml: Path, parent: int, started_at: float) -> tuple[int, str]:
    """One worker process: joins the search that started it and runs trials until nothing is left to do.

    SIGINT and SIGTERM ask it to end; its trial returns to the queue.

    Args:
        parent: process id of the search; the worker ends when it is gone.
        started_at: of the search, UTC seconds since 1970.
    Returns:
        The exit code, and in one line the error that ended the worker, empty without one: what the search reports.
    """
    stop = threading.Event()
    for number in STOP_SIGNALS:
        signal.signal(number, lambda _signal, _frame: stop.set())
    try:
        _work(study_yaml, Worker(worker_name(), parent, stop), started_at)
    except Exception as error:
        logger.warning("this worker ends with an error", exc_info=True)
        return _explain(error)
    return (INTERRUPTED if stop.is_set() else DONE), ""


def _work(study_yaml: Path, worker: Worker, started_at: float) -> None:
    plan = SearchPlan.reopen(study_yaml, storage=os.environ.get(URL_VARIABLE))
    handle = plan.join()
    with imports_frozen(), closing(handle.database):
        run_on_devices(handle, worker, plan.open_data(), started_at=started_at)


def run_on_devices(handle: StudyHandle, worker: Worker, data: DataSource, *, started_at: float) -> None:
    """`run_worker` with the processes of all devices that a trial of the study trains on.

    Raises:
        AttnSearchError: as `run_worker`, and a process that ended before it joined.
    """
    with joined_devices(handle.loaded.experiment.runtime) as worker.ranks:
        run_worker(handle, worker, data, started_at=started_at)


def _explain(error: Exception) -> tuple[int, str]:
    """The exit code, another one where the next worker may not meet the error, and the error in one line."""
    if not isinstance(error, AttnSearchError):
        return TRANSIENT, hide(f"unexpected {type(error).__name__}: {' '.join(str(error).split())}")
    code = TRANSIENT if isinstance(error, TransientError) else error.exit_code
    return code, hide("; ".join(line.strip() for line in str(error).splitlines()))
