"""Device, arithmetic and seeds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from attnsearch import device
from attnsearch.errors import AttnSearchError, ConfigError, DeviceError, OutOfMemory


def test_import_does_not_import_torch() -> None:
    code = "import sys, attnsearch.device; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_auto_takes_the_processor_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.pick_device("auto") == torch.device("cpu")


def test_auto_takes_the_first_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device.pick_device("auto") == torch.device("cuda", 0)
    assert device.pick_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize("setting", ["cuda", "cuda:3"])
def test_an_absent_gpu_is_refused(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"'{setting}', but torch sees 0"):
        device.pick_device(setting)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretends so many GPUs, under a `CUDA_VISIBLE_DEVICES` that someone set, or under none."""

    def pretend(n_gpus: int, listed: str | None = None) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: n_gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
        monkeypatch.delenv(device.VISIBLE_GPUS, raising=False)
        if listed is not None:
            monkeypatch.setenv(device.VISIBLE_GPUS, listed)

    return pretend


@pytest.mark.parametrize(
    ("listed", "n_gpus", "names"),
    [
        (None, 3, ("0", "1", "2")),
        ("4, 2,7", 3, ("4", "2", "7")),
        ("GPU-8f3c,GPU-11aa", 2, ("GPU-8f3c", "GPU-11aa")),
        ("MIG-5d0e,MIG-77b1", 1, ("MIG-5d0e", "MIG-77b1")),  # CUDA shows one process the first alone
        ("3,1,-1,2", 2, ("3", "1")),
        ("", 0, ()),
        ("-1", 0, ()),
        (None, 0, ()),
    ],
)
def test_workers_are_spread_over_what_is_visible(
    listed: str | None, n_gpus: int, names: tuple[str, ...], gpus: Callable[..., None]
) -> None:
    gpus(n_gpus, listed)
    assert device.worker_gpus("auto") == names
    assert device.worker_gpus("cpu") == ()
    if n_gpus:
        assert device.worker_gpus("cuda") == names
        assert device.worker_gpus(f"cuda:{n_gpus - 1}") == names[n_gpus - 1 : n_gpus]


@pytest.mark.parametrize(("setting", "n_gpus"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2)])
def test_no_worker_gets_an_absent_gpu(setting: str, n_gpus: int, gpus: Callable[..., None]) -> None:
    gpus(n_gpus)
    with pytest.raises(ConfigError, match=f"'{setting}', but torch sees {n_gpus}"):
        device.worker_gpus(setting)


def test_a_worker_finds_its_only_gpu_whatever_its_number_for_others(
    gpus: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(1, "7")
    monkeypatch.setenv(device.ASSIGNED_GPU, "7")
    assert device.pick_device("cuda:2") == device.pick_device("auto") == torch.device("cuda", 0)
    assert device.pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("flags", "precision"),
    [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"bf16": True}, "bf16"), ({"avx2": True}, "fp32")],
)
def test_auto_precision_follows_the_processor(
    flags: dict[str, bool], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags, raising=False)
    assert device.pick_precision("auto", torch.device("cpu")) == precision


@pytest.mark.parametrize("setting", ["bf16", "fp32"])
def test_a_named_precision_is_taken_at_its_word(setting: str) -> None:
    assert device.pick_precision(setting, torch.device("cpu")) == setting


def test_autocast_computes_in_bf16_and_leaves_weights_in_fp32() -> None:
    layer = torch.nn.Linear(4, 2)
    with device.Arithmetic(torch.device("cpu"), "bf16").autocast():
        assert layer(torch.ones(3, 4)).dtype == torch.bfloat16
    with device.Arithmetic(torch.device("cpu"), "fp32").autocast():
        assert layer(torch.ones(3, 4)).dtype == torch.float32
    assert layer.weight.dtype == torch.float32


def test_evaluation_batches_are_some_times_a_training_part_up_to_a_limit() -> None:
    def size(n_images: int, accumulation: int = 1) -> int:
        cpu = torch.device("cpu")
        return device.evaluation_batch_size(n_images, accumulation=accumulation, image_hw=(96, 96), device=cpu)

    assert [size(n_images) for n_images in (1, 8, 100)] == [4, 32, 64]
    assert [size(16, accumulation) for accumulation in (1, 2, 4)] == [64, 32, 16]


@pytest.mark.parametrize(
    ("gigabytes", "side_px", "accumulation", "n_images"),
    [
        (128, 96, 1, 256),  # the limit
        (128, 448, 1, 41),  # 2^37 / 16 / 1024 / 448^2 = 41.8
        (128, 448, 2, 20),
        (8, 448, 1, 16),  # memory holds 2 by that estimate, and a training part of 4 has been fitting
    ],
)
def test_evaluation_batches_on_a_gpu_grow_with_its_memory(
    monkeypatch: pytest.MonkeyPatch, gigabytes: int, side_px: int, accumulation: int, n_images: int
) -> None:
    monkeypatch.setattr(device, "device_bytes", lambda _device: gigabytes * 2**30)
    gpu = torch.device("cuda", 0)
    found = device.evaluation_batch_size(4, accumulation=accumulation, image_hw=(side_px, side_px), device=gpu)
    assert found == n_images


@pytest.mark.parametrize("sizes_vary", [False, True])
def test_a_gpu_computes_fp32_as_tf32_and_tries_kernels_where_sizes_repeat(
    monkeypatch: pytest.MonkeyPatch, sizes_vary: bool
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", sizes_vary)
    model = torch.nn.Linear(2, 2)
    device.Arithmetic(torch.device("cpu")).place_model(model)
    assert (asked, torch.backends.cudnn.benchmark) == ([], sizes_vary)  # the arithmetic of a processor stays
    monkeypatch.setattr(model, "to", lambda *_, **__: model)
    device.Arithmetic(torch.device("cuda", 0), sizes_vary=sizes_vary).place_model(model)
    assert (asked, torch.backends.cudnn.benchmark) == (["high"], not sizes_vary)


def test_seeds_depend_on_every_part() -> None:
    def draw(*parts: int | str) -> float:
        device.seed_torch(*parts)
        return float(torch.rand(()))

    draws = [draw(1, 2, "train"), draw(1, 3, "train"), draw(2, 2, "train"), draw(12, "train")]
    assert draw(1, 2, "train") == draws[0]
    assert len(set(draws)) == 4


def test_threads_are_left_alone_without_a_number() -> None:
    n_threads = torch.get_num_threads()
    assert device.set_threads(None) == n_threads
    assert device.set_threads(1) == 1
    device.set_threads(n_threads)
    assert device.describe_device(torch.device("cpu")).endswith(f"{n_threads} threads)")


GB = 2**30
NO_HANDLE = "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"
NO_WORKSPACE = "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretends a GPU of 16 GB with so much in the hands of this process and of others."""

    def pretend(*, own: int, others: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _index: own * GB)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _index: ((16 - own - others) * GB, 16 * GB))

    return pretend


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
def test_all_reports_of_too_little_memory_are_understood(error: Exception) -> None:
    assert isinstance(device.classify_device_error(error), OutOfMemory)


def test_a_true_failure_of_the_allocator_is_recognised() -> None:
    with pytest.raises(OutOfMemory), device.device_errors():
        torch.empty(2**60)


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported later",
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA error: device-side assert triggered",
        "CUDA error: no kernel image is available for execution on the device",
        "CUDA driver error: unknown error",
        "Unexpected error from cudaGetDeviceCount(). Error 804; CUDA unknown error",
        "NCCL error in: ProcessGroupNCCL.cpp:1970, unhandled cuda error",
        "ncclSystemError: System call (e.g. socket, malloc) or external library call failed",
        "No CUDA GPUs are available",
        "Found no NVIDIA driver on your system.",
        NO_HANDLE,
        NO_WORKSPACE,
    ],
)
def test_errors_of_the_device_are_not_the_settings(text: str) -> None:
    known = device.classify_device_error(RuntimeError(text))
    assert isinstance(known, DeviceError)
    assert str(known).startswith(f"the device failed: {text.splitlines()[0]}; check")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes cannot be multiplied"),
        RuntimeError("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"),
        RuntimeError("Input type (torch.cuda.FloatTensor) and weight type (torch.FloatTensor) should be the same"),
        ValueError("out of memory"),
    ],
)
def test_other_errors_pass_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, device.device_errors():
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("own", "others", "expected"),
    [(15, 1, OutOfMemory), (11, 5, DeviceError), (2, 14, DeviceError), (1, 1, DeviceError)],
)
def test_a_library_that_cannot_start_means_memory_only_where_little_is_free(
    own: int, others: int, expected: type[AttnSearchError], one_gpu: Callable[..., None]
) -> None:
    one_gpu(own=own, others=others)
    for text in (NO_HANDLE, NO_WORKSPACE):
        assert type(device.classify_device_error(RuntimeError(text))) is expected


@pytest.mark.parametrize(("own", "others", "expected"), [(13, 1, OutOfMemory), (10, 5, DeviceError)])
def test_memory_that_others_hold_is_no_error_of_the_setting(
    own: int, others: int, expected: type[AttnSearchError], one_gpu: Callable[..., None]
) -> None:
    one_gpu(own=own, others=others)
    known = device.classify_device_error(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4 GiB"))
    assert type(known) is expected
    assert ("other processes hold 5.4 of the 17.2 GB" in str(known)) == (expected is DeviceError)


def test_a_gpu_that_does_not_answer_has_failed(one_gpu: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(_index: int) -> tuple[int, int]:
        raise RuntimeError("CUDA error: unspecified launch failure")

    one_gpu(own=15, others=1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lost)
    assert isinstance(device.classify_device_error(RuntimeError(NO_WORKSPACE)), DeviceError)


def test_held_memory_grows_with_what_is_held() -> None:
    before = device.peak_mb(torch.device("cpu"))
    held = torch.ones(16_000_000)  # 64 MB, written to
    assert device.peak_mb(torch.device("cpu")) - before == pytest.approx(64, abs=8)
    del held


@pytest.mark.parametrize(("limit", "expected"), [("1000000", 1_000_000), ("max", 2048 * 1024), (None, 2048 * 1024)])
def test_memory_is_that_of_the_container(
    limit: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "_MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(device, "_CONTAINER_MEMORY", tmp_path / "memory.max")
    (tmp_path / "meminfo").write_text("MemTotal:  2048 kB\nMemAvailable:  1024 kB\n")
    if limit is not None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
    assert device.memory_bytes() == expected
    assert device.free_memory_bytes() == 1024 * 1024


def test_memory_is_known_where_linux_does_not_tell_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_MEMORY", tmp_path / "none")
    assert device.memory_bytes() > 10**8
