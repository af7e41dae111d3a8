"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attnsearch.errors import DataError, StoreError


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A hidden folder beside the target, which takes its name when the block ends and vanishes when the block fails.

    Raises:
        DataError: the target exists and is not an empty folder.
        StoreError: the disk is full or cannot be written, also where the block raises an OSError.
    """
    target = target.absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target} is not empty; name a new folder")
    hidden = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        hidden.mkdir(parents=True)
        yield hidden
        hidden.rename(target)
    except OSError as error:
        raise StoreError(f"{target} cannot be written ({error}); free some space or name another folder") from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
