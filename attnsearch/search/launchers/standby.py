"""Workers that stand by: forked from the search while it has done nothing but import, so that none imports all again.

A fork is safe as long as no thread holds a lock and no device was touched: both hold before the first check of a
study, and later never again. So the processes are forked at the very start and wait there for their orders.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path
from threading import active_count
from typing import IO

import torch

from attnsearch.config.load import LoadedStudy
from attnsearch.device import n_cores, set_threads
from attnsearch.search.launchers import WorkerOrders
from attnsearch.search.slots import gpu_groups, workers_per_gpu

_HELD_BACK = (signal.SIGINT, signal.SIGTERM)

RunWorker = Callable[[WorkerOrders], tuple[int, str]]
"""Runs a worker; returns what `run_process` does."""


@dataclass(frozen=True)
class Orders:
    """What a waiting process is told.

    Attributes:
        worker: what it runs.
        environment: all of it, as the process is to see it.
        log: gets what the process writes to stderr.
        n_threads: of torch; a variable would come too late.
    """

    worker: WorkerOrders
    environment: Mapping[str, str]
    log: Path
    n_threads: int


class ForkedProcess:
    """A child of this process with the part of `subprocess.Popen` that a pool of workers uses."""

    def __init__(self, process: ForkProcess, stdout: IO[str]) -> None:
        self._process = process
        self.stdout: IO[str] | None = stdout

    def poll(self) -> int | None:
        """Exit code (negative for a signal), or None while it runs."""
        return self._process.exitcode

    def wait(self) -> None:
        """Waits until it has ended."""
        self._process.join()

    def terminate(self) -> None:
        """Asks it to end."""
        self._process.terminate()

    def kill(self) -> None:
        """Ends it."""
        self._process.kill()


@dataclass(frozen=True)
class _Waiting:
    """A process that waits for its orders at the other end of a pipe."""

    process: ForkProcess
    orders: Connection
    stdout: IO[str]

    def dismiss(self) -> None:
        """Lets it end without any orders."""
        self.orders.close()
        self.process.join()
        self.stdout.close()


_waiting: list[_Waiting] = []


@contextmanager
def imports_frozen() -> Iterator[None]:
    """Keeps what is in memory now out of garbage collections during the block.

    Each trial ends with one, which need not look through all of torch, and what is not looked through stays in memory
    that forked processes have in common.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def workers_standing_by(loaded: LoadedStudy, n_workers: int | None, run: RunWorker) -> Iterator[None]:
    """Keeps the workers of a study ready for `take` during the block, where the system can fork and this is safe.

    To be entered before anything but imports has run, in the process that searches.

    Args:
        n_workers: as for `launcher_of`.
        run: called in a worker once it has its orders.
    """
    with imports_frozen():
        try:
            for _ in range(_n_to_fork(loaded, n_workers) if _can_fork(loaded) else 0):
                _waiting.append(_fork(run))
            yield
        finally:
            while _waiting:
                _waiting.pop().dismiss()


def take(orders: Orders) -> ForkedProcess | None:
    """Gives orders to a process that stands by; None where there is none."""
    while _waiting:
        waiting = _waiting.pop(0)
        try:
            waiting.orders.send(orders)
        except OSError:  # somebody ended it
            waiting.dismiss()
            continue
        waiting.orders.close()
        return ForkedProcess(waiting.process, waiting.stdout)
    return None


def n_asked(loaded: LoadedStudy, n_workers: int | None) -> int:
    """Workers of a study where nothing else is said: as many as the study says, or as trials may train on its GPUs.

    Raises:
        ConfigError: as `gpu_groups`.
    """
    asked = loaded.study.n_workers if n_workers is None else n_workers
    if asked is not None:
        return asked
    runtime = loaded.experiment.runtime
    n_gpus = len(gpu_groups(runtime))
    return n_gpus * workers_per_gpu(runtime.trials_per_device, n_cores=n_cores(), n_gpus=n_gpus) if n_gpus else 1


def _can_fork(loaded: LoadedStudy) -> bool:
    """Whether a copy of this process can train: on Linux, before plugins, threads of Python or a device got to work."""
    is_pristine = active_count() == 1 and not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return sys.platform == "linux" and is_pristine and not loaded.experiment.plugins


def _n_to_fork(loaded: LoadedStudy, n_workers: int | None) -> int:
    """As `n_asked`; GPUs are counted in a process of their own, as a process that has asked for them cannot be copied.

    Raises:
        ConfigError: a GPU that this machine does not have.
    """
    if n_workers is not None or loaded.study.n_workers is not None:
        return n_asked(loaded, n_workers)  # asks for no GPU
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        return pool.submit(n_asked, loaded, n_workers).result()


def _fork(run: RunWorker) -> _Waiting:
    ours, theirs = multiprocessing.Pipe()
    readable, writable = os.pipe()
    earlier = [waiting.orders for waiting in _waiting]  # an end that a copy holds open would never be seen closed
    process = multiprocessing.get_context("fork").Process(
        target=_wait_for_orders,
        args=(theirs, [ours, *earlier], (readable, writable), run),
        name="attnsearch-worker",
    )
    sys.stdout.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)  # until the copy no longer has the handlers of this process
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)
    theirs.close()
    os.close(writable)
    return _Waiting(process, ours, os.fdopen(readable, encoding="utf-8", errors="replace"))


def _wait_for_orders(theirs: Connection, others: list[Connection], stdout: tuple[int, int], run: RunWorker) -> None:
    """The life of a forked process: in a session of its own, so that Ctrl-C reaches the search alone."""
    os.setsid()
    for number in _HELD_BACK:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)
    for other in others:
        other.close()
    readable, writable = stdout
    os.close(readable)
    try:
        orders: Orders = theirs.recv()
    except EOFError:
        return
    theirs.close()
    _redirect(orders.log, writable)
    os.environ.clear()
    os.environ.update(orders.environment)
    set_threads(orders.n_threads)
    code, error = run(orders.worker)
    os.write(1, error.encode())
    sys.exit(code)


def _redirect(log: Path, stdout: int) -> None:
    """Makes the null device, a pipe and the end of a log the standard streams of this process."""
    streams = (os.open(os.devnull, os.O_RDONLY), stdout, os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
