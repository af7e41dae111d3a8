"""Shows what the library logs, on stderr."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class StderrHandler(logging.Handler):
    """Writes to whatever stderr is at that moment: a live table puts itself in its place while it is shown.

    A log that cannot be written, such as that of a worker on a full disk, ends nothing.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)


@contextmanager
def records_redacted() -> Iterator[None]:
    """Keeps credentials and values of variables out of the log of every library, tracebacks included."""
    make = logging.getLogRecordFactory()

    def factory(*args: Any, **settings: Any) -> logging.LogRecord:
        from attnsearch.store.urls import redact  # imports SQLAlchemy

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
