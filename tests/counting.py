"""Counts how often functions of the package run, in all threads, without replacing them."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any


@contextmanager
def counted_calls(
    functions: Mapping[str, Callable[..., Any]], *, only: Callable[[str, FrameType], bool] = lambda _name, _frame: True
) -> Iterator[Counter[str]]:
    """The number of calls of each function by its name here.

    Args:
        only: whether a call counts, by the name and the frame with its arguments.
    """
    codes: dict[CodeType, str] = {}
    for name, function in functions.items():
        while hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        codes[function.__code__] = name
    counts: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _argument: object) -> None:
        name = codes.get(frame.f_code) if event == "call" else None
        if name is not None and only(name, frame):
            counts[name] += 1

    before = sys.getprofile()
    sys.setprofile(count)
    threading.setprofile(count)
    try:
        yield counts
    finally:
        sys.setprofile(before)
        threading.setprofile(before)
