"""Files of a trial as the database lists them, and whether one is still the file that was listed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from attnsearch.errors import StoreError
from attnsearch.files import disk_errors
from attnsearch.store.inspection import open_array


@dataclass(frozen=True)
class FileRecord:
    """One file: `path` is POSIX and relative to the experiment's folder; `shape` and `dtype` are of a `.npy` only."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    sha256: str
    bytes: int


def describe_file(path: Path, experiment_dir: Path) -> FileRecord:
    """Reads the file once and describes it.

    Raises:
        StoreError: it cannot be read.
        ValueError: it lies outside the experiment's folder.
    """
    relative = path.relative_to(experiment_dir).as_posix()
    digest, n_bytes = _sha256(path)
    if path.suffix != ".npy":
        return FileRecord(relative, (), "", digest, n_bytes)
    array = open_array(path, "evaluate the trial again")
    return FileRecord(relative, array.shape, str(array.dtype), digest, n_bytes)


def _sha256(path: Path) -> tuple[str, int]:
    """Checksum and size in bytes."""
    with disk_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()


def check_recorded(path: Path, record: FileRecord | None) -> None:
    """Checks that a file is still the one that was described; one that never was passes.

    Raises:
        StoreError: its content has changed since, or it cannot be read.
    """
    if record is not None and _sha256(path) != (record.sha256, record.bytes):
        raise StoreError(
            f"{path} is not the file that its trial was measured with (its checksum was {record.sha256[:12]}…), "
            "restore it from an `attnsearch export`"
        )
