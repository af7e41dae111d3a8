"""The worker processes of one supervisor: start, watch, restart, stop."""

from __future__ import annotations

import os
import platform
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO

from attnsearch.config.variables import URL_VARIABLE
from attnsearch.device import ASSIGNED_GPU, VISIBLE_GPUS
from attnsearch.store.files import is_running
from attnsearch.store.layout import StudyLayout

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class WorkerProcess:
    """One worker process and the share of the machine it may use."""

    index: int
    popen: subprocess.Popen[str]
    log: IO[str]
    started_at: float = field(default_factory=time.monotonic)

    def poll(self) -> int | None:
        """Exit code (negative for a signal), or None while it runs."""
        return self.popen.poll()

    def last_words(self) -> str:
        """What it printed on standard output before it ended: one line, the error that stopped it."""
        text = self.popen.stdout.read() if self.popen.stdout else ""
        return text.strip().splitlines()[-1] if text.strip() else ""

    def close(self) -> None:
        """Releases the pipe and the log of an ended process."""
        if self.popen.stdout:
            self.popen.stdout.close()
        self.log.close()


def start_worker(
    layout: StudyLayout,
    storage: str | None,
    index: int,
    *,
    n_workers: int,
    gpus: Sequence[str],
    n_threads: int | None,
    started_at: float,
) -> WorkerProcess:
    """Starts worker `index` in a process group of its own, so that Ctrl-C reaches the supervisor alone."""
    log = (layout.study_dir / f"worker{index}.log").open("a", encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "attnsearch",
        "worker",
        str(layout.study_yaml),
        "--parent",
        str(os.getpid()),
        "--started-at",
        repr(started_at),
    ]
    try:
        popen = subprocess.Popen(
            command,
            env=worker_environment(storage, index, n_workers=n_workers, gpus=gpus, n_threads=n_threads),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    except BaseException:
        log.close()
        raise
    return WorkerProcess(index, popen, log)


def worker_environment(
    storage: str | None, index: int, *, n_workers: int, gpus: Sequence[str], n_threads: int | None
) -> dict[str, str]:
    """The environment of a worker: a GPU or a share of the cores of its own (shared cores slow all down many times).

    Args:
        storage: the database as the person who started the search wrote it, for the worker to expand; None is the
            experiment's own file, whatever the environment of the search names.
        gpus: from `worker_gpus`; workers are spread over them in turn, and each sees its own alone.
    """
    threads = n_threads or max(1, n_cores() // n_workers)
    own = {URL_VARIABLE: storage or "", "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    environment = {**os.environ, **own}
    if gpus:
        environment[VISIBLE_GPUS] = environment[ASSIGNED_GPU] = gpus[index % len(gpus)]
    return environment


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_name() -> str:
    """The name of this process in the leases: host, process and a random part, which no two workers share."""
    return f"{platform.node()}:{os.getpid()}:{secrets.token_hex(4)}"


def is_dead(name: str) -> bool:
    """Whether the process behind a worker's name is known to be gone; one of another host never is."""
    host, pid, _ = name.rsplit(":", 2)
    return host == platform.node() and not is_running(int(pid))


def ask_to_stop(process: WorkerProcess) -> None:
    """SIGTERM: the worker returns its trial to WAITING and ends."""
    if process.poll() is None:
        process.popen.send_signal(signal.SIGTERM)


def kill(process: WorkerProcess) -> None:
    """SIGKILL, for a worker that still runs."""
    if process.poll() is None:
        process.popen.kill()


def end(process: WorkerProcess) -> None:
    """Waits until a worker that was killed is gone, and releases what belongs to it."""
    process.popen.wait()
    process.close()


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
    before = {number: signal.getsignal(number) for number in _STOP_SIGNALS}
    try:
        for number in _STOP_SIGNALS:
            signal.signal(number, lambda arrived, _frame: came.append(arrived))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for held in came:
            signal.raise_signal(held)
