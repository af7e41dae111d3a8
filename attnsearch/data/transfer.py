"""Between host and device: work ahead on a thread, copies that nobody waits for, pixels that stay on the device."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnsearch.data.cache import PixelArray
from attnsearch.device import free_device_bytes

logger = logging.getLogger(__name__)

A = TypeVar("A")
R = TypeVar("R")

_RESIDENT_FRACTION = 0.25
"""Of the free memory of a GPU that the pixels of one data set may take."""
_CHUNK_BYTES = 2**28


def prefetched(work: Callable[[A], R], items: Iterable[A], *, depth: int = 2) -> Iterator[R]:
    """`work(item)` of each item in order, up to `depth` items ahead of the consumer.

    The thread ends with the iterator, also when the consumer stops early; an error of `work` is raised where its
    result would have come.
    """
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="attnsearch-prefetch") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


@dataclass(frozen=True, eq=False)
class Sent:
    """An array on its way to the device."""

    tensor: Tensor
    ready: torch.cuda.Event | None = None

    def receive(self) -> Tensor:
        """The tensor, for use on the current stream, which waits for the copy; the caller does not."""
        if self.ready is not None:
            stream = torch.cuda.current_stream(self.tensor.device)
            stream.wait_event(self.ready)
            self.tensor.record_stream(stream)
        return self.tensor


class Transfer:
    """Copies arrays to a device: to a GPU from pinned memory on a stream of its own, so that nobody waits.

    Any thread may send.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = _new_stream(device) if device.type == "cuda" else None

    def pinned(self, array: NDArray[Any]) -> Tensor:
        """The array as a tensor from which copies to the device need not wait."""
        tensor = torch.from_numpy(array)
        return tensor if self._stream is None else tensor.pin_memory()

    def send(self, array: NDArray[Any]) -> Sent:
        """Starts the copy of an array."""
        if self._stream is None:
            return Sent(torch.from_numpy(array).to(self.device))
        with torch.cuda.stream(self._stream):
            tensor = self.pinned(array).to(self.device, non_blocking=True)
            return Sent(tensor, self._stream.record_event())


def _new_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class HostCopy:
    """Tensors on their way from the device to the host; the thread that asks for the copy need not wait for it."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = {name: tensor.detach().to("cpu", non_blocking=True) for name, tensor in tensors.items()}
        device = next(tensor.device for tensor in tensors.values())
        self._done = torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None

    def read(self) -> dict[str, Tensor]:
        """The tensors on the CPU; waits until they are there.

        Those of a GPU are as they were when the copy was asked for, those of the CPU are no copies.
        """
        if self._done is not None:
            self._done.synchronize()
        return self._tensors


_RESIDENT: WeakKeyDictionary[PixelArray, dict[torch.device, Tensor]] = WeakKeyDictionary()


def resident_pixels(array: PixelArray, device: torch.device) -> Tensor | None:
    """The pixels (M, height, width, ...) in the memory of a GPU, where they stay as long as the array is used.

    Returns:
        None on a processor, and where they would take more than a quarter of the free memory, or another process has
        taken that meanwhile.
    """
    if device.type != "cuda":
        return None
    held = _RESIDENT.setdefault(array, {})
    if device not in held:
        free = free_device_bytes(device)
        if array.pixels.nbytes > _RESIDENT_FRACTION * free:
            logger.debug("%d bytes of pixels stay in host memory, %d are free on %s", array.pixels.nbytes, free, device)
            return None
        try:
            held[device] = upload(array.pixels, device)
        except torch.OutOfMemoryError:
            logger.debug("%d bytes of pixels stay in host memory, another process was faster", array.pixels.nbytes)
            return None
    return held[device]


def upload(pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
    """The pixels (M, ...) on a device, copied in pieces of bounded memory."""
    on_device = torch.empty(pixels.shape, dtype=torch.uint8, device=device)
    step = max(1, _CHUNK_BYTES // max(1, pixels[0].nbytes))
    for start in range(0, len(pixels), step):
        on_device[start : start + step] = torch.from_numpy(np.array(pixels[start : start + step]))
    return on_device
