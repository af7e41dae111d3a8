"""Which device and which arithmetic a run uses, and what it holds in memory; torch is imported only on use."""

from __future__ import annotations

import gc
import hashlib
import os
import platform
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from attnsearch.errors import AttnSearchError, ConfigError, DeviceError, OutOfMemory
from attnsearch.types import Batch

if TYPE_CHECKING:
    import torch

    Model = TypeVar("Model", bound=torch.nn.Module)

Precision = Literal["bf16", "fp32"]

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
"""The variable that names the GPUs a process sees: numbers, UUIDs or names of MIG instances; empty: none."""
ASSIGNED_GPU = "ATTNSEARCH_ASSIGNED_GPU"
"""The variable that tells a worker that its supervisor has made one GPU visible to it."""

#: Processor flags that mean bf16 products in hardware: x86, ARM.
_BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")


def pick_device(setting: str) -> torch.device:
    """The device of `runtime.device`: `auto` is the first GPU where there is one, else the processor.

    Raises:
        ConfigError: a GPU that this machine does not have.
    """
    import torch

    if setting == "cpu":
        return torch.device("cpu")
    n_gpus = _count_gpus()
    if setting == "auto" and not n_gpus:
        return torch.device("cpu")
    # A worker sees its own GPU alone, under another number than its supervisor.
    index = 0 if setting == "auto" or ASSIGNED_GPU in os.environ else _gpu_index(setting) or 0
    _require_gpu(setting, index, n_gpus)
    return torch.device("cuda", index)


def pick_precision(setting: str, device: torch.device) -> Precision:
    """The arithmetic of `train.precision`: `auto` is bf16 where the hardware has it, the processor included."""
    is_bf16 = _has_bf16(device) if setting == "auto" else setting == "bf16"
    return "bf16" if is_bf16 else "fp32"


def set_threads(n_threads: int | None) -> int:
    """Limits torch's processor threads; None leaves them. Returns the number in force."""
    import torch

    if n_threads is not None:
        torch.set_num_threads(n_threads)
    return torch.get_num_threads()


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_device(device: torch.device) -> str:
    """One line for records and logs, such as `NVIDIA H200` or `cpu (x86_64, 8 threads)`."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"


def _has_bf16(device: torch.device) -> bool:
    import torch

    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(bool(capabilities.get(flag)) for flag in _BF16_FLAGS)
    # torch 2.6 to 2.8 have only this private question
    return bool(torch.cpu._is_avx512_bf16_supported())


@dataclass(frozen=True)
class Arithmetic:
    """How a model is run; training, validation and evaluation share it, so that their numbers are the same.

    Attributes:
        precision: bf16 is autocast: weights, optimizer state and losses stay float32.
        channels_last: whether images and weights are in channels-last memory format.
        sizes_vary: whether batches of one run have images of several sizes.
    """

    device: torch.device
    precision: Precision = "fp32"
    channels_last: bool = False
    sizes_vary: bool = False

    def autocast(self) -> torch.autocast:
        """The context of a forward pass."""
        import torch

        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def place_model(self, model: Model) -> Model:
        """Moves the model to the device, in place."""
        import torch

        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # fp32 means TF32 where the hardware has it
            torch.backends.cudnn.benchmark = not self.sizes_vary  # it tries its kernels for each new size
        model.to(self.device)
        return model.to(memory_format=self.memory_format) if self.channels_last else model

    @property
    def memory_format(self) -> torch.memory_format:
        """Of images and weights."""
        import torch

        return torch.channels_last if self.channels_last else torch.contiguous_format

    def place_images(self, batch: Batch) -> Batch:
        """The batch with its images in the memory format of the model."""
        if not self.channels_last:
            return batch
        return replace(batch, images=batch.images.contiguous(memory_format=self.memory_format))


#: An evaluation batch is some times a training part, which must keep its activations.
_EVALUATION_FACTOR, _MAX_EVALUATION_BATCH = 4, 64
#: On a GPU also as many images as take a small part of its memory, at a generous number of bytes for each pixel.
_EVALUATION_MEMORY, _BYTES_PER_PIXEL, _MAX_GPU_EVALUATION_BATCH = 1 / 16, 1024, 256


def evaluation_batch_size(
    batch_size: int, *, accumulation: int, image_hw: tuple[int, int], device: torch.device
) -> int:
    """Images of `image_hw` pixels that are evaluated at once where batches are trained on in `accumulation` parts.

    One rule for validation and for later evaluation, so that both round alike: on a GPU it asks for all memory that
    there is and not for what happens to be free.
    """
    usual = min(_MAX_EVALUATION_BATCH, _EVALUATION_FACTOR * (batch_size // accumulation))
    if device.type != "cuda":
        return usual
    n_bytes = _EVALUATION_MEMORY * device_bytes(device) / accumulation
    fitting = int(n_bytes // (_BYTES_PER_PIXEL * image_hw[0] * image_hw[1]))
    return max(usual, min(_MAX_GPU_EVALUATION_BATCH, fitting))


def seed_torch(*parts: int | str) -> None:
    """Seeds all of torch's generators from what the numbers that follow may depend on.

    Training seeds every epoch by (seed, epoch), so a resumed run needs no stored generator state.
    """
    import torch

    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def worker_gpus(setting: str) -> tuple[str, ...]:
    """The GPUs that the workers of a search are spread over under `runtime.device`, none where that is the processor.

    Returns:
        For each what `VISIBLE_GPUS` must hold so that a process sees this one alone, as its first.
    Raises:
        ConfigError: a GPU that this machine does not have.
    """
    if setting == "cpu":
        return ()
    index = _gpu_index(setting)
    if setting != "auto":
        _require_gpu(setting, index or 0, _count_gpus())
    visible = _visible_gpus()
    return visible if index is None else visible[index : index + 1]


def _visible_gpus() -> tuple[str, ...]:
    """The GPUs of this process in the order of their numbers, by the names that the variable gives them, if it is set.

    Where it lists several MIG instances, CUDA sees the first one alone, but each of them can serve a worker.
    """
    n_gpus = _count_gpus()
    listed = os.environ.get(VISIBLE_GPUS)
    names = [str(index) for index in range(n_gpus)] if listed is None else [name.strip() for name in listed.split(",")]
    if n_gpus and names[0].startswith("MIG-"):
        return tuple(takewhile(lambda name: name.startswith("MIG-"), names))
    return tuple(names[:n_gpus])


def _count_gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _gpu_index(setting: str) -> int | None:
    """The number of `cuda:N`, None for `cuda` and `auto`."""
    _, _, number = setting.partition(":")
    return int(number) if number else None


def _require_gpu(setting: str, index: int, n_gpus: int) -> None:
    if index >= n_gpus:
        raise ConfigError(
            f"runtime.device is {setting!r}, but torch sees {n_gpus} CUDA devices here; use auto, cpu or a lower number"
        )


#: What torch, oneDNN, cuDNN and cuBLAS say in a plain `RuntimeError` where an allocation failed.
_NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|alloc_failed|out of memory", re.IGNORECASE)
#: What cuBLAS and cuDNN say where their own allocation failed, but also where the device did.
_PERHAPS_NO_MEMORY = re.compile(
    r"(cublas|cudnn|cusolver)_status_(not_initialized|execution_failed|internal_error)"
    r"|unable to find (a valid cudnn algorithm|an engine)",
    re.IGNORECASE,
)
_DEVICE_ERROR = re.compile(
    r"\b(cuda|cudnn|cublas|cusolver|cufft|cusparse|nccl|nvrtc|nvml|hip) (unknown |internal |driver |runtime )*error"
    r"|\b(cudnn|cublas|cusolver|cufft|cusparse)_status_|\bncclsystemerror|\bncclinternalerror|\becc\b"
    r"|device-side assert|no kernel image|illegal memory access|unspecified launch failure"
    r"|cuda driver|nvidia driver|no cuda gpus are available|cuda-capable device",
    re.IGNORECASE,
)
#: Less than this free on the device: a library that asks for its workspace does not get it.
_SHORT_BYTES = 2**30
#: Fraction of the device in the hands of others above which they, not the setting, are why memory ran out.
_OTHERS_FRACTION = 0.25
_GB = 1e9


@contextmanager
def device_errors() -> Iterator[None]:
    """Raises what a device reports in a plain error of torch as `OutOfMemory` or `DeviceError`; others pass unchanged.

    Also a decorator.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        device_error = classify_device_error(error)
        if device_error is None:
            raise
        raise device_error from error


def classify_device_error(error: BaseException) -> AttnSearchError | None:
    """What an error of a training or scoring step means, asked before its memory is released.

    Returns:
        `OutOfMemory` where the setting itself needs too much, `DeviceError` where the device failed or other processes
        fill it, None for an error of another kind.
    """
    import torch

    text = str(error).strip().partition("\n")[0] or type(error).__name__
    if isinstance(error, MemoryError):
        return OutOfMemory(text)
    if not isinstance(error, RuntimeError):
        return None
    if isinstance(error, torch.OutOfMemoryError) or _NO_MEMORY.search(str(error)):
        return _blame_memory(text)
    if _PERHAPS_NO_MEMORY.search(str(error)) and _is_short():
        return _blame_memory(text)
    if isinstance(error, getattr(torch, "AcceleratorError", ())) or _DEVICE_ERROR.search(str(error)):
        return DeviceError(f"the device failed: {text}; check it with nvidia-smi and dmesg")
    return None


_STATUS, _MEMORY = Path("/proc/self/status"), Path("/proc/meminfo")
_CONTAINER_MEMORY = Path("/sys/fs/cgroup/memory.max")
_MB = 1e6


def start_peak(device: torch.device) -> None:
    """Lets `peak_mb` count from now on, where the device can."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_mb(device: torch.device) -> float:
    """Megabytes: of a GPU the peak of this process since `start_peak`, of a processor what the process holds now."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _MB
    return anonymous_mb()


def anonymous_mb() -> float:
    """Megabytes that belong to this process alone, without mapped files; its peak where the system cannot tell."""
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024 / _MB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MB


def free_memory_bytes() -> int | None:
    """Memory that can be taken without swapping; None where the system does not tell."""
    return _memory_line("MemAvailable:")


def memory_bytes() -> int:
    """All memory of this machine, or of the container that this process is in."""
    there = _memory_line("MemTotal:") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _CONTAINER_MEMORY.read_text().strip() if _CONTAINER_MEMORY.exists() else "max"
    return min(there, int(limit)) if limit.isdecimal() else there


def _memory_line(name: str) -> int | None:
    lines = _MEMORY.read_text().splitlines() if _MEMORY.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), None)


def device_bytes(device: torch.device) -> int:
    """All memory of a GPU."""
    import torch

    return int(torch.cuda.get_device_properties(device).total_memory)


def free_device_bytes(device: torch.device) -> int:
    """Memory of a GPU that a process can still take; what torch keeps for this one without using it counts as free."""
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def release_memory() -> None:
    """Gives back what a finished or failed run held."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()  # does nothing where no GPU is used


@dataclass(frozen=True)
class _DeviceMemory:
    """Bytes of one GPU; `own` are those that torch holds in this process."""

    free: int
    total: int
    own: int

    @property
    def others(self) -> int:
        return max(0, self.total - self.free - self.own)


def _device_memory() -> _DeviceMemory | None:
    """Memory of the GPU that this process uses most; None without one, or after an error that it does not survive."""
    import torch

    if not torch.cuda.is_available():
        return None
    index = max(range(torch.cuda.device_count()), key=torch.cuda.memory_reserved)
    try:
        free, total = torch.cuda.mem_get_info(index)
    except RuntimeError:
        return None
    return _DeviceMemory(free, total, torch.cuda.memory_reserved(index))


def _is_short() -> bool:
    memory = _device_memory()
    return memory is not None and memory.free < _SHORT_BYTES


def _blame_memory(text: str) -> AttnSearchError:
    """Why memory ran out: because of the setting, or of other processes on the GPU."""
    memory = _device_memory()
    if memory is None or memory.others <= _OTHERS_FRACTION * memory.total:
        return OutOfMemory(text)
    return DeviceError(
        f"other processes hold {memory.others / _GB:.1f} of the {memory.total / _GB:.1f} GB of the GPU ({text}); "
        "end them, use fewer workers per GPU, or choose another with runtime.device"
    )
