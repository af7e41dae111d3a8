"""What one worker process runs, however it was started."""

from __future__ import annotations

import logging
import os
import platform
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from attnsearch.errors import DONE, INTERRUPTED, TRANSIENT, AttnSearchError, TransientError, TrialInterrupted
from attnsearch.processes import ProcessName
from attnsearch.search.conclusion import conclude, explain_end
from attnsearch.search.context import Worker
from attnsearch.search.handle import StudyHandle
from attnsearch.search.launchers import WorkerOrders
from attnsearch.search.launchers.devices import run_on_devices
from attnsearch.search.launchers.standby import imports_frozen
from attnsearch.search.membership import join_study, seconds_left
from attnsearch.search.plan import SearchPlan
from attnsearch.search.queue import has_failed, is_over
from attnsearch.search.slots import name_on_gpu
from attnsearch.store.urls import hide
from attnsearch.types import URL_VARIABLE

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def worker_name() -> str:
    """The name of this process in the leases: host, process, a random part, which no two workers share, and its GPU."""
    return name_on_gpu(f"{platform.node()}:{ProcessName.of_this_process()}:{secrets.token_hex(4)}")


def run_process(orders: WorkerOrders) -> tuple[int, str]:
    """One worker process: joins a study that was begun and runs trials until nothing is left to do.

    SIGINT and SIGTERM ask it to end; its trial returns to the queue.

    Returns:
        The exit code, and in one line the error that ended the worker, empty without one: what the search reports.
    """
    worker = Worker(worker_name(), orders.parent)
    for number in STOP_SIGNALS:
        signal.signal(number, lambda _signal, _frame: worker.stop.set())
    try:
        return work(orders, worker), ""
    except Exception as error:
        logger.warning("this worker ends with an error", exc_info=True)
        return _explain(error)


def work(orders: WorkerOrders, worker: Worker) -> int:
    """The work of a worker, in any thread of any process; `worker.stop` ends it.

    One that belongs to no search also ends the study: it publishes where no trial, or no time of the study, is left.

    Returns:
        The exit code: `DONE`, `INTERRUPTED`, or `TRANSIENT` where its own time was up before the study was over.
    Raises:
        AttnSearchError: the study cannot be joined, or an error that is not one of a trial's setting.
        SearchStopped: trials of the study failed one after the other.
    """
    plan = SearchPlan.reopen(
        orders.study_yaml, storage=orders.storage or os.environ.get(URL_VARIABLE), overrides=orders.overrides
    )
    handle = join_study(plan)
    with imports_frozen(), closing(handle.database), _time_limit(handle, worker, orders) as ended_by:
        data = plan.open_data()
        run_on_devices(handle, worker, data, until_idle=orders.until_idle)
        has_ended_study = ended_by == [DONE]
        if has_ended_study:
            worker.stop = threading.Event()  # a signal may still end what follows
        if orders.parent is None and not worker.stop.is_set():
            if has_failed(handle):
                raise explain_end(handle)
            if has_ended_study or is_over(handle):
                with suppress(TrialInterrupted):
                    conclude(handle, data, holder=worker.name, should_stop=worker.stop.is_set)
        return TRANSIENT if TRANSIENT in ended_by else INTERRUPTED if worker.stop.is_set() else DONE


@contextmanager
def _time_limit(handle: StudyHandle, worker: Worker, orders: WorkerOrders) -> Iterator[list[int]]:
    """Asks a worker that belongs to no search to stop when its time, or that of the study, is up.

    Yields:
        From then on with one exit code: `TRANSIENT` after its own time, `DONE` after that of the study.
    """
    ended_by: list[int] = []
    limits = [(seconds_left(handle), DONE), (orders.stop_after_s, TRANSIENT)] if orders.parent is None else []
    limit_s, code = min(((limit, code) for limit, code in limits if limit is not None), default=(None, DONE))

    def stop() -> None:
        ended_by.append(code)
        worker.stop.set()

    timer = threading.Timer(max(0.0, limit_s or 0.0), stop)
    timer.daemon = True
    if limit_s is not None:
        timer.start()
    try:
        yield ended_by
    finally:
        timer.cancel()


def _explain(error: Exception) -> tuple[int, str]:
    """The exit code, another one where the next worker may not meet the error, and the error in one line."""
    if not isinstance(error, AttnSearchError):
        return TRANSIENT, hide(f"unexpected {type(error).__name__}: {' '.join(str(error).split())}")
    code = TRANSIENT if isinstance(error, TransientError) else error.exit_code
    return code, hide("; ".join(line.strip() for line in str(error).splitlines()))
