"""Shows what the library logs, on stderr."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class StderrHandler(logging.Handler):
    """Writes to whatever stderr is at that moment: a live table puts itself in its place while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(self.format(record) + "\n")


@contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Lines of level INFO and above, with UTC times, during the block."""
    handler = StderrHandler(logging.INFO)
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    package = logging.getLogger("attnsearch")
    level = package.level
    package.setLevel(logging.INFO)
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(level)
