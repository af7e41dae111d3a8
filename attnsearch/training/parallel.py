"""The processes that train one model together, one for each device: what each works on, and how they agree.

Each batch is worked on in parts, as with `train.accumulation`; the processes, called ranks, take them in turn. Each of
them holds the whole model and makes every update, from the sum of all gradients, so that all have the same weights.

All ranks run the same program and meet in collectives. Before each of them they exchange one word: whether any rank has
failed. A rank that fails, wherever that is, gives that word at once, the others hear it with their next one, and all
raise the same error. So nobody waits for a rank that has left, and out of memory on one leads to smaller parts on all.
The word goes from processor to processor: a GPU need not be waited for, as it would be for a word among its gradients.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from attnsearch import errors
from attnsearch.device import classify_device_error
from attnsearch.errors import AttnSearchError, ConfigError, RankLost, UnexpectedError
from attnsearch.files import explain_os_error

logger = logging.getLogger(__name__)

T = TypeVar("T")

START_S = 600.0
"""How long ranks wait for each other at the start, and in a sum of tensors, which all enter right after a word."""
_PATIENCE = timedelta(days=365)
"""How long they wait for a word: while rank 0 scores a trial or waits for one, the others have nothing to do."""
_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


class Summed(Protocol):
    """What adds up over the images of a pass, such as a meter."""

    def sums(self) -> dict[str, Tensor]:
        """All that was added so far, by name."""

    def load(self, sums: Mapping[str, Tensor]) -> None:
        """Puts the sums of all ranks in the place of its own ones."""


class Ranks:
    """The processes of a training: here the one that trains alone.

    Attributes:
        rank: of this process; rank 0 owns files, database and log.
        n_ranks: of all of them.
    """

    rank = 0
    n_ranks = 1

    @contextmanager
    def together(self) -> Iterator[None]:
        """What one rank raises in the block, all raise, there or at its end.

        Raises:
            RankLost: the process of another rank has ended.
        """
        yield

    def exchange(self, value: Any = None) -> list[Any]:
        """What each rank gives, by rank; plain values, as JSON has them."""
        return [value]

    def first(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, a plain value, on all ranks."""
        return make()

    def place(self, device: torch.device) -> None:
        """Makes the ranks ready for sums of tensors on a device.

        Raises:
            ConfigError: other ranks have devices of other types.
        """

    def add(self, tensor: Tensor) -> None:
        """Makes a tensor of the same shape on all ranks their sum, in place."""

    def merge(self, part: Summed, device: torch.device) -> None:
        """Makes what was found in the images of this rank that of the images of all ranks."""


ALONE = Ranks()


class RankGroup(Ranks):
    """The ranks of the default process group of torch, which exists already."""

    def __init__(self) -> None:
        self.rank, self.n_ranks = dist.get_rank(), dist.get_world_size()
        self._words: Any = dist.new_group(backend="gloo", timeout=_PATIENCE)
        self._sums: Any = None  # None is the default group, for tensors on a processor
        self._has_agreed = False  # that all raise the error which is on its way

    @contextmanager
    def together(self) -> Iterator[None]:
        self._has_agreed = False
        try:
            yield
        except Exception as error:
            if not self._has_agreed:
                self._say(error)
            raise
        self._say(None)

    def exchange(self, value: Any = None) -> list[Any]:
        self._say(None)
        return self._gather(value)

    def first(self, make: Callable[[], T]) -> T:
        value: T = self.exchange(make() if self.rank == 0 else None)[0]
        return value

    def place(self, device: torch.device) -> None:
        types = self.exchange(device.type)
        if len(set(types)) > 1:
            raise ConfigError(
                f"runtime.device: the processes of a trial have devices of several types ({', '.join(types)}); set it "
                "to cpu or cuda, or runtime.devices_per_trial to the number of GPUs"
            )
        if device.type == "cuda" and self._sums is None:
            torch.cuda.set_device(device)
            self._sums = dist.new_group(backend="nccl")

    def add(self, tensor: Tensor) -> None:
        self._say(None)
        with self._connected():
            dist.all_reduce(tensor, group=self._sums if tensor.is_cuda else None)

    def merge(self, part: Summed, device: torch.device) -> None:
        sums = part.sums()
        described = {name: (list(tensor.shape), str(tensor.dtype)) for name, tensor in sums.items()}
        known = {name: kind for names in self.exchange(described) for name, kind in names.items()}
        for name, (shape, dtype) in known.items():
            if name not in sums:
                sums[name] = torch.zeros(shape, dtype=getattr(torch, dtype.removeprefix("torch.")))
            sums[name] = sums[name].to(device)
            self.add(sums[name])
        part.load({name: sums[name] for name in known})

    def _say(self, error: Exception | None) -> None:
        """The word that precedes each collective.

        Raises:
            What the first rank that has failed has raised, on all ranks.
        """
        word = torch.tensor([error is not None], dtype=torch.uint8)
        with self._connected():
            dist.all_reduce(word, dist.ReduceOp.MAX, group=self._words)
        if word.item():
            self._raise_first(error)

    def _raise_first(self, error: Exception | None) -> None:
        failures = self._gather(None if error is None else _describe(error))
        rank, failure = next((rank, failure) for rank, failure in enumerate(failures) if failure is not None)
        self._has_agreed = True
        if error is not None and rank == self.rank:
            raise error
        if error is not None:
            logger.warning("this process failed too", exc_info=error)
        kind, text = failure
        raise getattr(errors, kind)(*([f"on device {rank + 1} of {self.n_ranks}: {text}"] if text else []))

    def _gather(self, value: Any) -> list[Any]:
        """The values of all ranks; no word precedes it."""
        own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.n_ranks)]
        with self._connected():
            dist.all_gather(sizes, torch.tensor([len(own)]), group=self._words)
            longest = max(int(size) for size in sizes)
            texts = [torch.zeros(longest, dtype=torch.uint8) for _ in sizes]
            padded = torch.cat([own, own.new_zeros(longest - len(own))])
            dist.all_gather(texts, padded, group=self._words)
        return [json.loads(bytes(text[: int(size)].tolist())) for text, size in zip(texts, sizes, strict=True)]

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Raises what a broken connection means."""
        try:
            yield
        except RuntimeError as error:
            self._has_agreed = True  # nobody hears another word
            raise RankLost(
                f"a process that trains the same model on another device has ended ({str(error).partition(chr(10))[0]})"
                "; the trial continues after its last epoch"
            ) from error


def _describe(error: Exception) -> tuple[str, str]:
    """The class in `errors` and the text of what a failure means, for the other ranks."""
    known = [kind.__name__ for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind]
    if known:
        return known[0], str(error)
    if isinstance(error, OSError):
        explained: AttnSearchError | None = explain_os_error(error, Path(error.filename or "."))
    else:
        explained = classify_device_error(error)
    if explained is None:
        logger.warning("an unexpected error", exc_info=error)
        explained = UnexpectedError(f"unexpected {type(error).__name__}: {' '.join(str(error).split())}")
    return type(explained).__name__, str(explained)


def join_ranks(store: Path, rank: int, n_ranks: int) -> RankGroup:
    """Joins the ranks on this machine that know a file, which lies in a folder of this user alone and was not there.

    They talk over the loopback interface.
    """
    for variable in _INTERFACES:
        os.environ[variable] = "lo0" if sys.platform == "darwin" else "lo"
    timeout = timedelta(seconds=START_S)
    file = dist.FileStore(str(store), n_ranks)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=file, rank=rank, world_size=n_ranks, timeout=timeout)
    return RankGroup()


def join_torchrun() -> RankGroup:
    """Joins the ranks that torchrun has started."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=START_S))
    return RankGroup()


def leave_ranks() -> None:
    """Closes the connections to the other ranks, which then raise `RankLost` where they wait for this one."""
    if dist.is_initialized():
        dist.destroy_process_group()
