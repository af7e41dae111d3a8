"""A logger in a process of its own: whatever its package does, or fails to do, costs the training nothing.

What is to be logged goes as lines of JSON into the standard input of that process, through a bounded queue that nobody
waits for.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing, redirect_stdout, suppress
from dataclasses import asdict
from pathlib import Path
from queue import Empty, Full, Queue
from typing import IO, Any

from attnsearch.files import atomic_write, locked, make_folder
from attnsearch.loggers.base import LoggedRun, RunWriter, logger_of, writer_for

MAX_WAITING = 1000
"""Messages that wait for a slow logger; more are dropped."""
OPENING_S = 60.0
"""Seconds that a logger waits for another one that opens the same folder."""
ORPHAN_S = 60.0
"""Seconds in which a logger whose trainer is gone must end."""
Message = dict[str, Any]


class LoggerProcess:
    """One logger, from the trainer's side. Nothing here raises, and only `close` and a `send` that may wait block."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name, self._folder = name, folder
        self._queue: Queue[Message | None] = Queue(MAX_WAITING)
        self._is_closed = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._problem = ""
        self._n_dropped = 0
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (closed by `close`)
        self._thread = threading.Thread(target=self._pass_on, name=f"logger {name}", daemon=True)
        self._thread.start()

    def start_run(self, run: LoggedRun) -> None:
        """What is sent from now on is of this trial."""
        self._send({"run": asdict(run)})

    def log_epoch(self, epoch: int, values: Mapping[str, float], *, may_wait: bool = False) -> None:
        """As `RunWriter.log_epoch`; an epoch that was logged before is passed over.

        Args:
            may_wait: until a slow logger has taken what waits, instead of dropping the epoch.
        """
        self._send({"epoch": epoch, "values": dict(values)}, may_wait=may_wait)

    def end_run(self, state: str, values: Mapping[str, float], *, epoch: int, images: Mapping[str, bytes]) -> None:
        """As `RunWriter.end`, once; with images as PNG by name."""
        encoded = {name: base64.b64encode(png).decode("ascii") for name, png in images.items()}
        self._send({"end": state, "values": dict(values), "epoch": epoch, "images": encoded})

    def close(self, *, patience_s: float | None) -> str:
        """Waits until everything is logged, and ends the process.

        Args:
            patience_s: after which the process is killed; None waits for ever.
        Returns:
            Why not everything was logged; empty where it was.
        """
        deadline = None if patience_s is None else time.monotonic() + patience_s
        self._is_closed.set()
        self._thread.join(patience_s)
        if self._process is not None:
            self._wait_for(self._process, None if deadline is None else max(0.0, deadline - time.monotonic()))
        self._errors.close()
        if self._thread.is_alive():
            self._problem = self._problem or "it does not start"
        dropped = f"{self._n_dropped} messages were dropped, as it is slow" if self._n_dropped else ""
        return "; ".join(filter(None, [self._problem, dropped]))

    def _wait_for(self, process: subprocess.Popen[str], patience_s: float | None) -> None:
        try:
            code = process.wait(patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self._problem = f"it did not end within {patience_s:.0f} s and was killed"
        else:
            self._problem = self._last_line() or f"it ended with exit code {code}" if code else self._problem

    def _last_line(self) -> str:
        self._errors.seek(0)
        return next((line.strip() for line in reversed(self._errors.readlines()) if line.strip()), "")

    def _send(self, message: Message, *, may_wait: bool = False) -> None:
        is_waiting = True
        while is_waiting and self._thread.is_alive():
            with suppress(Full):
                self._queue.put(message, block=may_wait, timeout=1.0)
                return
            is_waiting = may_wait
        self._n_dropped += 1

    def _pass_on(self) -> None:
        """What the thread does: starts the process and writes what comes until it is closed."""
        try:
            self._process = self._start()
            assert self._process.stdin is not None
            with self._process.stdin as pipe:
                self._write_all(pipe)
        except Exception as error:
            self._problem = f"{type(error).__name__}: {error}"

    def _write_all(self, pipe: IO[str]) -> None:
        while True:
            try:
                message = self._queue.get(timeout=0.2)
            except Empty:
                if self._is_closed.is_set():
                    return
                continue
            pipe.write(json.dumps(message) + "\n")
            pipe.flush()

    def _start(self) -> subprocess.Popen[str]:
        make_folder(self._folder)
        words = [sys.executable, "-m", __name__, self._name, str(self._folder)]
        environment = {**logger_of(self._name).environment, **os.environ}
        streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": self._errors}
        # In a session of its own, so that Ctrl-C leaves it time to write what it has.
        return subprocess.Popen(words, text=True, env=environment, start_new_session=True, **streams)


class LoggedSoFar:
    """How far a run was logged, in a file beside it, so that an attempt that continues it repeats nothing."""

    def __init__(self, folder: Path, number: int) -> None:
        self._path = folder / f"{number:05d}.logged"
        state = json.loads(self._path.read_text()) if self._path.exists() else {}
        self.epoch: int = state.get("epoch", 0)
        self.is_ended: bool = state.get("is_ended", False)

    def reach(self, epoch: int, *, is_ended: bool = False) -> None:
        """Keeps that this epoch was logged, or that the run ended."""
        self.epoch, self.is_ended = max(self.epoch, epoch), is_ended
        atomic_write(self._path, json.dumps({"epoch": self.epoch, "is_ended": self.is_ended}))


class RunLog:
    """One run in the process of its logger; what was logged before is passed over."""

    def __init__(self, name: str, folder: Path, run: LoggedRun) -> None:
        self._name, self._folder, self._run = name, folder, run
        self._done = LoggedSoFar(folder, run.number)
        self._writer: RunWriter | None = None

    def log(self, message: Message) -> None:
        """Writes an epoch, or the end of the run."""
        if self._done.is_ended:
            return
        if "end" in message:
            for image, encoded in message["images"].items():
                self._opened().log_image(image, base64.b64decode(encoded), epoch=message["epoch"])
            self._opened().end(message["end"], message["values"], epoch=message["epoch"])
            self._done.reach(self._done.epoch, is_ended=True)
        elif message["epoch"] > self._done.epoch:
            self._opened().log_epoch(message["epoch"], message["values"])
            self._done.reach(message["epoch"])

    def _opened(self) -> RunWriter:
        if self._writer is None:
            with locked(self._folder / "opening", timeout_s=OPENING_S):
                self._writer = writer_for(self._run, self._name, self._folder)
        return self._writer

    def close(self) -> None:
        """As `RunWriter.close`."""
        if self._writer is not None:
            self._writer.close()


def log_all(name: str, folder: Path, messages: Iterable[Message]) -> None:
    """What the process does: writes runs one after the other, until its input ends."""
    with ExitStack() as stack:
        for message in messages:
            if "run" in message:
                stack.close()
                log = stack.enter_context(closing(RunLog(name, folder, LoggedRun(**message["run"]))))
            else:
                log.log(message)


def _end_with(parent: int) -> None:
    """Ends this process some time after the one that started it: a package that waits for a server may not."""
    while os.getppid() == parent:
        time.sleep(1.0)
    time.sleep(ORPHAN_S)
    os._exit(1)


def serve(name: str, folder: str) -> int:
    """Logs the messages of the standard input.

    Returns:
        0, or 1 after an error, whose one line is the last one of stderr.
    """
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    try:
        with redirect_stdout(sys.stderr):
            log_all(name, Path(folder), map(json.loads, sys.stdin))
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        print(f"{type(error).__name__}: {lines[0]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(serve(*sys.argv[1:]))
