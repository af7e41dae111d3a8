"""What torchrun tells the processes that it starts; read without importing torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

from attnsearch.device import ASSIGNED_GPU, VISIBLE_GPUS


@dataclass(frozen=True)
class TorchrunPlace:
    """The place of this process among those that torchrun has started; the first and only one where it has not.

    Attributes:
        index: of the process on this machine.
    """

    rank: int = 0
    n_ranks: int = 1
    index: int = 0

    @classmethod
    def find(cls) -> TorchrunPlace:
        """That of this process."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return cls()
        return cls(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))

    @classmethod
    def take(cls) -> TorchrunPlace:
        """That of this process, which from now on sees one GPU alone; to be called before any is used."""
        place = cls.find()
        if place.n_ranks > 1:
            place._take_gpu()
        return place

    @property
    def overrides(self) -> tuple[str, ...]:
        """Settings that follow from it."""
        return (f"runtime.devices_per_trial={self.n_ranks}",) if self.n_ranks > 1 else ()

    def _take_gpu(self) -> None:
        import torch

        if torch.version.cuda is None:
            return
        listed = os.environ.get(VISIBLE_GPUS)
        names = [str(number) for number in range(self.n_ranks)] if listed is None else listed.split(",")
        own = names[self.index].strip() if self.index < len(names) else ""
        os.environ[VISIBLE_GPUS] = os.environ[ASSIGNED_GPU] = own
