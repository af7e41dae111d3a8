"""Refuses a weights file by the sizes that it declares, before any memory is taken for them."""

from __future__ import annotations

import mmap
import zipfile
from pathlib import Path

from torch import Tensor

from attnsearch.errors import ConfigError, StoreError

MAX_GROWTH = 4
"""How many times its own size a file may unpack to; torch stores tensors as they are, so that 1 is usual."""
_ZIP = b"PK\x03\x04"
_FILLER = b"bytearray"
_MEMORY = Path("/proc/meminfo")
_MB = 10**6


def check_declared_sizes(file: Path) -> None:
    """Compares what a file says that it holds with its own size and with the free memory.

    A pickle that makes a `bytearray` is refused as well: it fills any memory from a few bytes, and no tensor needs one.

    Raises:
        ConfigError: the file would take more than `MAX_GROWTH` times its size.
        StoreError: there is too little memory now.
        OSError, zipfile.BadZipFile: it cannot be read.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        is_zip = stream.read(len(_ZIP)) == _ZIP
    declared = _declared_in_zip(file) if is_zip else size
    if declared > MAX_GROWTH * size:
        raise ConfigError(
            f"weights file {file} of {_mb(size)} unpacks to {_mb(declared)} and is refused, as weights are not "
            "compressed; save its tensors alone with safetensors.torch.save_file"
        )
    free = _free_bytes()
    if free is not None and declared > free:
        raise StoreError(f"weights file {file} needs {_mb(declared)} of memory and {_mb(free)} are free; free some")
    if size and (_zip_names_filler(file) if is_zip else _names_filler(file)):
        raise ConfigError(f"weights file {file} makes a bytearray of any size and is refused; save its tensors alone")


def check_expanded(state: dict[str, Tensor], file: Path) -> None:
    """Refuses tensors that repeat a smaller storage: a copy of one would take memory that the file does not have.

    Raises:
        ConfigError: names the first one.
    """
    for name, tensor in state.items():
        n_bytes = tensor.numel() * tensor.element_size()
        if n_bytes > tensor.untyped_storage().nbytes():
            raise ConfigError(
                f"weights file {file}: {name} has the shape {tuple(tensor.shape)} and stores fewer values; save it "
                "with .contiguous()"
            )


def _declared_in_zip(file: Path) -> int:
    with zipfile.ZipFile(file) as archive:
        return sum(entry.file_size for entry in archive.infolist())


def _zip_names_filler(file: Path) -> bool:
    with zipfile.ZipFile(file) as archive:
        return any(_FILLER in archive.read(name) for name in archive.namelist() if name.endswith(".pkl"))


def _names_filler(file: Path) -> bool:
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(_FILLER) >= 0


def _free_bytes() -> int | None:
    """Memory that can be taken without swapping; None where the system does not tell."""
    if not _MEMORY.exists():
        return None
    lines = (line.split() for line in _MEMORY.read_text().splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:"), None)


def _mb(n_bytes: int) -> str:
    return f"{n_bytes / _MB:.3g} MB"
