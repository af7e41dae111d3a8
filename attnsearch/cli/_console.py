"""The terminal: lines, tables, JSON, errors and log records that are written, and Ctrl-C and SIGTERM that come in.

The first signal asks for a clean stop, the second ends at once.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from attnsearch.cli._style import RED, fitted, is_terminal, painted, painted_state, terminal_width
from attnsearch.cli._table import table_lines
from attnsearch.progress import logging_to

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)
UNPOLLED_S = 5.0
COMMAND_VARIABLE = "ATTNSEARCH_COMMAND"
"""Holds the command of a script that has started this process."""
Handler = Callable[[int, FrameType | None], None]
_own_stdout: TextIO | None = None


class StderrHandler(logging.Handler):
    """Writes to whatever stderr is at that moment: a live table puts itself in its place while it is shown.

    A log that cannot be written, such as that of a worker on a full disk, ends nothing.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(fitted(self.format(record), sys.stderr) + "\n")
        except Exception:
            self.handleError(record)


@contextmanager
def records_redacted() -> Iterator[None]:
    """Keeps credentials and values of variables out of the log of every library, tracebacks included."""
    make = logging.getLogRecordFactory()

    def factory(*args: Any, **settings: Any) -> logging.LogRecord:
        from attnsearch.store.urls import redact

        record = make(*args, **settings)
        record.msg, record.args = redact(record.getMessage()), ()
        if record.exc_info:
            record.exc_text = redact(logging.Formatter().formatException(record.exc_info))
        return record

    logging.setLogRecordFactory(factory)
    try:
        yield
    finally:
        logging.setLogRecordFactory(make)


@contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Lines of level INFO and above, with UTC times, during the block."""
    with logging_to(StderrHandler()):
        yield


@contextmanager
def libraries_to_stderr() -> Iterator[None]:
    """Sends what others print to stderr during the block, so that stdout holds the lines of this module alone.

    timm, for one, prints while it loads weights, which would stand among the JSON lines.
    """
    global _own_stdout
    before, _own_stdout = _own_stdout, _stdout()
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _own_stdout = before


def _stdout() -> TextIO:
    return _own_stdout or sys.stdout


def print_json(values: Mapping[str, Any]) -> None:
    """One JSON object on one line; an undefined number becomes null, a time is in UTC."""
    print_line(json.dumps(_plain(values), allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def print_line(text: str) -> None:
    """Plain text, at once: a pipe would hold it back."""
    file = _stdout()
    print(fitted(text, file), file=file, flush=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """A table; into a pipe it is as wide as it needs to be, and a terminal gets states in colours."""
    file = _stdout()
    width, paint = (terminal_width(), partial(painted_state, file=file)) if is_terminal(file) else (None, str)
    print("\n".join(table_lines(columns, list(rows), title=title, width=width, paint=paint)), file=file, flush=True)


def print_written(*paths: Path) -> None:
    """Names files that were written, a line each."""
    for path in paths:
        print_line(f"written: {shown_path(path)}")


def shown_path(path: Path) -> str:
    """Relative to where the user is, if it lies below."""
    return os.fspath(path.relative_to(here) if path.is_relative_to(here := Path.cwd()) else path)


def say(text: str) -> None:
    """A line on stderr about what begins now, at once, so that nobody waits before an empty screen."""
    print(fitted(text, sys.stderr), file=sys.stderr, flush=True)


def number(value: float | None) -> str:
    """A measured number in four digits; `-` where there is none."""
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"


def counted(n: int, noun: str) -> str:
    """`1 trial`, `3 trials`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def short_names(keys: Sequence[str]) -> list[str]:
    """The last part of each dotted key, or the whole key where several end alike."""
    last = [key.rpartition(".")[2] for key in keys]
    return [name if last.count(name) == 1 else key for name, key in zip(last, keys, strict=True)]


def size(n_bytes: int) -> str:
    """`640 KB`, `1.2 GB`."""
    for factor, unit in ((10**9, "GB"), (10**6, "MB")):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.3g} {unit}"
    return f"{n_bytes / 1000:.3g} KB"


def report_error(text: str, code: int) -> int:
    """Prints `error: …` on stderr, one line per problem, details indented below; returns the code."""
    from attnsearch.store.urls import hide

    head = painted("error:", RED, sys.stderr)
    for line in hide(text).splitlines():
        fitting = fitted(line if line.startswith(" ") else f"error: {line}", sys.stderr)
        print(fitting.replace("error:", head, 1) if fitting.startswith("error:") else fitting, file=sys.stderr)
    return code


def command_text(words: Sequence[str]) -> str:
    """The command that a person gave: a script of the checkout names itself."""
    return os.environ.get(COMMAND_VARIABLE, "").strip() or shlex.join(["attnsearch", *words])


def program() -> str:
    """How this program is started from here: `attnsearch` where the shell finds it, else by this Python."""
    if shutil.which("attnsearch"):
        return "attnsearch"
    python, here = Path(sys.executable), Path.cwd()
    return f"{shlex.quote(str(python.relative_to(here) if python.is_relative_to(here) else python))} -m attnsearch"


def report_interruption(code: int) -> int:
    """Prints one line on stderr; returns the code."""
    print("interrupted", file=sys.stderr)
    return code


def report_unexpected(error: Exception, code: int) -> int:
    """Prints one line and leaves the traceback in a file, for a report."""
    from attnsearch.store.urls import hide

    trace = hide("".join(traceback.format_exception(error)))
    with tempfile.NamedTemporaryFile("w", prefix="attnsearch-", suffix=".log", delete=False, encoding="utf-8") as file:
        file.write(trace)
    first = str(error).strip().partition("\n")[0]
    return report_error(f"unexpected {type(error).__name__}: {first}; please report it with {Path(file.name)}", code)


class Interrupted(KeyboardInterrupt):
    """Raised by our handlers.

    A plain `KeyboardInterrupt` that passes through the import of an extension module makes Python kill the process by
    SIGINT at its end, whatever its exit code (CPython, `run_eval_code_obj`).
    """


class StopRequest:
    """Whether the process was asked to stop; logs it once, outside of the signal handler.

    Args:
        message: logged when the request is first seen.
        clock: seconds.
    """

    def __init__(self, message: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._message = message
        self._clock = clock
        self._polled_at = -math.inf
        self._is_asked = False
        self._is_announced = False

    def is_asked(self) -> bool:
        """Whether to stop; to be called again and again by code that can stop cleanly."""
        self._polled_at = self._clock()
        if self._is_asked and not self._is_announced:
            self._is_announced = True
            logger.warning(self._message)
        return self._is_asked

    def take(self, _signal: int, _frame: FrameType | None) -> None:
        """The handler.

        Raises:
            Interrupted: for the second signal, and for the first one while nothing calls `is_asked`.
        """
        if self._is_asked or self._clock() - self._polled_at > UNPOLLED_S:
            raise Interrupted
        self._is_asked = True


@contextmanager
def interruptible() -> Iterator[None]:
    """Lets both signals raise `Interrupted` during the block, so that whatever is open is closed first.

    A signal that is ignored stays so: a script ignores SIGINT for what it starts in the background.
    """

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise Interrupted

    is_main = threading.current_thread() is threading.main_thread()  # Python runs handlers nowhere else
    heeded = [number for number in SIGNALS if is_main and signal.getsignal(number) is not signal.SIG_IGN]
    with signals_to(interrupt, heeded):
        yield


@contextmanager
def signals_to(handler: Handler, signals: Sequence[signal.Signals] = SIGNALS) -> Iterator[None]:
    """Sends the signals to `handler` during the block, and restores what was there."""
    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
