"""Actors of Ray that keep one worker of a study running each."""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnsearch.config.load import load_study
from attnsearch.device import ASSIGNED_GPU
from attnsearch.errors import DONE, FAILED, INTERRUPTED, MISUSED, ConfigError, SearchStopped
from attnsearch.search.handle import StudyHandle, open_handle
from attnsearch.store.layout import StudyLayout
from attnsearch.store.urls import hide, url_named
from attnsearch.types import URL_VARIABLE

logger = logging.getLogger(__name__)

PAUSES_AFTER_S = (5.0, 30.0, 120.0)
"""Before a worker that ended early is started again, by how many in a row ended within `SHORT_S`."""
SHORT_S = 300.0
POLL_S, ANSWER_S, STOP_S = 0.5, 10.0, 60.0
_ALONE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # despite its name: all of Ray listens on 127.0.0.1 alone
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
}
_OBJECT_STORE_BYTES = 80 * 2**20
"""The least that Ray takes; workers exchange nothing."""


class RayWorker:
    """An actor: a process on some node of the cluster that runs the command `worker`, as often as it takes.

    The command runs in a process of its own: one that a broken device has ended cannot train again, and Ray's threads
    hear no signals. It is sent SIGTERM when the actor is gone.

    Args:
        words: the command of a worker, without `python`.
        environment: variables on top of those of the node.
        log: gets all that the worker prints.
    """

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._words, self._environment, self._log = words, environment, log
        self._stop = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> tuple[int, str]:
        """Runs workers one after the other until one ends for good.

        Returns:
            The exit code, and the last line that it printed.
        """
        n_short = 0
        while not self._stop.is_set():
            began_at = time.monotonic()
            code = self._run_once()
            if code in (DONE, FAILED, MISUSED, INTERRUPTED):
                return code, self._last_line()
            n_short = n_short + 1 if time.monotonic() - began_at < SHORT_S else 1
            if n_short > len(PAUSES_AFTER_S):
                return code, self._last_line()
            self._stop.wait(PAUSES_AFTER_S[n_short - 1])
        return INTERRUPTED, ""

    def _run_once(self) -> int:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_ends_with_this_process(), sys.executable, *self._words],
                env={**os.environ, **self._environment, **_assigned_gpus()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if self._stop.is_set():  # it came while the process was started
            self._process.terminate()
        return self._process.wait()

    def _last_line(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return lines[-1] if lines else ""

    def stop(self) -> None:
        """Has the worker return its trial to the queue and end."""
        self._stop.set()
        if self._process is not None:
            self._process.terminate()

    def is_there(self) -> bool:
        """An answer."""
        return True


def _ends_with_this_process() -> list[str]:
    """A prefix under which the system sends SIGTERM when the thread that started the command is gone, on Linux."""
    return ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []


def _assigned_gpus() -> dict[str, str]:
    ids = import_ray().get_runtime_context().get_accelerator_ids().get("GPU", [])
    return {ASSIGNED_GPU: ",".join(ids)} if ids else {}


@dataclass(frozen=True)
class RayRequest:
    """Workers of one study, and what each of them needs.

    Attributes:
        words: the command of a worker, without `python`.
        storage: URL of the database as it was written; None is the experiment's own file.
        n_gpus, n_cpus: of each worker, also parts of one.
    """

    layout: StudyLayout
    words: tuple[str, ...]
    storage: str | None
    n_workers: int
    n_gpus: float = 1.0
    n_cpus: float = 1.0


class RayPool:
    """The actors of a request on a cluster that this process is connected to."""

    def __init__(self, request: RayRequest) -> None:
        self._request, self._ray = request, import_ray()
        self._actors: dict[Any, Any] = {}  # reference to the end of an actor's work -> the actor
        self._errors: list[str] = []
        self._is_over = False

    def start(self) -> None:
        """Starts all actors; those that find no place now wait for one."""
        request = self._request
        self._warn_of_small_nodes()
        kind = self._ray.remote(RayWorker).options(
            num_gpus=request.n_gpus,
            num_cpus=request.n_cpus,
            max_restarts=-1,
            max_task_retries=-1,  # Ray spends some before it knows that a node is lost
            max_concurrency=2,  # `run`, and the other calls meanwhile
            scheduling_strategy="SPREAD",
        )
        environment = {URL_VARIABLE: request.storage or ""}
        for index in range(request.n_workers):
            actor = kind.remote(request.words, environment, request.layout.worker_log(f"_ray{index}"))
            self._actors[actor.run.remote()] = actor

    def _warn_of_small_nodes(self) -> None:
        request = self._request
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        fits = (one.get("GPU", 0) >= request.n_gpus and one.get("CPU", 0) >= request.n_cpus for one in nodes)
        if not any(fits):
            logger.warning(
                "no node of the cluster has %g GPUs and %g CPUs for a worker: they wait for one that joins "
                "(--gpus-per-worker 0 trains on processors)",
                request.n_gpus,
                request.n_cpus,
            )

    def is_working(self) -> bool:
        """Whether any worker has, or may get, something to do.

        Raises:
            SearchStopped: all workers ended with an error.
        """
        if not self._actors:
            return False
        ended, _ = self._ray.wait(list(self._actors), num_returns=len(self._actors), timeout=POLL_S)
        for reference in ended:
            self._note_end(reference, self._actors.pop(reference))
        if ended and self._is_over:
            self._call("is_there")  # the study is over without those that are not
        if not self._actors and self._errors and not self._is_over:
            raise SearchStopped(f"all workers ended with an error, the last one with: {self._errors[-1]}")
        return bool(self._actors)

    def _note_end(self, reference: Any, actor: Any) -> None:
        try:
            code, text = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:  # such as a node without this package
            code, text = FAILED, " ".join(str(error).split())
        self._ray.kill(actor)
        if code == DONE:
            self._is_over = True
        elif code != INTERRUPTED:
            self._errors.append(hide(text.removeprefix("error: ")))
            logger.warning("a worker ended with exit code %d: %s", code, self._errors[-1])

    def _call(self, method: str) -> None:
        """Calls a method of all actors, and gives up those that have no place on any node: none of them answers."""
        answers = {getattr(actor, method).remote(): reference for reference, actor in self._actors.items()}
        if answers:
            _, missing = self._ray.wait(list(answers), num_returns=len(answers), timeout=ANSWER_S)
            for answer in missing:
                self._ray.kill(self._actors.pop(answers[answer]))

    def stop(self) -> None:
        """Ends all workers; their trials return to the queue."""
        self._call("stop")
        if self._actors:
            self._ray.wait(list(self._actors), num_returns=len(self._actors), timeout=STOP_S)
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._actors.clear()


def run_on_ray(request: RayRequest, *, should_stop: Callable[[], bool], tick: Callable[[StudyHandle], None]) -> None:
    """Runs workers on the cluster that this process is connected to until the study is over.

    Args:
        should_stop: asked several times a second; once true, running trials return to the queue.
        tick: called as often, to show progress.
    Raises:
        AttnSearchError: the study cannot be opened, or all workers ended with an error.
    """
    layout, pool = request.layout, RayPool(request)
    loaded = load_study(str(layout.study_yaml))
    handle = open_handle(loaded, layout, url_named(request.storage, layout))
    with closing(handle.database):
        try:
            pool.start()
            while not should_stop() and pool.is_working():
                tick(handle)
        finally:
            pool.stop()


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connects this process to a cluster of Ray during the block.

    Args:
        address: of a cluster, such as `auto` or `ray-head:6379`. None starts one on this machine, which nobody else
            reaches and which ends with the block.
    Raises:
        ConfigError: Ray is not installed, or nothing answers at the address.
    """
    alone = {} if address else {**_ALONE, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    added = {name: value for name, value in alone.items() if name not in os.environ}
    os.environ.update(added)
    try:
        ray = import_ray()
        started: dict[str, Any] = {} if address else {"object_store_memory": _OBJECT_STORE_BYTES}
        try:
            ray.init(address or "local", include_dashboard=False, log_to_driver=False, logging_level="ERROR", **started)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(f"--address {address}: {' '.join(str(error).split())}") from error
        try:
            yield
        finally:
            ray.shutdown()
    finally:
        for name in added:
            del os.environ[name]


def import_ray() -> Any:
    """The package.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise ConfigError("Ray is not installed: pip install 'attnsearch[ray]'") from error
