"""The folder of what can be rebuilt: cached pixels and synthetic birds, each built once for all processes."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from attnsearch.errors import StoreError

logger = logging.getLogger(__name__)

CacheKind = Literal["pixels", "synthetic"]
KINDS: tuple[CacheKind, ...] = ("pixels", "synthetic")
_VARIABLE = "ATTNSEARCH_CACHE"
_ABOUT = "about.json"


@dataclass(frozen=True)
class CacheEntry:
    """One built folder: what it was made from, and the bytes that it takes on disk."""

    kind: CacheKind
    path: Path
    about: Mapping[str, str | int | float]
    n_bytes: int


def cache_dir() -> Path:
    """`$ATTNSEARCH_CACHE`, or `~/.cache/attnsearch`; made on first use for this user alone (mode 0700).

    Raises:
        StoreError: it cannot be made.
    """
    folder = Path(os.environ.get(_VARIABLE) or "~/.cache/attnsearch").expanduser().absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"the cache folder {folder} cannot be made ({error}); {_elsewhere()}") from error
    return folder


def check_free_space(folder: Path, n_bytes: int) -> None:
    """Refuses to begin what cannot fit.

    Raises:
        StoreError: names the bytes that are needed and those that are free.
    """
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise StoreError(f"{folder} needs {n_bytes} bytes and has {free} free; {_elsewhere()}")


def build_once(
    kind: CacheKind,
    key: str,
    build: Callable[[Path], Mapping[str, str | int | float]],
    *,
    is_whole: Callable[[Path], bool],
) -> Path:
    """The folder `<cache>/<kind>/<key>`, built first if it is missing or broken.

    The builder works in a hidden folder that is renamed at the end, under a lock: of many processes one builds, the
    others wait, and a killed builder leaves nothing but the hidden folder, which the next one removes.

    Args:
        build: fills the folder it is given, and returns what to note down about it.
        is_whole: whether a finished folder can still be used.

    Raises:
        StoreError: the disk is full or cannot be written. Errors of `build` pass through.
    """
    home = cache_dir() / kind
    folder = home / key
    if folder.is_dir() and is_whole(folder):
        return folder
    try:
        home.mkdir(mode=0o700, exist_ok=True)
        with _locked(folder):
            if folder.is_dir() and is_whole(folder):  # another process was faster
                return folder
            _build(folder, build)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written ({error}); {_elsewhere()}") from error
    return folder


def list_caches() -> list[CacheEntry]:
    """Everything that was built, by kind and key."""
    entries = []
    for kind in KINDS:
        for about in sorted((cache_dir() / kind).glob(f"*/{_ABOUT}")):
            if about.parent.name.startswith("."):
                continue
            entries.append(CacheEntry(kind, about.parent, _read_about(about), _size_of(about.parent)))
    return entries


def _read_about(path: Path) -> dict[str, str | int | float]:
    """What was noted down; nothing where that is damaged, so that the folder can still be seen and cleared."""
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return notes if isinstance(notes, dict) else {}


def clear_cache(*, root: Path | None = None) -> int:
    """Removes built folders and what killed builders left; a run that has one open keeps its pixels.

    Args:
        root: only what was made from this data root; None means everything.

    Returns:
        The bytes that were freed. A folder that is being built is left alone.
    """
    freed = 0
    for entry in list_caches():
        if root is None or entry.about.get("root") == str(root.absolute()):
            freed += _remove(entry.path)
    for leftover in _leftovers("*") if root is None else ():
        freed += _remove(leftover)
    return freed


def _build(folder: Path, build: Callable[[Path], Mapping[str, str | int | float]]) -> None:
    for leftover in _leftovers(folder.name):
        logger.warning("removing %s, left by a builder that was killed", leftover)
        shutil.rmtree(leftover)
    if folder.exists():
        logger.warning("rebuilding %s, which is damaged", folder)
        shutil.rmtree(folder)
    hidden = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        hidden.mkdir(mode=0o700)
        about = build(hidden)
        (hidden / _ABOUT).write_text(json.dumps(dict(about), indent=1), encoding="utf-8")
        hidden.rename(folder)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(_lock_path(folder))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("waiting for another process that builds %s", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _lock_path(folder: Path) -> Path:
    """Beside the folder; the hidden folder of a builder (`.<key>.<pid>`) has the lock of what it builds."""
    return folder.with_name(folder.name.strip(".").split(".")[0] + ".lock")


def _leftovers(key: str) -> list[Path]:
    return [path for kind in KINDS for path in (cache_dir() / kind).glob(f".{key}.*") if path.is_dir()]


def _remove(folder: Path) -> int:
    try:
        with FileLock(_lock_path(folder), timeout=0):
            n_bytes = _size_of(folder)
            shutil.rmtree(folder)
            return n_bytes
    except Timeout:
        logger.warning("%s is being built by another process and stays", folder)
        return 0
    except OSError as error:
        raise StoreError(f"{folder} cannot be removed ({error}); remove it by hand") from error


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _elsewhere() -> str:
    return f"free some space, or point {_VARIABLE} to a folder on another disk"
