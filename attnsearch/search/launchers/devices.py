"""The processes of a trial on several devices: a worker starts those that follow it, or torchrun has started all.

The first one is the worker itself. The others get orders from it, one after the other, until it ends.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from attnsearch.config.experiment import RuntimeSettings
from attnsearch.data.loader import DataSource
from attnsearch.device import ASSIGNED_GPU, VISIBLE_GPUS, set_threads
from attnsearch.errors import TRANSIENT, ConfigError, RankLost
from attnsearch.search.context import Worker
from attnsearch.search.handle import StudyHandle
from attnsearch.search.launchers.orders import follow_orders
from attnsearch.search.launchers.torchrun import TorchrunPlace
from attnsearch.search.worker import run_worker
from attnsearch.training.parallel import ALONE, START_S, Ranks, join_ranks, join_torchrun, leave_ranks

logger = logging.getLogger(__name__)

POLL_S = 0.5


def run_on_devices(handle: StudyHandle, worker: Worker, data: DataSource, *, until_idle: bool = False) -> None:
    """`run_worker` with the processes of all devices that a trial of the study trains on.

    Raises:
        AttnSearchError: as `run_worker`, and a process that ended before it joined.
    """
    with joined_devices(handle.loaded.experiment.runtime) as worker.ranks:
        run_worker(handle, worker, data, until_idle=until_idle)


@contextmanager
def joined_devices(runtime: RuntimeSettings) -> Iterator[Ranks]:
    """The ranks that train the trials of this process, which is the first of them, during the block.

    Raises:
        ConfigError: torchrun has started this process, but not to train.
        RankLost: a process ended before it joined.
    """
    place = TorchrunPlace.find()
    if place.n_ranks not in (1, runtime.devices_per_trial):
        raise ConfigError(
            f"torchrun has started {place.n_ranks} processes, which can share an `attnsearch train` alone; start a "
            f"search without it, with runtime.devices_per_trial={place.n_ranks}"
        )
    if place.n_ranks > 1:
        with _leading(join_torchrun()) as ranks:
            yield ranks
    elif runtime.devices_per_trial > 1:
        with _followed(runtime) as ranks:
            yield ranks
    else:
        yield ALONE


@contextmanager
def _leading(ranks: Ranks) -> Iterator[Ranks]:
    """Lets the others go at the end, where they are still there."""
    try:
        yield ranks
        with suppress(RankLost):
            ranks.exchange(None)
    finally:
        leave_ranks()


@contextmanager
def _followed(runtime: RuntimeSettings) -> Iterator[Ranks]:
    """Starts the other processes of this one, and ends them with the block."""
    n_ranks, n_threads_before = runtime.devices_per_trial, torch.get_num_threads()
    n_threads = set_threads(runtime.n_threads or max(1, n_threads_before // n_ranks))
    with tempfile.TemporaryDirectory(prefix="attnsearch-") as folder:  # of this user alone
        followers: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(1, n_ranks):
                followers.append(_start_follower(Path(folder), rank, n_ranks, n_threads))
            _await(Path(folder), followers)
            with _leading(join_ranks(Path(folder, "ranks"), 0, n_ranks)) as ranks, _watched(followers):
                yield ranks
        finally:
            for follower in followers:
                follower.kill()  # it holds nothing that would be lost
                follower.wait()
            set_threads(n_threads_before)


def _start_follower(folder: Path, rank: int, n_ranks: int, n_threads: int) -> subprocess.Popen[bytes]:
    """Starts one of the other processes, in a session of its own, so that Ctrl-C reaches the first one alone."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(n_threads), "MKL_NUM_THREADS": str(n_threads)}
    gpus = os.environ.get(ASSIGNED_GPU, "").split(",")
    if len(gpus) == n_ranks:
        environment[VISIBLE_GPUS] = environment[ASSIGNED_GPU] = gpus[rank]
    command = [sys.executable, "-m", "attnsearch", "follow", str(folder), str(rank), str(n_ranks)]
    return subprocess.Popen(
        [*command, "--parent", str(os.getpid())],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def _await(folder: Path, followers: list[subprocess.Popen[bytes]]) -> None:
    """Waits until all processes are about to join.

    Raises:
        RankLost: one has ended, or takes too long.
    """
    deadline = time.monotonic() + START_S
    while any(not _sign_of(folder, rank + 1).exists() for rank in range(len(followers))):
        ended = [follower.returncode for follower in followers if follower.poll() is not None]
        if ended or time.monotonic() > deadline:
            reason = f"ended with exit code {ended[0]}" if ended else f"did not start within {START_S:g} s"
            raise RankLost(f"a process for another device of the trial {reason}; the log tells why")
        time.sleep(0.05)


def _sign_of(folder: Path, rank: int) -> Path:
    """The file by which a process says that it is about to join."""
    return folder / f"rank-{rank}"


@contextmanager
def _watched(followers: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Ends this process where another one has ended and GPUs are used.

    Without GPUs the broken connection raises an error. NCCL waits for a lost process for ever, in a call that nothing
    interrupts; so the trial is left to the search, which continues it after its last epoch.
    """
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(POLL_S):
            is_used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
            if is_used and any(follower.poll() is not None for follower in followers):
                logger.error("a process for another device of the trial has ended, and this one ends with it")
                os._exit(TRANSIENT)

    threading.Thread(target=watch, name="attnsearch-ranks", daemon=True).start()
    try:
        yield
    finally:
        is_over.set()


def follow_process(folder: Path, rank: int, n_ranks: int, *, parent: int) -> int:
    """What one of the other processes of a worker runs, until the worker lets it go or ends.

    Args:
        folder: that the worker has made.
        parent: process id of the worker.
    Returns:
        The exit code.
    """
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _sign_of(folder, rank).touch()
    return follow_orders(lambda: join_ranks(folder / "ranks", rank, n_ranks))


def _end_with(parent: int) -> None:
    """Ends this process once its parent has ended; Linux' own signal would come with the end of a thread."""
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os._exit(TRANSIENT)
