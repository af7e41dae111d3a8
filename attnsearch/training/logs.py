"""The log file of one trial."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attnsearch.store.files import disk_errors, make_folder

PACKAGE = "attnsearch"


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Appends what the package logs from INFO on to `path` during the block; other loggers are left alone.

    Raises:
        StoreError: the disk refuses.
    """
    make_folder(path.parent)
    with disk_errors(path):
        handler = logging.FileHandler(path, encoding="utf-8")
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    handler.setLevel(logging.INFO)
    package = logging.getLogger(PACKAGE)
    level = package.level
    if package.getEffectiveLevel() > logging.INFO:
        package.setLevel(logging.INFO)  # else the lines would not reach the file; restored below
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(level)
        handler.close()
