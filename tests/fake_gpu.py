"""A GPU that computes nothing: tensors have the shapes of a true one, and whatever waits for it is written down."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from attnsearch.data import loader
from attnsearch.data.cache import PixelArray
from attnsearch.data.transfer import Sent, Transfer
from attnsearch.training import loop

GPU = torch.device("cuda", 0)
_WAITS = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten._unique", "aten.unique")


class Waits(TorchDispatchMode):
    """Writes down each operation that waits for the GPU: numbers and sizes that are read, and blocking copies."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.n_operations = 0
        self._is_allowed = False

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Copies from pinned memory, which do not wait."""
        self._is_allowed = True
        yield
        self._is_allowed = False

    def _note(self, what: str) -> None:
        frames = [frame for frame in traceback.extract_stack() if "/attnsearch/" in frame.filename]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "elsewhere"
        self.found.append(f"{what} at {where}")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [value for value in args if isinstance(value, Tensor)]
        on_gpu = any(tensor.device.type == "cuda" for tensor in tensors)
        name = str(func).removesuffix(".default")
        self.n_operations += on_gpu
        if on_gpu and name.startswith(_WAITS):
            self._note(name)
        elif name.startswith(("aten._to_copy", "aten.copy_")) and not self._is_allowed:
            target = kwargs.get("device") or tensors[0].device
            source = tensors[-1].device
            is_blocking = not (kwargs.get("non_blocking") or any(value is True for value in args))
            if is_blocking and {torch.device(target).type, source.type} == {"cpu", "cuda"}:
                self._note(f"{name} {source.type} to {torch.device(target).type}")
        elif name.startswith("aten.index.Tensor") and any(
            part is not None and part.dtype == torch.bool for part in args[1]
        ):
            self._note(f"{name} by truth values")
        return func(*args, **kwargs)


class FakeTransfer(Transfer):
    """Copies that do not wait, as those from pinned memory."""

    waits: Waits

    def __init__(self, device: torch.device) -> None:
        self.device, self._stream = device, None

    def send(self, array: NDArray[Any]) -> Sent:
        return _FakeSent(torch.from_numpy(array), self.waits, self.device)


class _FakeSent(Sent):
    def __init__(self, tensor: Tensor, waits: Waits, device: torch.device) -> None:
        super().__init__(tensor)
        object.__setattr__(self, "_to", (waits, device))

    def receive(self) -> Tensor:
        waits, device = self.__dict__["_to"]
        with waits.allowed():
            return self.tensor.to(device, non_blocking=True)


@dataclass
class FakeHostCopy:
    """A copy whose numbers are known without a GPU: ones."""

    tensors: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        for tensor in self.tensors.values():
            tensor.to("cpu", non_blocking=True)

    def read(self) -> dict[str, Any]:
        return dict.fromkeys(self.tensors, _One())


class _One:
    def item(self) -> float:
        return 1.0


@contextmanager
def fake_gpu(monkeypatch: pytest.MonkeyPatch, *, is_resident: bool = False) -> Iterator[Waits]:
    """Inside, tensors on `GPU` have shapes and no values; what waits for them is in `found`.

    Args:
        is_resident: whether pixels are in its memory.
    """
    waits = Waits()
    monkeypatch.setattr(FakeTransfer, "waits", waits, raising=False)
    monkeypatch.setattr(loader, "Transfer", FakeTransfer)
    monkeypatch.setattr(loader, "resident_pixels", _on_gpu if is_resident else lambda *_: None)
    monkeypatch.setattr(loop, "HostCopy", FakeHostCopy)
    monkeypatch.setattr(loop, "start_peak", lambda _device: None)
    monkeypatch.setattr(loop, "peak_mb", lambda _device: 0.0)
    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield stack.enter_context(waits)


def _on_gpu(array: PixelArray, _device: torch.device) -> Tensor:
    return torch.empty(array.pixels.shape, dtype=torch.uint8, device=GPU)


def put_on_gpu(model: nn.Module) -> nn.Module:
    """The model with parameters and buffers of the same shapes on the GPU."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                fake = torch.empty(parameter.shape, device=GPU)
                module._parameters[name] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=GPU)
    return model
