"""Shows the progress of work that takes time: a bar on stderr, and the lines of the package's log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def with_bar(steps: Iterable[T], label: str, *, n_steps: int, force: bool) -> Iterable[T]:
    """The steps, with a bar if it is forced or stderr is a terminal."""
    if not (force or sys.stderr.isatty()):
        return steps
    from rich.console import Console
    from rich.progress import track

    return track(steps, label, total=n_steps, console=Console(stderr=True), transient=True)


@contextmanager
def logging_to(handler: logging.Handler) -> Iterator[None]:
    """Gives a handler what the package logs from INFO on, in UTC, during the block; other loggers stay as they are."""
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    handler.setLevel(logging.INFO)
    package = logging.getLogger("attnsearch")
    level = package.level
    if package.getEffectiveLevel() > logging.INFO:
        package.setLevel(logging.INFO)  # else the lines would not reach the handler; restored below
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(level)
