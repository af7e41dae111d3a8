"""Training curves that were recorded once without pruning, one file of JSON lines per pool; `Pool` reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).parent
NAMES = ("br_npa", "loupe", "photos")
HAS_COSINE = {"br_npa": False, "loupe": True, "photos": True}
"""A prefix of a curve under a constant learning rate is a shorter training; under a cosine schedule it is not."""


@dataclass(frozen=True)
class Curve:
    """One finished training.

    Attributes:
        settings: hyperparameters by dotted key, without those that did not exist for it.
        n_images: of the two fixed halves of validation.
        correct: images of each half that are classified rightly after each epoch; their sum over that of `n_images` is
            the recorded accuracy exactly.
        loss: validation loss after each epoch, to four digits.
        seconds: of training and validation; the machine was not idle.
    """

    number: int
    seed: int
    settings: Mapping[str, Any]
    n_images: tuple[int, int]
    correct: Sequence[tuple[int, int]]
    loss: Sequence[float]
    seconds: float

    @property
    def line(self) -> str:
        """As it is stored."""
        return json.dumps(vars(self), separators=(",", ":"))


@dataclass(frozen=True)
class Pool:
    """The recorded trainings of one study.

    Attributes:
        measured: (N, E, 3) accuracy after each epoch, in [0, 1]: on validation and on its two halves.
    """

    name: str
    curves: tuple[Curve, ...]
    measured: NDArray[np.float64]

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """(N, E) on validation."""
        return self.measured[..., 0]

    @property
    def n_epochs(self) -> int:
        return self.measured.shape[1]

    def __len__(self) -> int:
        return len(self.curves)

    def cut(self, n_epochs: int) -> Pool:
        """The first epochs of every training."""
        return Pool(self.name, self.curves, self.measured[:, :n_epochs])


def path_of(name: str) -> Path:
    """The file of a pool."""
    return FOLDER / f"{name}.jsonl"


def read_pool(name: str) -> Pool:
    """A pool by its name."""
    curves = tuple(Curve(**json.loads(line)) for line in path_of(name).read_text().splitlines())
    return Pool(name, curves, np.stack([_measured(curve) for curve in curves]))


def _measured(curve: Curve) -> NDArray[np.float64]:
    correct = np.array(curve.correct, dtype=np.float64)  # (E, 2)
    return np.column_stack([correct.sum(axis=1) / sum(curve.n_images), correct / curve.n_images])
