"""Writing beside training: copies of a state on the CPU, and one thread that writes them in order."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from attnsearch.errors import AttnSearchError, TrialPaused, TrialPruned

logger = logging.getLogger(__name__)


def copy_to_cpu(state: dict[str, Any], device: torch.device) -> tuple[dict[str, Any], Callable[[], None]]:
    """Copies of all tensors in nested dicts and lists, in memory of their own, and what waits until they are whole.

    A GPU copies them into pinned memory, between the work that it was given before and after, and nobody waits for it
    here.
    """
    copied = {key: _copied(value) for key, value in state.items()}
    if device.type != "cuda":
        return copied, lambda: None
    ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
    ready.record(torch.cuda.current_stream(device))
    return copied, ready.synchronize


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_copied(inner) for inner in value]
    if not isinstance(value, Tensor):
        return value
    if not value.is_cuda:
        return value.detach().clone()
    return torch.empty_like(value, device="cpu", pin_memory=True).copy_(value.detach(), non_blocking=True)


class BackgroundWriter:
    """A context manager with one thread: each write waits for the one before, and its end for the last one.

    What a write raises is raised again in the thread that trains: by the next `check` or `write`, or at the end. Where
    another error has led there, that of the write is logged.

    Args:
        check: of the trial, see `TrialContext`.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="attnsearch-writer")
        self._pending: Future[None] | None = None

    def write(self, write: Callable[[], None]) -> None:
        """Starts a write once the one before it has ended."""
        self._wait()
        self._pending = self._thread.submit(write)

    def check(self) -> None:
        """Raises what a write that has ended has raised, and what the trial's own check does."""
        if self._pending is not None and self._pending.done():
            self._wait()
        self._check()

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        if error is None or isinstance(error, TrialPruned | TrialPaused):
            self._wait()
        elif self._pending is not None and isinstance(failure := self._pending.exception(), AttnSearchError):
            logger.warning("the files of the last epoch were not written either: %s", failure)
