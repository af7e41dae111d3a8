"""Names of processes, which tell them apart across machines, containers, restarts and reused process ids."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_START_FIELD = 22
"""Of `/proc/PID/stat`, from 1: when the process was started, in clock ticks since the boot."""
_NAME = re.compile(r"([0-9a-f]{8})-(\d+)-(\d+)-(\d+)")


@dataclass(frozen=True)
class ProcessName:
    """A process, as it is named in leases and in temporary files.

    Attributes:
        boot: 8 hexadecimal digits that a machine draws at each start; elsewhere than on Linux of its host name.
        namespace: number of the PID namespace, within which process ids are unique; 0 where there are none.
        pid: process id.
        start: when it was started, in clock ticks since the boot; 0 where the system does not tell.
    """

    boot: str
    namespace: int
    pid: int
    start: int

    def __str__(self) -> str:
        return f"{self.boot}-{self.namespace}-{self.pid}-{self.start}"

    @classmethod
    def parse(cls, text: str) -> ProcessName | None:
        """The process of this name; None for a text of another form."""
        match = _NAME.fullmatch(text)
        return cls(match[1], int(match[2]), int(match[3]), int(match[4])) if match else None

    @classmethod
    def of_this_process(cls) -> ProcessName:
        """The process that asks."""
        return _own_name(os.getpid())

    @classmethod
    def of_worker(cls, worker: str) -> ProcessName | None:
        """The process of a worker `HOST:PROCESS:RANDOM`, as leases name them; None for a name of version 0.1."""
        parts = worker.rsplit(":", 2)
        return cls.parse(parts[1]) if len(parts) == len(("host", "process", "random")) else None

    @property
    def is_gone(self) -> bool:
        """Whether it is known to have ended; of a process of another machine, container or boot nothing is known."""
        if (self.boot, self.namespace) != (_boot(), _namespace()):
            return False
        return not is_running(self.pid) or (self.start > 0 and _start_of(self.pid) not in (0, self.start))


@cache
def _own_name(pid: int) -> ProcessName:
    """Asked again after a fork, whose process id is another one."""
    return ProcessName(_boot(), _namespace(), pid, _start_of(pid))


def is_running(pid: int) -> bool:
    """Whether this machine runs a process of this id, of any user."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@cache
def _boot() -> str:
    if _BOOT_ID.exists():
        return _BOOT_ID.read_text().strip().replace("-", "")[:8]
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _namespace() -> int:
    """Not remembered: a process may enter another one."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return 0


def _start_of(pid: int) -> int:
    """The start of a running process of this machine, 0 where it is not known."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return int(text.rpartition(")")[2].split()[_START_FIELD - 3])
    except (OSError, ValueError, IndexError):
        return 0
