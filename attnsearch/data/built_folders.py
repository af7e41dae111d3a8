"""Folders of what can be made again from images or settings; each is built once for all processes."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from attnsearch.errors import StoreError

logger = logging.getLogger(__name__)

CacheKind = Literal["pixels", "masks", "synthetic", "near_duplicates", "checks"]
KINDS: tuple[CacheKind, ...] = ("pixels", "masks", "synthetic", "near_duplicates", "checks")
CACHE_VARIABLE = "ATTNSEARCH_CACHE"
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
    folder = Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/attnsearch").expanduser().absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"the cache folder {folder} cannot be made ({error}); {_elsewhere()}") from error
    return folder


def check_free_space(folder: Path, n_bytes: int) -> None:
    """Refuses a folder that has no room for so many bytes.

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
        build: fills the folder it is given, and returns what its `about.json` records.
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


def has_built(kind: CacheKind, key: str) -> bool:
    """Whether a folder is there; `build_once` also looks whether it can be used."""
    return (cache_dir() / kind / key).is_dir()


def digest_of_files(heading: str, files: Iterable[tuple[str, Path]]) -> tuple[str, list[str]]:
    """SHA-256 of ids, sizes and times of files, in hexadecimal, and a message for each file that does not exist.

    Args:
        heading: what else the digest depends on.
        files: (id, path) of each.
    """
    digest = hashlib.sha256(heading.encode(errors="surrogateescape"))
    missing = []
    for image_id, path in files:
        try:
            status = path.stat()
        except OSError:
            missing.append(f"{path}: does not exist")
            continue
        line = f"{image_id}\n{status.st_size}\n{status.st_mtime_ns}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest(), missing


def list_caches() -> list[CacheEntry]:
    """Everything that was built, by kind and key."""
    return [
        CacheEntry(kind, about.parent, _read_about(about), _size_of(about.parent))
        for kind in KINDS
        for about in sorted((cache_dir() / kind).glob(f"*/{_ABOUT}"))
        if not about.parent.name.startswith(".")
    ]


def _read_about(path: Path) -> dict[str, str | int | float]:
    """What `about.json` records; nothing where it is damaged, so that the folder can still be listed and cleared."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}


def clear_cache(*, root: Path | None = None) -> int:
    """Removes built folders and what killed builders left; a run that has one open keeps its pixels.

    Args:
        root: only what was made from this data root; None means everything.

    Returns:
        The bytes that were freed. A folder that is being built is left alone.
    """
    entries = [e.path for e in list_caches() if root is None or e.about.get("root") == str(root.absolute())]
    return sum(_remove(folder) for folder in [*entries, *(_leftovers("*") if root is None else ())])


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


def _locked(folder: Path) -> AbstractContextManager[object]:
    """Waits for the lock of a folder, which is released at the end of the block."""
    lock = FileLock(_lock_path(folder))
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        logger.info("waiting for another process that builds %s", folder)
        return lock.acquire()


def _lock_path(folder: Path) -> Path:
    """Beside the folder; the hidden folder of a builder (`.<key>.<pid>`) has the lock of what it builds."""
    return folder.with_name(folder.name.strip(".").split(".")[0] + ".lock")


def _leftovers(key: str) -> list[Path]:
    return [path for kind in KINDS for path in (cache_dir() / kind).glob(f".{key}.*") if path.is_dir()]


def _remove(folder: Path) -> int:
    """The bytes that were freed: 0 of a folder that another process has removed since it was listed."""
    try:
        with FileLock(_lock_path(folder), timeout=0):
            if not folder.exists():
                return 0
            n_bytes = _size_of(folder)
            shutil.rmtree(folder)
            return n_bytes
    except Timeout:
        logger.warning("%s is being built or removed by another process", folder)
        return 0
    except OSError as error:
        raise StoreError(f"{folder} cannot be removed ({error}); remove it by hand") from error


def _size_of(folder: Path) -> int:
    """The bytes of all files of a folder, without those that another process removes at the same time."""
    n_bytes = 0
    for parent, _, names in os.walk(folder):  # passes over folders that are gone
        for name in names:
            with suppress(FileNotFoundError):
                n_bytes += Path(parent, name).stat().st_size
    return n_bytes


def _elsewhere() -> str:
    return f"free some space, or point {CACHE_VARIABLE} to a folder on another disk"
