"""A progress bar on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def with_bar(steps: Iterable[T], label: str, *, n_steps: int, force: bool) -> Iterable[T]:
    """The steps, with a bar if it is forced or stderr is a terminal."""
    if not (force or sys.stderr.isatty()):
        return steps
    from rich.console import Console
    from rich.progress import track

    return track(steps, label, total=n_steps, console=Console(stderr=True), transient=True)
