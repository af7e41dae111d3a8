"""Workers on this machine: a thread of this process, or a pool of processes that is kept alive."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from attnsearch.config.load import LoadedStudy
from attnsearch.data.loader import DataSource
from attnsearch.device import ASSIGNED_GPU, VISIBLE_GPUS, n_cores
from attnsearch.errors import DONE, FAILED, INTERRUPTED, MISUSED, ConfigError, SearchStopped, StoreError
from attnsearch.search.context import Worker
from attnsearch.search.handle import StudyHandle
from attnsearch.search.launchers import Launcher, WorkerOrders
from attnsearch.search.launchers.devices import run_on_devices
from attnsearch.search.launchers.process import STOP_SIGNALS, run_process, worker_name
from attnsearch.search.launchers.standby import ForkedProcess, Orders, n_asked, take, workers_standing_by
from attnsearch.search.recovery import is_gone, reclaim_lost_trials
from attnsearch.search.slots import describe_sharing, gpu_groups
from attnsearch.types import URL_VARIABLE

logger = logging.getLogger(__name__)

RECOVER_EVERY_S = 5.0
STOP_GRACE_S = 60.0
PAUSES_S = (1.0, 5.0, 30.0)
"""Before an ended worker is replaced, by the number of workers before it that ended without progress."""


def standing_by(loaded: LoadedStudy, n_workers: int | None) -> AbstractContextManager[None]:
    """Keeps the worker processes of a pool ready during the block, see `workers_standing_by`."""
    return workers_standing_by(loaded, n_workers, run_process)


class InProcess:
    """One worker in a thread, so that the search still hears signals and shows progress.

    Parts that a notebook or a script registers in `__main__` are known here, and to no other process.

    Args:
        data: opened from the study's experiment.
    """

    def __init__(self, handle: StudyHandle, data: DataSource) -> None:
        self._handle, self._data = handle, data
        self._worker = Worker(worker_name(), None)
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="attnsearch-worker")
        self._work: Future[None] | None = None

    def start(self) -> None:
        """Starts the thread."""
        self._work = self._threads.submit(run_on_devices, self._handle, self._worker, self._data)

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
        return is_gone(worker)


@dataclass
class WorkerProcess:
    """One worker process, with its pipe and the file of its log."""

    index: int
    popen: subprocess.Popen[str] | ForkedProcess
    log: Path
    started_at: float = field(default_factory=time.monotonic)

    def poll(self) -> int | None:
        """Exit code (negative for a signal), or None while it runs."""
        return self.popen.poll()

    def last_line(self) -> str:
        """The last line that an ended process printed, the error that stopped it; empty without one."""
        text = self.popen.stdout.read() if self.popen.stdout else ""
        return text.strip().splitlines()[-1] if text.strip() else ""

    def close(self) -> None:
        """Waits until an ended or killed process is gone, and releases its pipe."""
        self.popen.wait()
        if self.popen.stdout:
            self.popen.stdout.close()


def start_worker(
    handle: StudyHandle, index: int, *, n_workers: int, gpus: Sequence[str], overrides: tuple[str, ...] = ()
) -> WorkerProcess:
    """Starts worker `index` in a session of its own, so that Ctrl-C reaches the supervisor alone.

    It is one that stands by where there is one left, else a new process of the command `worker`.

    Args:
        gpus: from `gpu_groups`.
        overrides: settings of this machine.
    """
    study, n_threads = handle.loaded.study, threads_of_worker(handle.loaded, n_workers=n_workers)
    environment = worker_environment(study.storage, index, gpus=gpus, n_threads=n_threads)
    path = handle.layout.worker_log(index)
    worker = WorkerOrders(handle.layout.study_yaml, overrides, parent=os.getpid())
    process = take(Orders(worker, environment, path, n_threads))
    return WorkerProcess(index, process or _new_process(worker, environment, path), path)


def threads_of_worker(loaded: LoadedStudy, *, n_workers: int) -> int:
    """Threads of torch in each worker: as the experiment says, or an equal fraction of the cores."""
    return loaded.experiment.runtime.n_threads or max(1, n_cores() // n_workers)


def _new_process(worker: WorkerOrders, environment: dict[str, str], log: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "attnsearch", "worker", str(worker.study_yaml), *worker.overrides]
    with log.open("a", encoding="utf-8") as file:
        return subprocess.Popen(
            [*command, "--parent", str(worker.parent)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            start_new_session=True,
        )


def worker_environment(storage: str | None, index: int, *, gpus: Sequence[str], n_threads: int) -> dict[str, str]:
    """The environment of a worker: a GPU or some cores of its own (shared cores slow all down many times).

    Args:
        storage: the database as the person who started the search wrote it, for the worker to expand; None is the
            experiment's own file, whatever the environment of the search names.
        gpus: from `gpu_groups`; workers are spread over them in turn, and each sees its own alone.
    """
    own = {URL_VARIABLE: storage or "", "OMP_NUM_THREADS": str(n_threads), "MKL_NUM_THREADS": str(n_threads)}
    environment = {**os.environ, **own}
    if gpus:
        environment[VISIBLE_GPUS] = environment[ASSIGNED_GPU] = gpus[index % len(gpus)]
    return environment


@contextmanager
def signals_held() -> Iterator[None]:
    """Holds SIGINT and SIGTERM back during the block; their handlers run right after it.

    For steps that an exception out of a handler must not cut in two, such as starting a process and noting it. Nothing
    is held outside the main thread, where Python runs no handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        for number in STOP_SIGNALS:
            signal.signal(number, lambda arrived, _frame: came.append(arrived))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for held in came:
            signal.raise_signal(held)


@dataclass
class Restarts:
    """Counts workers that ended one after the other while no trial finished an epoch.

    Workers that end together, as by one reset of a driver, count once: only the end of a worker that was started after
    the last counted end counts again.

    Attributes:
        n_epochs: of all trials, when the last end was counted.
    """

    n_epochs: int
    n_fruitless: int = 0
    counted_at: float = -float("inf")

    @property
    def pause_s(self) -> float:
        """How long to wait before the next worker is started."""
        return PAUSES_S[min(self.n_fruitless, len(PAUSES_S) - 1)]

    @property
    def is_useless(self) -> bool:
        """Whether as many ended in a row as there are pauses."""
        return self.n_fruitless >= len(PAUSES_S)

    def count(self, *, started_at: float, now: float, n_epochs: int) -> None:
        """Counts the end at `now` of a worker that was started at `started_at`; seconds of one clock."""
        if n_epochs > self.n_epochs:
            self.n_fruitless = 0
        elif started_at >= self.counted_at:
            self.n_fruitless += 1
        else:
            return
        self.n_epochs, self.counted_at = n_epochs, now


@dataclass
class WorkerPool:
    """Worker processes on this machine: replaces those that ended early, and reclaims the trials of those that were
    killed.
    """

    handle: StudyHandle
    n_workers: int
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._gpus = gpu_groups(self.handle.loaded.experiment.runtime)
        self._workers: dict[int, WorkerProcess] = {}
        self._due: dict[int, float] = {}  # index of a worker that ended early -> when it is started again
        self._recovered_at = time.monotonic()

    def start(self) -> None:
        """Starts all workers."""
        self._restarts = Restarts(self.handle.store.leases.n_epochs())
        sharing = self.handle.loaded.experiment.runtime.trials_per_device
        if sharing != 1 and self._gpus:
            logger.info("%s", describe_sharing(sharing))
        for index in range(self.n_workers):
            self._start(index)

    def _start(self, index: int) -> None:
        with signals_held():  # a process that was started is always known to `stop`
            self._workers[index] = start_worker(
                self.handle, index, n_workers=self.n_workers, gpus=self._gpus, overrides=self.overrides
            )

    def is_working(self) -> bool:
        """Whether any worker still has, or may get, something to do; replaces those that ended early.

        Raises:
            AttnSearchError: a worker met an error that no other one can pass.
            SearchStopped: three workers in a row ended without a new epoch of any trial.
        """
        ended = [worker for worker in self._workers.values() if worker.index not in self._due and worker.poll()]
        if ended or time.monotonic() - self._recovered_at > RECOVER_EVERY_S:
            reclaim_lost_trials(self.handle, is_dead=is_gone)
            self._recovered_at = time.monotonic()
        for worker in ended:
            self._plan_restart(worker, worker.poll() or DONE)
        for index in [index for index, due_at in self._due.items() if due_at <= time.monotonic()]:
            del self._due[index]
            self._start(index)
        return any(worker.poll() != DONE for worker in self._workers.values())

    def _plan_restart(self, worker: WorkerProcess, code: int) -> None:
        """Plans the replacement of a worker that ended early.

        A code without an error line is an error that may pass: Python itself ends so at its start.
        """
        error = worker.last_line()
        if error and code in (FAILED, MISUSED):
            raise ConfigError(error) if code == MISUSED else StoreError(error)
        reason = error or _reason(worker, code)
        now = time.monotonic()
        if code != INTERRUPTED:
            n_epochs = self.handle.store.leases.n_epochs()
            self._restarts.count(started_at=worker.started_at, now=now, n_epochs=n_epochs)
        if self._restarts.is_useless:
            raise SearchStopped(
                f"study {self.handle.loaded.study.name!r} stopped: {len(PAUSES_S)} workers in a row ended without a "
                f"new epoch of any trial, the last one because: {reason}; its trials wait for the next start of the "
                f"search (log: {worker.log})"
            )
        pause_s = self._restarts.pause_s
        logger.warning("worker %d ended (%s); another one starts in %g s", worker.index, reason, pause_s)
        worker.close()
        self._due[worker.index] = now + pause_s

    def is_dead(self, worker: str) -> bool:
        """Whether the process behind a worker's name is known to be gone."""
        return is_gone(worker)

    def stop(self) -> None:
        """Ends all workers: by SIGTERM first, by force after a grace period or a second signal."""
        workers = self._workers.values()
        try:
            for worker in workers:
                worker.popen.terminate()  # a worker that gets it returns its trial to the queue
            deadline = time.monotonic() + STOP_GRACE_S
            while any(worker.poll() is None for worker in workers) and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:
            with signals_held():
                for worker in workers:
                    worker.popen.kill()
            for worker in workers:
                worker.close()


def _reason(worker: WorkerProcess, code: int) -> str:
    """Why a worker ended that printed no error, in one line."""
    if code < 0:
        return f"killed by signal {-code}"
    return "asked to stop" if code == INTERRUPTED else f"exit code {code}, see {worker.log}"


def launcher_of(
    handle: StudyHandle, data: DataSource, n_workers: int | None, *, overrides: tuple[str, ...] = ()
) -> Launcher:
    """What runs the trials: this process, or worker processes, by default as many as the study says or as GPUs.

    Args:
        overrides: settings in which this machine differs from the one that began the study.
    """
    if n_workers == 0:
        return InProcess(handle, data)
    return WorkerPool(handle, n_asked(handle.loaded, n_workers), overrides)
