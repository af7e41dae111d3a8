"""A consistent copy of an experiment, running or not, as one archive file."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from attnsearch.errors import ConfigError, StoreError
from attnsearch.files import (
    atomic_path,
    discard,
    disk_errors,
    is_temporary,
    meant_name,
    real_path,
    remove_stale,
    temporary_path,
)
from attnsearch.store.layout import SIDE_FILES, STAGING, ExperimentLayout, is_live_state
from attnsearch.store.trial_layout import is_resume_checkpoint
from attnsearch.store.urls import default_url, read_only_uri, redact, sqlite_path

Add = Callable[[Path, str], object]
"""Adds a file to an archive under a name."""
SUFFIXES = (".tar.gz", ".tgz", ".zip")
_COPY_SUFFIX = ".db"
_ATTEMPTS = 3
_BUSY_TIMEOUT_S = 60


@dataclass(frozen=True)
class ExportSummary:
    """What went into the archive beside the database; vanished files were removed while they were collected."""

    target: Path
    n_files: int
    n_vanished: int


def export_experiment(
    experiment_dir: Path, target: Path, *, url: str | None = None, with_resume: bool = False
) -> ExportSummary:
    """Copies an experiment that may be running: whatever trial the copied database calls finished is whole in it.

    The database is copied first, by SQLite's backup, and files only after it: a trial's files are complete before the
    database calls it so. Temporary files and locks stay out. A publication that happens meanwhile makes it start again.
    What a killed export has left beside the target is removed.

    Args:
        target: ends in .tar.gz, .tgz or .zip; must not exist.
        url: of the database; None = the experiment's own file, or none if there is no such file.
        with_resume: also takes the resume checkpoints of unfinished trials, to continue elsewhere.
    Raises:
        ConfigError: another suffix, an existing target, or a folder that is no experiment.
        StoreError: the disk refuses, or the database lies on a server.
    """
    _check_request(experiment_dir, target)
    _remove_leftovers(target.parent)
    layout = ExperimentLayout.at(experiment_dir)
    database = _database_file(layout, url)
    with atomic_path(target) as temporary:
        for _ in range(_ATTEMPTS):
            before = _manifests(layout)
            with _snapshot(database, target) as copy, _open_archive(temporary, target) as add:
                if copy is not None:
                    add(copy, f"{layout.experiment}/{layout.database.name}")
                files = _complete_files(layout, database, with_resume=with_resume)
                n_files, n_vanished = _add_files(add, files, layout)
            if _manifests(layout) == before:
                return ExportSummary(target, n_files, n_vanished)
    raise StoreError(f"{experiment_dir} was published again during each of {_ATTEMPTS} copies, export it later")


def _check_request(experiment_dir: Path, target: Path) -> None:
    if not target.name.endswith(SUFFIXES):
        raise ConfigError(f"export target must end in {' or '.join(SUFFIXES)}, got {str(target)!r}")
    if target.exists():
        raise ConfigError(f"export target {target} exists, choose another name or remove it")
    if not experiment_dir.is_dir():
        raise ConfigError(f"experiment {experiment_dir} is not a folder, name one such as results/CUB")


def _remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of killed exports, and no others of the folder."""
    if not folder.is_dir():
        return
    endings = (*SUFFIXES, *(suffix + _COPY_SUFFIX for suffix in SUFFIXES))
    with disk_errors(folder):
        remove_stale(path for path in sorted(folder.glob(".*.tmp*")) if meant_name(path).endswith(endings))


def _database_file(layout: ExperimentLayout, url: str | None) -> Path | None:
    path = sqlite_path(default_url(layout) if url is None else url)
    if path is None:
        raise StoreError(f"{redact(url or '')} lies on a server, copy it with pg_dump and {layout.directory} with tar")
    if not path.exists() and url is not None:
        raise StoreError(f"database {path} does not exist, name the one that the search used")
    return path if path.exists() else None


@contextlib.contextmanager
def _snapshot(database: Path | None, target: Path) -> Iterator[Path | None]:
    """A copy of the database beside `target`, removed after the block."""
    if database is None:
        yield None
        return
    copy = temporary_path(target.with_name(target.name + _COPY_SUFFIX))
    try:
        _back_up(database, copy)
        yield copy
    finally:
        for suffix in ("", *SIDE_FILES):
            discard(copy.with_name(copy.name + suffix))


def _back_up(database: Path, copy: Path) -> None:
    try:
        with (
            contextlib.closing(sqlite3.connect(read_only_uri(database), uri=True, timeout=_BUSY_TIMEOUT_S)) as source,
            contextlib.closing(sqlite3.connect(copy)) as destination,
        ):
            source.backup(destination)
    except sqlite3.Error as error:
        raise StoreError(f"database {database} cannot be copied ({error}), check its rights and free space") from error


def _manifests(layout: ExperimentLayout) -> dict[str, bytes]:
    paths = [study.published_json for study in layout.studies()]
    return {str(path): path.read_bytes() for path in paths if path.exists()}


def _add_files(add: Add, files: Iterable[Path], layout: ExperimentLayout) -> tuple[int, int]:
    """Number of files added, and of files that vanished since they were listed."""
    n_files, n_vanished = 0, 0
    for path in files:
        try:
            add(path, f"{layout.experiment}/{path.relative_to(layout.directory).as_posix()}")
            n_files += 1
        except FileNotFoundError:
            n_vanished += 1
    return n_files, n_vanished


def _complete_files(layout: ExperimentLayout, database: Path | None, *, with_resume: bool) -> Iterator[Path]:
    """The files worth copying, in order of their names; folders that are links are followed once."""
    databases, seen = (layout.database, database), {real_path(layout.directory)}
    for folder, names, files in os.walk(layout.directory, followlinks=True, onerror=_refuse_unreadable):
        names[:] = [name for name in sorted(names) if name != STAGING and _is_new(Path(folder, name), seen)]
        for path in (Path(folder, name) for name in sorted(files)):
            if path not in databases and _is_complete(path) and (with_resume or not is_resume_checkpoint(path)):
                yield path


def _is_complete(path: Path) -> bool:
    """Whether it is a file that no process is working on."""
    return path.is_file() and not is_temporary(path) and not is_live_state(path)


def _refuse_unreadable(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _is_new(folder: Path, seen: set[Path]) -> bool:
    real = real_path(folder)
    if real in seen:
        return False
    seen.add(real)
    return True


@contextlib.contextmanager
def _open_archive(temporary: Path, target: Path) -> Iterator[Add]:
    with disk_errors(target):
        if target.name.endswith(".zip"):
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as zipped:
                yield zipped.write
        else:
            with tarfile.open(temporary, "w:gz", compresslevel=6) as tar:
                yield partial(_add_to_tar, tar)


def _add_to_tar(tar: tarfile.TarFile, path: Path, name: str) -> None:
    """Takes as many bytes as the file has when it is opened, for a log that grows meanwhile."""
    with path.open("rb") as content:
        info = tar.gettarinfo(arcname=name, fileobj=content)
        info.uid = info.gid = 0
        info.uname = info.gname = ""  # no user names leave the machine
        tar.addfile(info, content)
