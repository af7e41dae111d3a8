"""Which device and which arithmetic a run uses; torch is imported only when something is asked."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeVar

from attnsearch.errors import ConfigError
from attnsearch.types import Batch

if TYPE_CHECKING:
    import torch

    Model = TypeVar("Model", bound=torch.nn.Module)

Precision = Literal["bf16", "fp32"]

#: Processor flags that mean bf16 products in hardware: x86, ARM.
_BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")


def pick_device(setting: str) -> torch.device:
    """The device of `runtime.device`: `auto` is the first GPU where there is one, else the processor.

    Raises:
        ConfigError: a GPU that this machine does not have.
    """
    import torch

    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if setting == "auto":
        return torch.device("cuda", 0) if n_gpus else torch.device("cpu")
    device = torch.device(setting)
    index = device.index or 0
    if device.type == "cuda" and index >= n_gpus:
        raise ConfigError(
            f"runtime.device is {setting!r}, but torch sees {n_gpus} CUDA devices here; use auto, cpu or a lower number"
        )
    return torch.device("cuda", index) if device.type == "cuda" else device


def pick_precision(setting: str, device: torch.device) -> Precision:
    """The arithmetic of `train.precision`: `auto` is bf16 where the hardware has it, the processor included."""
    if setting == "auto":
        return "bf16" if _has_bf16(device) else "fp32"
    return "bf16" if setting == "bf16" else "fp32"


def set_threads(n_threads: int | None) -> int:
    """Limits torch's processor threads; None leaves them. Returns the number in force."""
    import torch

    if n_threads is not None:
        torch.set_num_threads(n_threads)
    return torch.get_num_threads()


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
        channels_last: whether images and weights lie in channels-last memory.
    """

    device: torch.device
    precision: Precision = "fp32"
    channels_last: bool = False

    def autocast(self) -> torch.autocast:
        """The context of a forward pass."""
        import torch

        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def place_model(self, model: Model) -> Model:
        """Moves the model to the device, in place."""
        import torch

        model.to(self.device)
        return model.to(memory_format=torch.channels_last) if self.channels_last else model

    def place_images(self, batch: Batch) -> Batch:
        """The batch with its images in the memory format that the model wants."""
        import torch

        if not self.channels_last:
            return batch
        return replace(batch, images=batch.images.contiguous(memory_format=torch.channels_last))


#: An evaluation batch is some times a training part, which must keep its activations.
_EVALUATION_FACTOR, _MAX_EVALUATION_BATCH = 4, 64


def evaluation_batch_size(part_images: int) -> int:
    """Images that are evaluated at once where `part_images` are trained on at once.

    One rule for validation and for later evaluation, so that both round alike.
    """
    return min(_MAX_EVALUATION_BATCH, _EVALUATION_FACTOR * part_images)


def seed_torch(*parts: int | str) -> None:
    """Seeds all of torch's generators from what the numbers that follow may depend on.

    Training seeds every epoch by (seed, epoch), so a resumed run needs no stored generator state.
    """
    import torch

    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def count_gpus(setting: str) -> int:
    """GPUs that workers may be spread over under `runtime.device`: none for `cpu`, one for a named one."""
    import torch

    if setting == "cpu" or not torch.cuda.is_available():
        return 0
    return torch.cuda.device_count() if setting in ("auto", "cuda") else 1
