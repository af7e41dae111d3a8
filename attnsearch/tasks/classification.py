"""Classification: linear heads, cross-entropy, accuracies; an explanation explains the probability of a class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnsearch.config.evaluation import TargetChoice
from attnsearch.config.experiment import ClassificationSettings
from attnsearch.data.fixed_rows import fixed_halves
from attnsearch.tasks.base import PassMetrics, RunningSums, SoftTargets, Task
from attnsearch.types import HALVES, AttentionArchive, AttentionOutput, Batch, Followed, HeadOutput, Need

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from attnsearch.data.tables import ImageTable


class LinearHead(nn.Linear):
    """A linear classifier whose embedding is what it reads: (B, D) -> logits (B, n_classes)."""

    def forward(self, features: Tensor) -> HeadOutput:  # type: ignore[override]
        return HeadOutput(super().forward(features), features)  # (B, n_classes), (B, D)


class PresenceHead(nn.Linear):
    """One linear map that reads the vector of every class: (B, n_classes, D) -> logits (B, n_classes).

    It has no embedding: the mean over the classes' vectors would be one, but no publication uses it and nobody has
    measured what it is worth.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, 1)

    def forward(self, states: Tensor) -> HeadOutput:  # type: ignore[override]
        return HeadOutput(super().forward(states)[..., 0])  # (B, n_classes)


@dataclass(frozen=True)
class LinearHeads:
    """Makes linear heads of `n_classes`.

    Raises:
        ValueError: there are fewer than two classes.
    """

    n_classes: int

    def __post_init__(self) -> None:
        if self.n_classes < 2:
            raise ValueError(f"n_classes must be >= 2, got {self.n_classes}")

    def image(self, width: int, *, bias: bool = True) -> nn.Module:
        return LinearHead(width, self.n_classes, bias=bias)

    def per_class(self, width: int) -> nn.Module:
        return PresenceHead(width)

    def combine(self, branches: Mapping[str, HeadOutput]) -> HeadOutput:
        """The mean of the branches' class probabilities, see `mean_probability`; embeddings stand side by side."""
        embeddings = [branch.embedding for branch in branches.values() if branch.embedding is not None]
        joined = torch.cat(embeddings, dim=1) if len(embeddings) == len(branches) else None
        return HeadOutput(mean_probability([branch.logits for branch in branches.values()]), joined)


def mean_probability(logits: list[Tensor]) -> Tensor:
    """Logits whose softmax is the mean of the branches' class probabilities, (B, n_classes) float32.

    Args:
        logits: (B, n_classes) of each branch.
    """
    log_probabilities = [F.log_softmax(branch.float(), dim=1) for branch in logits]
    return reduce(torch.logaddexp, log_probabilities) - math.log(len(logits))


def class_targets(batch: Batch) -> Tensor:
    """What cross-entropy compares logits with: (B,) labels, or (B, n_classes) uniform over the possible classes."""
    if batch.possible is None:
        return batch.labels
    return batch.possible / batch.possible.sum(dim=1, keepdim=True)


def distillation_loss(
    student_logits: Tensor, teacher: SoftTargets, targets: Tensor, *, label_smoothing: float = 0.0
) -> Tensor:
    """The float32 scalar b T² KL(teacher || student) + (1 - b) CE(student, targets), b being the interpolation.

    KL is a sum over classes and a mean over the batch, on probabilities softened by the temperature T.

    Args:
        student_logits: (B, n_classes).
        teacher: gets no gradient.
        targets: (B,) int64 labels, or (B, n_classes) probabilities.
        label_smoothing: of the cross-entropy alone.
    Source: Hinton et al. 2015, section 2, as BR-NPA's released code (`TristanGomez44/br_npa`) applies it.
    """
    student_logits, teacher_logits = student_logits.float(), teacher.logits.detach().float()
    divergence = F.kl_div(
        F.log_softmax(student_logits / teacher.temperature, dim=1),
        F.log_softmax(teacher_logits / teacher.temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    cross_entropy = F.cross_entropy(student_logits, targets, label_smoothing=label_smoothing)
    return teacher.interpolation * teacher.temperature**2 * divergence + (1.0 - teacher.interpolation) * cross_entropy


class ClassificationMeter(RunningSums):
    """Losses and metrics of a pass.

    Metrics are `accuracy`, `accuracy_<name>` of each branch, and `sparsity` where the outputs carry maps or norms.
    Outside of training also `cross_entropy`, without label smoothing or teacher, and `mean_class_accuracy`, the mean
    over the classes that occur.

    Args:
        halves: (N,) the half of the split, 0 or 1, that each of its images is of; then also `accuracy_half_a` and `_b`.
    """

    def __init__(
        self,
        n_classes: int,
        device: torch.device,
        *,
        in_training: bool = False,
        halves: NDArray[np.int64] | None = None,
    ) -> None:
        super().__init__()
        self._in_training = in_training
        self._halves = None if halves is None else torch.from_numpy(halves).to(device)
        sizes = {"seen": n_classes, "hits": n_classes, "half_seen": 2, "half_hits": 2}
        self._counts = {name: torch.zeros(n, dtype=torch.float64, device=device) for name, n in sizes.items()}

    @torch.no_grad()
    def add(self, batch: Batch, output: AttentionOutput, terms: Mapping[str, Tensor]) -> None:
        """Adds one batch.

        Args:
            terms: of the loss; scalars, each a mean over the batch.
        """
        n_images = len(batch.labels)
        self.add_terms(n_images, terms)
        if not self._in_training:
            cross_entropy = F.cross_entropy(output.logits, batch.labels)
            self.add_metric("cross_entropy", cross_entropy.double() * n_images)
        branches = {f"accuracy_{name}": branch.logits for name, branch in output.branches.items()}
        for name, logits in {"accuracy": output.logits, **branches}.items():
            hits = (logits.argmax(dim=1) == batch.labels).double()
            self.add_metric(name, hits.sum())
            if name == "accuracy" and not self._in_training:
                self._counts["hits"].index_add_(0, batch.labels, hits)
                self._counts["seen"].index_add_(0, batch.labels, torch.ones_like(hits))
                self._add_halves(batch, hits)
        self.add_sparsity(output)

    def _add_halves(self, batch: Batch, hits: Tensor) -> None:
        """Adds the hits (B,) of a batch to those of the halves."""
        if self._halves is not None:
            halves = self._halves[batch.rows.to(self._halves.device, non_blocking=True)]  # (B,)
            self._counts["half_hits"].index_add_(0, halves, hits)
            self._counts["half_seen"].index_add_(0, halves, torch.ones_like(hits))

    def sums(self) -> dict[str, Tensor]:
        """All that was added so far, by name."""
        return {**super().sums(), **self._counts}

    def load(self, sums: Mapping[str, Tensor]) -> None:
        """Puts other sums in the place of its own ones."""
        super().load(sums)
        self._counts = {name: sums[name] for name in self._counts}

    def scores(self) -> PassMetrics:
        """All means. One device sync.

        Raises:
            ValueError: no batch was added.
        """
        counts = self._counts
        per_class = (counts["hits"] / counts["seen"]).nanmean()  # classes that do not occur are 0 / 0
        halves = counts["half_hits"] / counts["half_seen"]  # (2,)
        terms, metrics, (class_accuracy, *of_halves) = self.means(per_class, *halves)
        if not self._in_training:
            metrics["mean_class_accuracy"] = class_accuracy
        if self._halves is not None:
            metrics |= {f"accuracy{half}": value for half, value in zip(HALVES, of_halves, strict=True)}
        return PassMetrics(self.n_images, sum(terms.values()), terms, metrics)


@dataclass(frozen=True)
class ClassTarget:
    """The probability of one class of each image.

    Attributes:
        classes: (B,) int64.
        temperature: that calibrates the probabilities, where it is known.
    """

    classes: Tensor
    temperature: float | None = None

    @property
    def known(self) -> tuple[Need, ...]:
        return ("classes",) if self.temperature is None else ("classes", "temperature")

    def score(self, output: AttentionOutput) -> Tensor:
        return self._probability(output.logits.float())

    def followed(self, output: AttentionOutput) -> dict[Followed, Tensor]:
        logits = output.logits.float()  # (B, n_classes)
        is_decided = (logits.argmax(dim=1) == self.classes).float()
        scores: dict[Followed, Tensor] = {
            "score": self._probability(logits),
            "decision": is_decided,
            "logit": self.raw_score(output).float(),
        }  # (B,) each
        if self.temperature is not None:
            scores["calibrated"] = self._probability(logits / self.temperature)
        return scores

    def _probability(self, logits: Tensor) -> Tensor:
        """Of the class under logits (B, n_classes): (B,)."""
        return logits.softmax(dim=1).gather(1, self.classes[:, None])[:, 0]

    def raw_score(self, output: AttentionOutput) -> Tensor:
        """The logit of the class, (B,)."""
        return output.logits.gather(1, self.classes[:, None])[:, 0]

    def take(self, rows: Tensor | slice) -> ClassTarget:
        return replace(self, classes=self.classes[rows])  # (M,)

    def to(self, device: torch.device) -> ClassTarget:
        return replace(self, classes=self.classes.to(device))


@dataclass(frozen=True)
class ClassificationTask(Task):
    """Each image has one class."""

    settings: ClassificationSettings

    def metrics(self, table: ImageTable) -> frozenset[str]:
        return frozenset({"accuracy", "mean_class_accuracy", "cross_entropy"})

    def heads(self, n_classes: int) -> LinearHeads:
        return LinearHeads(n_classes)

    def losses(
        self,
        output: AttentionOutput,
        batch: Batch,
        *,
        in_training: bool = True,
        label_smoothing: float = 0.0,
        soft_targets: SoftTargets | None = None,
    ) -> dict[str, dict[str, Tensor]]:
        """A `cross_entropy` of each branch; with a teacher the main branch has `distillation` instead."""
        losses: dict[str, dict[str, Tensor]] = {}
        targets = class_targets(batch)
        for branch, head in output.trained_heads.items():
            logits = head.logits.float()
            if soft_targets is not None and not losses:
                loss = distillation_loss(logits, soft_targets, targets, label_smoothing=label_smoothing)
                losses[branch] = {"distillation": loss}
            else:
                name = f"cross_entropy_{branch}" if losses else "cross_entropy"
                losses[branch] = {name: F.cross_entropy(logits, targets, label_smoothing=label_smoothing)}
        return losses

    def target(self, output: AttentionOutput) -> ClassTarget:
        """The predicted class of each image."""
        return ClassTarget(output.logits.argmax(dim=1))

    def archived_target(
        self,
        archived: AttentionArchive,
        places: NDArray[np.int64],
        *,
        choice: TargetChoice = "predicted",
        temperature: float | None = None,
    ) -> ClassTarget:
        classes = archived.labels if choice == "label" else archived.predictions  # (N,)
        return ClassTarget(torch.from_numpy(classes[places]), temperature)

    def meter(
        self, table: ImageTable, device: torch.device, *, in_training: bool = False, in_halves: bool = False
    ) -> ClassificationMeter:
        halves = fixed_halves(table) if in_halves else None
        return ClassificationMeter(len(table.class_names), device, in_training=in_training, halves=halves)
