"""Ctrl-C and SIGTERM: the first asks for a clean stop, the second ends at once."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)
UNPOLLED_S = 5.0
Handler = Callable[[int, FrameType | None], None]


class Interrupted(KeyboardInterrupt):
    """Raised by our handlers.

    A plain `KeyboardInterrupt` that passes through the import of an extension module makes Python kill the process by
    SIGINT at its end, whatever its exit code (CPython, `run_eval_code_obj`).
    """


class StopRequest:
    """Whether the process was asked to stop; logs it once, outside of the signal handler.

    Args:
        message: logged when the request is first seen.
        clock: seconds.
    """

    def __init__(self, message: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._message = message
        self._clock = clock
        self._polled_at = -math.inf
        self._is_asked = False
        self._is_announced = False

    def is_asked(self) -> bool:
        """Whether to stop; to be called again and again by code that can stop cleanly."""
        self._polled_at = self._clock()
        if self._is_asked and not self._is_announced:
            self._is_announced = True
            logger.warning(self._message)
        return self._is_asked

    def take(self, _signal: int, _frame: FrameType | None) -> None:
        """The handler.

        Raises:
            Interrupted: for the second signal, and for the first one while nothing calls `is_asked`.
        """
        if self._is_asked or self._clock() - self._polled_at > UNPOLLED_S:
            raise Interrupted
        self._is_asked = True


@contextmanager
def interruptible() -> Iterator[None]:
    """Lets both signals raise `Interrupted` during the block, so that whatever is open is closed first.

    A signal that is ignored stays so: a script ignores SIGINT for what it starts in the background.
    """

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise Interrupted

    is_main = threading.current_thread() is threading.main_thread()  # Python runs handlers nowhere else
    heeded = [number for number in SIGNALS if is_main and signal.getsignal(number) is not signal.SIG_IGN]
    with signals_to(interrupt, heeded):
        yield


@contextmanager
def signals_to(handler: Handler, signals: Sequence[signal.Signals] = SIGNALS) -> Iterator[None]:
    """Sends the signals to `handler` during the block, and restores what was there."""
    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
