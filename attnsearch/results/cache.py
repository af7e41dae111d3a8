"""Remembers what was read from files until the files change."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")
_YOUNG_NS = 10**9


class FileCache(Generic[T]):
    """The last `size` values by key; a value is made again when its stamp changes. Safe between threads."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[Hashable, tuple[Hashable, T]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, stamp: Hashable, make: Callable[[], T]) -> T:
        """The value of `key`, from memory if it was made under the same stamp."""
        with self._lock:
            known = self._values.get(key)
            if known is not None and known[0] == stamp:
                self._values.move_to_end(key)
                return known[1]
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
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_mtime_ns, found.st_size)
