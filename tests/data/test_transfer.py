"""Work ahead of a training, and pixels in the memory of its device."""

import gc
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from attnsearch.data import transfer
from attnsearch.data.cache import PixelArray
from attnsearch.data.transfer import Transfer, prefetched, resident_pixels, upload


def n_threads() -> int:
    return sum(thread.name.startswith("attnsearch-prefetch") for thread in threading.enumerate())


def test_results_keep_their_order() -> None:
    assert list(prefetched(lambda x: x * x, range(7))) == [0, 1, 4, 9, 16, 25, 36]


def test_nothing_to_do_gives_nothing() -> None:
    assert list(prefetched(str, [])) == []


def test_work_runs_at_most_so_far_ahead() -> None:
    asked: list[int] = []

    def items() -> Iterator[int]:
        for item in range(10):
            asked.append(item)
            yield item

    results = prefetched(lambda x: x, items(), depth=2)
    next(results)
    assert asked == [0, 1, 2]  # one handed out, two ahead


def test_an_error_comes_where_its_result_would_have() -> None:
    def work(x: int) -> int:
        return 1 // (x - 2)

    results = prefetched(work, range(5))
    assert [next(results), next(results)] == [-1, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert n_threads() == 0


def test_the_thread_ends_when_the_consumer_stops_early() -> None:
    for _ in prefetched(lambda x: x, range(100)):
        break
    assert n_threads() == 0


def test_a_processor_needs_no_copy() -> None:
    array = np.arange(6, dtype=np.int64).reshape(2, 3)
    sent = Transfer(torch.device("cpu"))
    assert sent.send(array).receive().data_ptr() == sent.pinned(array).data_ptr() == array.ctypes.data
    assert resident_pixels(PixelArray(np.zeros((2, 4, 4, 3), dtype=np.uint8)), torch.device("cpu")) is None


def test_pixels_are_uploaded_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_CHUNK_BYTES", 100)  # two images of 48 bytes
    pixels = np.random.default_rng(0).integers(256, size=(5, 4, 4, 3), dtype=np.uint8)
    pixels.flags.writeable = False  # as a memory map
    np.testing.assert_array_equal(upload(pixels, torch.device("cpu")).numpy(), pixels)


@pytest.mark.parametrize(("free", "stays"), [(4 * 96, True), (4 * 96 - 1, False)])
def test_pixels_stay_on_a_gpu_where_a_quarter_of_its_free_memory_holds_them(
    monkeypatch: pytest.MonkeyPatch, free: int, stays: bool
) -> None:
    n_uploads = []
    monkeypatch.setattr(transfer, "free_device_bytes", lambda _device: free)
    monkeypatch.setattr(transfer, "upload", lambda pixels, _device: n_uploads.append(1) or torch.from_numpy(pixels))
    array, gpu = PixelArray(np.ones((2, 4, 4, 3), dtype=np.uint8)), torch.device("cuda", 0)
    first, second = resident_pixels(array, gpu), resident_pixels(array, gpu)
    assert (first is not None) is stays
    assert first is second  # one copy for training and evaluation
    assert len(n_uploads) == stays
    n_held = len(transfer._RESIDENT)
    del array
    gc.collect()
    assert len(transfer._RESIDENT) == n_held - 1  # they go with the data set


def test_pixels_stay_with_the_host_where_another_process_takes_the_memory_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_pixels: object, _device: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(transfer, "free_device_bytes", lambda _device: 10**9)
    monkeypatch.setattr(transfer, "upload", refuse)
    array = PixelArray(np.ones((2, 4, 4, 3), dtype=np.uint8))
    assert resident_pixels(array, torch.device("cuda", 0)) is None
