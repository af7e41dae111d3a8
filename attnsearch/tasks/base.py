"""The contract of a task: what a model is trained for, how that is measured, and what an explanation explains."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from attnsearch import plugins
from attnsearch.config.evaluation import TargetChoice
from attnsearch.config.experiment import TaskSettings
from attnsearch.metrics.complexity import sparsity
from attnsearch.types import Batch, Followed, Need

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from attnsearch.data.tables import ImageTable
    from attnsearch.models.base import AttentionModel, Heads
    from attnsearch.models.checkpoint import ModelCheckpoint
    from attnsearch.types import AttentionArchive, AttentionOutput, Retrieval


def build_task(settings: TaskSettings) -> Task:
    """The task that the settings describe.

    Raises:
        ConfigError: no such task is registered.
    """
    task: Task = plugins.resolve(plugins.find("task", settings.name).build)(settings)
    return task


def restore_model(checkpoint: ModelCheckpoint) -> AttentionModel:
    """The model of a checkpoint with its weights, on the CPU.

    Raises:
        ConfigError: the weights do not fit the model that the checkpoint's own config describes.
    """
    heads = build_task(checkpoint.config.task).heads(len(checkpoint.class_names))
    return checkpoint.build_model(heads)


@dataclass(frozen=True)
class PassMetrics:
    """Means over the images of a pass; `loss` is the sum of `terms`, NaN where no batch has a loss."""

    n_images: int
    loss: float
    terms: Mapping[str, float]
    metrics: Mapping[str, float]


class Meter(Protocol):
    """What is measured of one pass over a split."""

    def add(self, batch: Batch, output: AttentionOutput, terms: Mapping[str, Tensor]) -> None:
        """Adds one batch with its loss terms, scalars that are means over the batch."""

    @property
    def has_loss(self) -> bool:
        """Whether any batch so far has a loss; without one the mean is NaN and tells nothing about the model."""

    def mean_loss(self) -> Tensor:
        """The mean loss so far, a scalar on the device."""

    def loss(self) -> float:
        """The mean loss so far. One device sync."""

    def sums(self) -> dict[str, Tensor]:
        """All that was added so far, by name: tensors that add up to those of a pass over more images."""

    def load(self, sums: Mapping[str, Tensor]) -> None:
        """Puts sums of several meters of one pass in the place of its own ones."""

    def scores(self) -> PassMetrics:
        """All that was measured. One device sync.

        Raises:
            ValueError: no batch was added.
            NonFiniteLoss: the model makes NaN or infinity of images that are to be compared.
        """

    @property
    def retrieval(self) -> Retrieval | None:
        """The ranked gallery of each query, once `scores` was called; None where nothing is retrieved."""


_TERM, _METRIC = "term/", "metric/"


class RunningSums:
    """Sums over batches, in float64 on the device of the batches: loss terms and metrics as means over images.

    Terms are means over the images of the batches that have a loss.
    """

    retrieval: Retrieval | None = None

    def __init__(self) -> None:
        self.n_images = 0
        self._n_with_loss: int | Tensor = 0
        self._terms: dict[str, Tensor] = {}
        self._metrics: dict[str, Tensor] = {}

    def add_terms(self, n_images: int, terms: Mapping[str, Tensor], *, has_loss: bool | Tensor = True) -> None:
        """Adds a batch's terms of the loss, scalars that are means over its images.

        Args:
            has_loss: whether the images of the batch define its loss; if not, its terms count for nothing. A scalar on
                the device where only that knows.
        """
        weight = n_images * has_loss
        self.n_images += n_images
        self._n_with_loss = self._n_with_loss + weight
        for name, value in terms.items():
            _accumulate(self._terms, name, value.double() * weight)

    @property
    def has_loss(self) -> bool:
        return bool(self._n_with_loss > 0)

    def add_metric(self, name: str, of_batch: Tensor) -> None:
        """Adds a batch's sum over images, a scalar."""
        _accumulate(self._metrics, name, of_batch.double())

    def sums(self) -> dict[str, Tensor]:
        """All that was added so far, by name."""
        counts = {"n_images": self.n_images, "n_with_loss": self._n_with_loss}
        return {
            **{name: torch.as_tensor(count, dtype=torch.float64) for name, count in counts.items()},
            **{f"{_TERM}{name}": value for name, value in self._terms.items()},
            **{f"{_METRIC}{name}": value for name, value in self._metrics.items()},
        }

    def load(self, sums: Mapping[str, Tensor]) -> None:
        """Puts other sums in the place of its own ones."""
        self.n_images, self._n_with_loss = int(sums["n_images"]), sums["n_with_loss"]
        self._terms, self._metrics = (
            {name.removeprefix(kind): value for name, value in sums.items() if name.startswith(kind)}
            for kind in (_TERM, _METRIC)
        )

    def add_sparsity(self, output: AttentionOutput) -> None:
        """Adds the sparsity of the maps, or of the norm where there is no other map; nothing without them."""
        if output.maps is not None or output.norms is not None:
            maps = None if output.map_names == ("norm",) else output.maps
            self.add_metric("sparsity", sparsity(maps, output.norms).double().sum())

    def mean_loss(self) -> Tensor:
        """The mean loss so far, a scalar on the device; NaN without one."""
        total = sum(self._terms.values()) if self._terms else torch.zeros(())
        return torch.as_tensor(total) / self._n_with_loss

    def loss(self) -> float:
        """The mean loss so far. One device sync."""
        return float(self.mean_loss())

    def means(self, *others: Tensor) -> tuple[dict[str, float], dict[str, float], list[float]]:
        """Terms and metrics as means over images, and other scalars as they are. One device sync.

        Raises:
            ValueError: no batch was added.
        """
        if not self.n_images:
            raise ValueError("there are no scores without images")
        of_terms = [value / self._n_with_loss for value in self._terms.values()]
        sums = [*of_terms, *(value / self.n_images for value in self._metrics.values())]
        values = torch.stack([*sums, *others]).tolist() if sums or others else []
        terms = dict(zip(self._terms, values, strict=False))
        metrics = dict(zip(self._metrics, values[len(terms) :], strict=False))
        return terms, metrics, values[len(sums) :]


def _accumulate(totals: dict[str, Tensor], name: str, value: Tensor) -> None:
    """Adds a scalar to the sum of its name."""
    totals[name] = totals[name] + value if name in totals else value


class Target(Protocol):
    """What an explanation explains: one number of each image, which removing pixels may lower.

    What the number needs beside the output, such as the class or the embedding of a reference, is held for each image.
    """

    @property
    def known(self) -> tuple[Need, ...]:
        """What metrics may need and this has: a gallery that is ranked, classes, or a temperature."""

    def score(self, output: AttentionOutput) -> Tensor:
        """The number of each image, (B,) float32, on a scale on which images compare."""

    def followed(self, output: AttentionOutput) -> Mapping[Followed, Tensor]:
        """What is followed while cells are removed, (B,) each: the score, and what `metrics.perturbation` lists."""

    def raw_score(self, output: AttentionOutput) -> Tensor:
        """The number whose gradients Grad-CAM and its variants weigh features by, (B,): before a softmax."""

    def take(self, rows: Tensor | slice) -> Target:
        """The target of the images at rows (M,), in that order; an image may come more than once."""

    def to(self, device: torch.device) -> Target:
        """The same target on a device."""


@dataclass(frozen=True)
class SoftTargets:
    """What a teacher makes of a batch, and how much it counts.

    Attributes:
        logits: (B, n_classes).
        temperature: T > 0.
        interpolation: in [0, 1]; 1 ignores the labels.
    """

    logits: Tensor
    temperature: float
    interpolation: float


class Task(ABC):
    """Heads, losses, batches, metrics and targets; it has settings and no state.

    Attributes:
        predicts_classes: whether a model is of use on data with its own classes alone.
    """

    predicts_classes: ClassVar[bool] = True

    @abstractmethod
    def metrics(self, table: ImageTable) -> frozenset[str]:
        """What every model of the task is measured by on a split, beside its loss."""

    @abstractmethod
    def heads(self, n_classes: int) -> Heads:
        """What makes the heads of a model.

        Args:
            n_classes: of the training split.
        Raises:
            ValueError: fewer classes than 2.
        """

    @abstractmethod
    def losses(
        self,
        output: AttentionOutput,
        batch: Batch,
        *,
        in_training: bool = True,
        label_smoothing: float = 0.0,
        soft_targets: SoftTargets | None = None,
    ) -> dict[str, dict[str, Tensor]]:
        """The losses of each of the `trained_heads`, by branch and name: float32 scalars, means over the batch.

        Names are unique over all branches; those of the main branch, the first, are plain, and those of a further one
        end in its name.

        Args:
            in_training: whether the labels are those of train; held-out identities are no classes of the model.
            soft_targets: of a teacher, for the main branch; None without one.
        """

    @abstractmethod
    def meter(
        self, table: ImageTable, device: torch.device, *, in_training: bool = False, in_halves: bool = False
    ) -> Meter:
        """A meter of one pass over a split, which holds nothing yet.

        Args:
            in_training: measures only what costs next to nothing.
            in_halves: measures what models are compared by first also on two fixed halves of the split, under its name
                with an ending of `HALVES`.
        """

    @abstractmethod
    def target(self, output: AttentionOutput) -> Target:
        """What an explanation of a batch explains where nothing else is asked for."""

    @abstractmethod
    def archived_target(
        self,
        archived: AttentionArchive,
        places: NDArray[np.int64],
        *,
        choice: TargetChoice = "predicted",
        temperature: float | None = None,
    ) -> Target:
        """What the saliency of some archived images is scored for, on the CPU.

        Args:
            places: (B,) of the images in the archive.
            choice: whether it is what the model predicts or what is true.
            temperature: that calibrates the class probabilities of the model; None where it is not known.
        """

    def predict(self, model: AttentionModel, batch: Batch, *, maps: tuple[str, ...] | None = None) -> AttentionOutput:
        """What a model makes of a batch outside of training.

        Args:
            maps: as `AttentionModel.forward`.
        """
        output: AttentionOutput = model(batch, maps=maps)
        return output

    def embed(self, output: AttentionOutput) -> Tensor | None:
        """What images are compared by, (B, D) float32, or None where the family has no embedding."""
        return None if output.embedding is None else output.embedding.float()

    def row_order(self, table: ImageTable, *, batch_size: int, seed: int, epoch: int) -> NDArray[np.int64]:
        """The rows of the training split in the order of an epoch (from 1), as many in every epoch.

        Raises:
            DataError: the split is too small for such batches.
        """
        return shuffled(table, seed=seed, epoch=epoch)

    def parts(self, n_images: int, part_images: int) -> list[slice]:
        """Parts of a batch of at most `part_images` images, whose gradients add up to that of the whole."""
        return equal_parts(n_images, part_images)


def shuffled(table: ImageTable, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """(N,) the rows of a split in a random order that depends on seed and epoch alone."""
    return np.argsort(np.random.default_rng((seed, epoch, 0)).random(len(table)), kind="stable")


def equal_parts(n_images: int, part_images: int) -> list[slice]:
    """Parts of at most `part_images` images, as equal as can be, so that none has one image alone if it can be avoided.

    Where `part_images` is 2 and the number of images is odd, one part has three.
    """
    n_parts = math.ceil(n_images / part_images)
    if part_images > 1:
        n_parts = max(1, min(n_parts, n_images // 2))
    return [slice(index * n_images // n_parts, (index + 1) * n_images // n_parts) for index in range(n_parts)]
