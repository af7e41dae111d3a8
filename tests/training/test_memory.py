"""What counts as too little memory."""

from __future__ import annotations

import pytest
import torch

from attnsearch.training import memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_all_ways_of_saying_it_are_understood(error: Exception) -> None:
    assert memory.is_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("shapes cannot be multiplied"), ValueError("out of memory")])
def test_other_errors_are_not_mistaken_for_it(error: Exception) -> None:
    assert not memory.is_out_of_memory(error)


def test_a_true_failure_of_the_allocator_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert memory.is_out_of_memory(caught.value)


def test_held_memory_grows_with_what_is_held() -> None:
    before = memory.peak_mb(torch.device("cpu"))
    held = torch.ones(16_000_000)  # 64 MB, written to
    assert memory.peak_mb(torch.device("cpu")) - before == pytest.approx(64, abs=8)
    del held
