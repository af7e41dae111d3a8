"""Reads and writes model weights; nothing that is read here can run code."""

from __future__ import annotations

import contextlib
import math
import mmap
import pickle
import re
import socket
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import safetensors
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from attnsearch.config.base import expand
from attnsearch.config.experiment import STUDY_PREFIX
from attnsearch.device import free_memory_bytes
from attnsearch.errors import AttnSearchError, ConfigError, StoreError
from attnsearch.files import atomic_write

CHECKPOINT_KEYS = ("class_names", "config", "epoch")
BACKBONE_PREFIX = "backbone."
CLASSIFIER_PREFIX = "fc."
WRAPPER_KEYS = ("state_dict", "model_state_dict", "model")
N_LISTED = 10
CONNECT_TIMEOUT_S = 5.0
MAX_GROWTH = 4
"""How many times its own size a file may unpack to; torch stores tensors as they are, so that 1 is usual."""
_ZIP = b"PK\x03\x04"
_FILLER = b"bytearray"
_MB = 10**6


def load_file(path: str | Path) -> dict[str, Tensor]:
    """The named tensors of a safetensors or torch file, on the CPU.

    A state under one of `WRAPPER_KEYS` is unwrapped and the `module.` of data-parallel training removed.

    Args:
        path: `~` and `$VARIABLES` are expanded.
    Raises:
        ConfigError: the file is missing, broken, holds no state, or is a pickle that would run code.
    """
    file = _existing_file(path)
    state = _load_safetensors(file)[0] if _is_safetensors(file) else _state_in(_load_pickle(file), file)
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def renamed(name: str, beginnings: Iterable[tuple[str, str]]) -> str:
    """The name with its beginning replaced, by the first pair (old, new) that fits; as it is where none does."""
    return next((new + name.removeprefix(old) for old, new in beginnings if name.startswith(old)), name)


def load_into(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copies `state` into `module`, all of it or nothing.

    Args:
        source: where the state came from, for the message.
    Raises:
        ConfigError: names are missing, unexpected or of another shape; the first ten of each are listed.
    """
    own = module.state_dict()
    # Files older than torch 0.4.1 lack the counters of batch norm; they only matter without a momentum.
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in own]
    misshapen = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    problems = [
        f"{len(names)} {problem}: {first_names(names)}"
        for problem, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
        if names
    ]
    if problems:
        raise ConfigError(f"{source} does not fit the model ({'; '.join(problems)}); use weights of the same model")
    module.load_state_dict(dict(state), strict=False)


def load_backbone(body: nn.Module, weights: str, backbone: str) -> None:
    """Fills a timm body as the setting `model.weights` says: `none`, `hub` or the path of a file.

    A file may hold the body with or without its classifier, as torchvision, timm and the backbone's authors write it,
    or be a checkpoint of this package, of any family, whose backbone part is taken.

    Args:
        backbone: the body's timm name.
    Raises:
        ConfigError: the weights cannot be found, read or fitted.
    """
    if weights == "none":
        return
    if weights.startswith(STUDY_PREFIX):
        raise ConfigError(
            f"model.weights is {weights!r}, which is looked up when a run starts; give the path of a file"
        )
    source = str(_download(backbone)) if weights == "hub" else weights
    state = load_file(source)
    if any(name.startswith(BACKBONE_PREFIX) for name in state):
        state = {name.removeprefix(BACKBONE_PREFIX): t for name, t in state.items() if name.startswith(BACKBONE_PREFIX)}
    _check_positions(state, body, source)
    load_into(body, _without_classifier(_in_layout_of_timm(state, body), body), source)


def _check_positions(state: dict[str, Tensor], body: nn.Module, source: str) -> None:
    """Refuses positions of another grid that is no square: timm resamples them as if it were one."""
    positions, wanted = state.get("pos_embed"), getattr(body, "pos_embed", None)
    if positions is None or wanted is None or positions.ndim != 3 or positions.shape == wanted.shape:
        return
    n_patches = positions.shape[1] - int(getattr(body, "num_prefix_tokens", 0))
    if math.isqrt(max(0, n_patches)) ** 2 != n_patches:
        raise ConfigError(
            f"weights file {source} has positions of {n_patches} patches in a grid that is no square; set "
            "model.position_grid to that grid, which images of another size resample"
        )


def _in_layout_of_timm(state: dict[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    """The state under timm's present names, where timm has a conversion for this kind of body."""
    convert = getattr(sys.modules[type(body).__module__], "checkpoint_filter_fn", None)
    return state if convert is None else dict(convert(state, body))


def _without_classifier(state: dict[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    named = getattr(body, "pretrained_cfg", {}).get("classifier") or ()
    prefixes = (CLASSIFIER_PREFIX, *(f"{name}." for name in ((named,) if isinstance(named, str) else named)))
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}


def save_checkpoint(
    path: Path,
    state: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    before_rename: Callable[[], None] | None = None,
) -> None:
    """Writes a model's state as safetensors under a temporary name, then renames it.

    Args:
        metadata: at least `CHECKPOINT_KEYS`: the class names as a JSON list, the config as JSON, the epoch from 1.
        before_rename: called when the bytes are on disk; if it raises, the old file stays.
    Raises:
        StoreError: the disk refuses.
        ValueError: a key of the metadata is missing.
    """
    if missing := [key for key in CHECKPOINT_KEYS if key not in metadata]:
        raise ValueError(f"metadata of {path} lacks {', '.join(missing)}")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    atomic_write(path, safetensors.torch.save(tensors, dict(metadata)), check=before_rename)


def is_checkpoint(path: str | Path) -> bool:
    """Whether a weights file is a checkpoint of this package, which knows the run that made it.

    Raises:
        ConfigError: the file is missing or broken.
    """
    file = _existing_file(path)
    return _is_safetensors(file) and all(key in _load_safetensors(file)[1] for key in CHECKPOINT_KEYS)


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state and the metadata that `save_checkpoint` wrote.

    Raises:
        ConfigError: the file is missing, broken or not a checkpoint of this package.
    """
    file = _existing_file(path)
    state, metadata = _load_safetensors(file)
    if missing := [key for key in CHECKPOINT_KEYS if key not in metadata]:
        raise ConfigError(f"{file} is not a checkpoint of attnsearch: its metadata lacks {', '.join(missing)}")
    return state, metadata


def first_names(names: list[str]) -> str:
    """The first ten, in one line."""
    return ", ".join(names[:N_LISTED]) + (", …" if len(names) > N_LISTED else "")


def _existing_file(path: str | Path) -> Path:
    file = path if isinstance(path, Path) else Path(expand(path)).expanduser()
    if not file.is_file():
        raise ConfigError(f"weights file {file} does not exist or is not a file; give the path of an existing one")
    return file


def _is_safetensors(file: Path) -> bool:
    try:
        stream = file.open("rb")
    except OSError as error:
        raise ConfigError(f"weights file {file} cannot be read ({error.strerror}); give this user the right") from error
    with stream:
        return file.suffix == ".safetensors" or stream.read(9)[8:] == b"{"  # 8 bytes of length, then JSON


def _load_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        check_declared_sizes(file)
        with safetensors.safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except AttnSearchError:
        raise
    except Exception as error:  # safetensors lets errors of its own and of Python through
        raise ConfigError(f"weights file {file} is not a readable safetensors file: {error}") from error


def _load_pickle(file: Path) -> Any:
    try:
        check_declared_sizes(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise ConfigError(
                f"weights file {file} would run code ({named[1]}) and is refused; save its tensors alone, "
                "as safetensors.torch.save_file(model.state_dict(), path) does"
            ) from error
        raise ConfigError(f"weights file {file} is neither a safetensors nor a torch file") from error
    except AttnSearchError:
        raise
    except Exception as error:  # unpickling damaged bytes raises nearly anything; all of it means the same here
        raise ConfigError(f"weights file {file} is broken; copy or download it again") from error


def _state_in(loaded: Any, file: Path) -> dict[str, Tensor]:
    """The state in what a torch file holds, which may be wrapped.

    Raises:
        ConfigError: there is none, or its tensors repeat smaller storages.
    """
    for key in WRAPPER_KEYS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(t, Tensor) for t in loaded.values()):
        raise ConfigError(f"weights file {file} holds no state (names with tensors), got {type(loaded).__name__}")
    check_expanded(dict(loaded), file)
    return dict(loaded)


def _download(backbone: str) -> Path:
    """The cached file of timm's pretrained weights, fetched if need be."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    hint = "pass a file with model.weights=/path/to/file.safetensors or start from random ones with model.weights=none"
    pretrained_cfg = timm.get_pretrained_cfg(backbone)
    if pretrained_cfg is None or not pretrained_cfg.hf_hub_id:
        raise ConfigError(f"timm has no pretrained weights for {backbone!r}; {hint}")
    place = pretrained_cfg.hf_hub_id
    with contextlib.suppress(LocalEntryNotFoundError):
        return Path(hf_hub_download(place, "model.safetensors", local_files_only=True))
    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        _check_connection(constants.ENDPOINT)
        return Path(hf_hub_download(place, "model.safetensors"))
    except Exception as error:  # the hub's client lets errors of its HTTP library through, which changes with versions
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"cannot get the weights of {backbone!r} from {constants.ENDPOINT} ({reason}); {hint}"
        ) from error


def _check_connection(url: str) -> None:
    """Fails within seconds where the hub's own client would retry for minutes."""
    target = urlsplit(url)
    proxy = getproxies().get(target.scheme)
    if proxy and not proxy_bypass(target.netloc):
        target = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    port = target.port or (80 if target.scheme == "http" else 443)
    socket.create_connection((target.hostname or "", port), timeout=CONNECT_TIMEOUT_S).close()


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
    free = free_memory_bytes()
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


def _mb(n_bytes: int) -> str:
    return f"{n_bytes / _MB:.3g} MB"
