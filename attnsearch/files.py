"""Files that are written whole or not at all, with locks and free space, and what was read from them."""

from __future__ import annotations

import csv
import errno
import io
import os
import re
import secrets
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import IO, TYPE_CHECKING, Any, Generic, TypeVar

from filelock import FileLock, Timeout

from attnsearch.errors import AttnSearchError, DataError, StoreError, TransientStoreError
from attnsearch.processes import ProcessName

if TYPE_CHECKING:
    from numpy.typing import NDArray

Check = Callable[[], None]
"""Called just before a rename; raises (`LeaseLost`) if this process may write no more."""

STALE_AFTER_S = 3600.0
_MIB = 2**20
_YOUNG_NS = 10**9
T = TypeVar("T")
_TEMPORARY = re.compile(r"\.(.+)\.([0-9a-f]+(?:-\d+){3}|\d+)-[0-9a-f]{8}\.tmp(?:-wal|-shm|-journal)?")
"""Those of version 0.1 have a process id alone."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns an `OSError` of the block into a `StoreError` that names `path` and says what to do."""
    try:
        yield
    except OSError as error:
        raise explain_os_error(error, path) from error


def explain_os_error(error: OSError, path: Path) -> StoreError:
    """The one-line `StoreError` for an error met at `path`, or at the file that the error itself names.

    Where the user need not change anything first, it is a `TransientStoreError`.
    """
    named = Path(os.fsdecode(error.filename)) if isinstance(error.filename, (str, bytes)) else path
    where = path if is_temporary(named) else named
    remedy = _remedy(error.errno, where)
    kind = StoreError if remedy else TransientStoreError
    return kind(f"{where}: {error.strerror or error}; {remedy or 'check the disk that holds it'}")


def _remedy(code: int | None, path: Path) -> str | None:
    if code in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"{free_bytes(path) // _MIB} MiB are free there, "
            "free some with `attnsearch prune-files` or `attnsearch data cache --clear`"
        )
    if code in (errno.EACCES, errno.EPERM):
        return "give this user the right to use it, or choose another results folder"
    if code == errno.EROFS:
        return "the disk is mounted read-only, choose a results folder on another one"
    if code == errno.ENOENT:
        return "check the path for a misspelling"
    return None


def real_path(path: Path) -> Path:
    """As `Path.resolve`, which fails on a link that leads to itself; such a link stays as it is."""
    return Path(os.path.realpath(path))


def existing_ancestor(path: Path) -> Path:
    """`path` itself or the nearest folder above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def lies_in(path: Path, folder: Path) -> bool:
    """Whether the file exists and, all links followed, lies below `folder`: for a path that a results folder names."""
    try:
        return path.is_file() and path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError):  # no name of a file
        return False


def free_bytes(path: Path) -> int:
    """Bytes that this user can still write on the disk that holds, or would hold, `path`."""
    return shutil.disk_usage(existing_ancestor(path)).free


def bytes_below(folder: Path) -> int:
    """Of all files in a folder and those below it; 0 where it is missing. What is removed meanwhile does not count."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def require_free_bytes(path: Path, n_bytes: int) -> None:
    """Checks before a long write that it can end.

    Raises:
        StoreError: less than `n_bytes` are free on the disk of `path`.
    """
    with disk_errors(path):
        free = free_bytes(path)
    if free < n_bytes:
        raise StoreError(
            f"{path}: needs {n_bytes // _MIB} MiB but {free // _MIB} MiB are free on its disk, "
            "free some with `attnsearch prune-files` or `attnsearch data cache --clear`"
        )


def make_folder(path: Path) -> Path:
    """Creates the folder and its parents where they are missing.

    Raises:
        StoreError: the disk refuses, or a file is in the way.
    """
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def locked(path: Path, *, timeout_s: float) -> Iterator[None]:
    """Holds the lock file `path` during the block; the system releases it when the process dies.

    Raises:
        StoreError: another process holds it for all of `timeout_s`, or the disk refuses.
    """
    make_folder(path.parent)
    lock = FileLock(path)
    with disk_errors(path):
        try:
            lock.acquire(timeout=timeout_s)
        except Timeout:  # an OSError too, but none of the disk
            raise StoreError(
                f"{path}: another process has held this lock for {timeout_s:g} s; end the one that hangs or was paused"
            ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def atomic_path(path: Path, *, check: Check | None = None) -> Iterator[Path]:
    """A temporary path beside `path`: renamed to it after the block, removed if the block or the rename fails.

    For writers that need a file name; `atomic_write` is for contents in memory.

    Raises:
        StoreError: the disk refuses (full, read-only, no right).
    """
    temporary = temporary_path(path)
    try:
        with disk_errors(path), _hidden_full_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb+") as file:
                sync(file)
        rename(temporary, path, check=check)
    except BaseException:
        discard(temporary)
        raise


@contextmanager
def _hidden_full_disk(path: Path) -> Iterator[None]:
    """torch and safetensors report a full disk as an error of their own, without its errno."""
    try:
        yield
    except (OSError, AttnSearchError):
        raise
    except Exception as error:
        if free_bytes(path) < _MIB:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise


def rename(temporary: Path, path: Path, *, check: Check | None = None) -> None:
    """Puts a finished temporary file in place, after a last `check`."""
    if check is not None:
        check()
    with disk_errors(path):
        os.replace(temporary, path)  # noqa: PTH105 (tests replace it)
        _sync_folder(path.parent)


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as the text of a CSV file; floats keep all their digits."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def discard(temporary: Path) -> None:
    """Removes what is left of a failed write; a second failure must not hide the first one."""
    with suppress(OSError):
        temporary.unlink()


def atomic_write(path: Path, content: str | bytes, *, check: Check | None = None) -> None:
    """Writes the whole file or nothing; text becomes UTF-8 with `\\n` line ends.

    Raises:
        StoreError: the disk refuses.
    """
    data = content.encode() if isinstance(content, str) else content
    with atomic_path(path, check=check) as temporary:
        temporary.write_bytes(data)


def replace_passing(path: Path, content: str) -> None:
    """Replaces a file that is out of date in seconds, where the disk lets it; does not wait until it lies there."""
    with suppress(OSError):
        temporary = temporary_path(path)
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(path)


def atomic_write_array(path: Path, array: NDArray[Any], *, check: Check | None = None) -> None:
    """Writes a `.npy` file, never pickled.

    Raises:
        StoreError: the disk refuses.
        ValueError: the array holds Python objects.
    """
    import numpy as np

    with atomic_path(path, check=check) as temporary, temporary.open("xb") as file:
        np.save(file, array, allow_pickle=False)


def remove_stale_temporaries(folder: Path, *, older_than_s: float = STALE_AFTER_S) -> list[Path]:
    """Removes temporary files, in `folder` and below, that a killed process left behind.

    Those are the files of processes that are known to have ended, and old ones of any process.

    Args:
        older_than_s: seconds since the last write; a younger file may still be written, perhaps by another machine.
    Returns:
        What was removed.
    Raises:
        StoreError: the disk refuses.
    """
    with disk_errors(folder):
        return remove_stale(sorted(folder.rglob(".*.tmp*")), older_than_s=older_than_s)


def remove_stale(paths: Iterable[Path], *, older_than_s: float = STALE_AFTER_S) -> list[Path]:
    """Removes those of the paths that are temporary files of ended processes, as `remove_stale_temporaries`."""
    temporary = [path for path in paths if is_temporary(path)]
    if not temporary:
        return []
    oldest = _now_on_disk(temporary[0].parent) - older_than_s
    stale = [path for path in temporary if _written(path) <= oldest or _has_dead_writer(path)]
    for path in stale:
        path.unlink(missing_ok=True)
    return stale


def _has_dead_writer(path: Path) -> bool:
    writer = writer_of(path)
    return writer is not None and writer.is_gone


def _now_on_disk(folder: Path) -> float:
    """The time that a file gets which is written now: that of a file server may differ from that of this machine."""
    probe = temporary_path(folder / "now")
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        discard(probe)


def _written(path: Path) -> float:
    """Time of the last write; infinitely late for a file that has just been renamed."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def sync(file: IO[bytes]) -> None:
    """Waits until what was written lies on the disk."""
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Makes a rename survive a power cut; some network file systems cannot, and the rename is valid without it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A hidden folder beside the target: renamed to it when the block ends, removed when the block fails.

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


def temporary_path(path: Path) -> Path:
    """A fresh hidden name beside `path`, so that a rename never crosses file systems."""
    return path.with_name(f".{path.name}.{ProcessName.of_this_process()}-{secrets.token_hex(4)}.tmp")


def is_temporary(path: Path) -> bool:
    """Whether the name is one that `temporary_path` made, or one that SQLite has put beside it."""
    return _TEMPORARY.fullmatch(path.name) is not None


def writer_of(path: Path) -> ProcessName | None:
    """The process that made this temporary name; None for another name, and for one of version 0.1."""
    match = _TEMPORARY.fullmatch(path.name)
    return ProcessName.parse(match[2]) if match else None


def meant_name(path: Path) -> str:
    """The name that the file of this temporary name was to get; empty for another name."""
    match = _TEMPORARY.fullmatch(path.name)
    return match[1] if match else ""


class FileCache(Generic[T]):
    """The last `size` values by key; a value is made again when its stamp changes. Safe between threads."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[Hashable, tuple[Hashable, T]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, stamp: Hashable, make: Callable[[], T]) -> T:
        """The value of `key`, from memory if it was made under the same stamp."""
        with self._lock:
            entry = self._values.get(key)
            if entry is not None and entry[0] == stamp:
                self._values.move_to_end(key)
                return entry[1]
        value = make()  # outside the lock: a slow file must not hold up the others
        with self._lock:
            self._values[key] = (stamp, value)
            self._values.move_to_end(key)
            while len(self._values) > self._size:
                self._values.popitem(last=False)
        return value


def stamp_of(*paths: Path) -> tuple[tuple[int, int, int], ...]:
    """Inode, time of the last write and size of each file; zeros for one that does not exist."""
    return tuple(map(_stamp, paths))


def settled_stamp(*paths: Path) -> Hashable:
    """As `stamp_of`, but never twice the same while a file is so young that a second write could share its time."""
    stamps = stamp_of(*paths)
    newest_ns = max(written for _, written, _ in stamps)
    return stamps if time.time_ns() - newest_ns > _YOUNG_NS else time.monotonic_ns()


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_ino, status.st_mtime_ns, status.st_size)
