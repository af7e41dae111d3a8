"""What torchrun tells the processes that it starts; read without importing torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

from attnsearch.device import ASSIGNED_GPU, VISIBLE_GPUS


@dataclass(frozen=True)
class TorchrunPlace:
    """The place of this process among those that torchrun has started.

    Attributes:
        index: of the process on this machine.
    """

    rank: int
    n_ranks: int
    index: int

    @classmethod
    def find(cls) -> TorchrunPlace | None:
        """None where torchrun has not started this process, or has started it alone."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return None
        rank, n_ranks, index = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        return cls(rank, n_ranks, index) if n_ranks > 1 else None

    def take_gpu(self) -> None:
        """Makes one GPU visible to this process, by its number on this machine; to be called before any is used."""
        import torch

        if torch.version.cuda is None:
            return
        listed = os.environ.get(VISIBLE_GPUS)
        names = [str(self.index)] * (self.index + 1) if listed is None else [one.strip() for one in listed.split(",")]
        os.environ[VISIBLE_GPUS] = os.environ[ASSIGNED_GPU] = names[self.index] if self.index < len(names) else ""
