"""Running totals of one pass over a split: losses and scores as means over images, with one device sync at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from attnsearch.metrics.complexity import sparsity
from attnsearch.types import AttentionOutput, Batch


@dataclass(frozen=True)
class PassMetrics:
    """Means over the images of a pass; `loss` is the sum of `terms`."""

    n_images: int
    loss: float
    terms: Mapping[str, float]
    metrics: Mapping[str, float]


class MetricTotals:
    """Sums over batches, in float64 on the device of the batches.

    Metrics are `accuracy`, `accuracy_<name>` of each branch, and `sparsity` where the outputs carry maps or norms.
    Outside of training also `cross_entropy`, without label smoothing or teacher, and `mean_class_accuracy`, the mean
    over the classes that occur.
    """

    def __init__(self, n_classes: int, device: torch.device, *, in_training: bool = False) -> None:
        self.n_images = 0
        self._in_training = in_training
        self._terms: dict[str, Tensor] = {}
        self._metrics: dict[str, Tensor] = {}
        self._seen, self._hits = (torch.zeros(n_classes, dtype=torch.float64, device=device) for _ in range(2))

    @torch.no_grad()
    def add(self, batch: Batch, output: AttentionOutput, terms: Mapping[str, Tensor]) -> None:
        """Adds one batch.

        Args:
            terms: of the loss; scalars, each a mean over the batch.
        """
        n_images = len(batch.labels)
        self.n_images += n_images
        for name, value in terms.items():
            _accumulate(self._terms, name, value.double() * n_images)
        if not self._in_training:
            cross_entropy = F.cross_entropy(output.logits, batch.labels)
            _accumulate(self._metrics, "cross_entropy", cross_entropy.double() * n_images)
        for name, logits in {"accuracy": output.logits, **_named(output)}.items():
            hits = (logits.argmax(dim=1) == batch.labels).double()
            _accumulate(self._metrics, name, hits.sum())
            if name == "accuracy" and not self._in_training:
                self._hits.index_add_(0, batch.labels, hits)
                self._seen.index_add_(0, batch.labels, torch.ones_like(hits))
        if output.maps is not None or output.norms is not None:
            _accumulate(self._metrics, "sparsity", _sparsity(output).double().sum())

    def loss(self) -> float:
        """The mean loss so far. One device sync."""
        return float(sum(self._terms.values(), torch.zeros(()))) / self.n_images

    def scores(self) -> PassMetrics:
        """All means. One device sync.

        Raises:
            ValueError: no batch was added.
        """
        if not self.n_images:
            raise ValueError("there are no scores without images")
        sums = torch.stack([*self._terms.values(), *self._metrics.values()]) / self.n_images
        per_class = (self._hits / self._seen).nanmean()  # classes that do not occur are 0 / 0
        *means, class_accuracy = torch.cat([sums, per_class[None]]).tolist()
        terms = dict(zip(self._terms, means, strict=False))
        metrics = dict(zip(self._metrics, means[len(terms) :], strict=True))
        if not self._in_training:
            metrics["mean_class_accuracy"] = class_accuracy
        return PassMetrics(self.n_images, sum(terms.values()), terms, metrics)


def _accumulate(totals: dict[str, Tensor], name: str, value: Tensor) -> None:
    totals[name] = totals[name] + value if name in totals else value


def _named(output: AttentionOutput) -> dict[str, Tensor]:
    return {f"accuracy_{name}": branch.logits for name, branch in output.branches.items()}


def _sparsity(output: AttentionOutput) -> Tensor:
    """Per image; where the only map is the norm itself (a plain CNN), it counts once."""
    return sparsity(None if output.map_names == ("norm",) else output.maps, output.norms)
