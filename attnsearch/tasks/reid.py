"""Re-identification: heads with a batch-norm neck, identity and triplet losses, ranked galleries as validation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnsearch.config.evaluation import TargetChoice
from attnsearch.config.experiment import ReidSettings
from attnsearch.errors import ConfigError, UsageError
from attnsearch.metrics.registry import RETRIEVAL_RULES
from attnsearch.models.base import AttentionModel
from attnsearch.tasks.base import SoftTargets, Task
from attnsearch.tasks.classification import mean_probability
from attnsearch.tasks.retrieval import (
    RETRIEVAL_METRICS,
    GalleryRanking,
    RetrievalMeter,
    SimilarityTarget,
    references_of,
)
from attnsearch.tasks.sampling import identity_batches
from attnsearch.types import AttentionArchive, AttentionOutput, Batch, HeadOutput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from attnsearch.data.tables import ImageTable

_CLASSIFIER_STD = 0.001
_CENTRE_RATE = 0.5


@dataclass(frozen=True)
class ReidOutput(HeadOutput):
    """What a head of re-identification makes of a batch; its embedding is what stands before the neck.

    Attributes:
        neck: (B, D), the embedding after the neck; the embedding itself where there is none.
        centres: (n_classes, D), a buffer of the head with the centre of each identity, where its loss needs them.
    """

    neck: Tensor | None = None
    centres: Tensor | None = None

    @property
    def vectors(self) -> tuple[Tensor, Tensor]:
        """(B, D) before and after the neck."""
        assert self.embedding is not None
        assert self.neck is not None
        return self.embedding, self.neck


class ReidHead(nn.Module):
    """Batch-norm neck and classifier of the training identities: (B, D) -> logits (B, n_classes).

    The neck has no bias, and neither has the classifier. With a scale, logits are scaled cosines, as for ArcFace.

    Source: Luo et al. 2019 (arXiv 1903.07071), section 3.5; initial values as in its released code.
    """

    def __init__(self, width: int, n_classes: int, settings: ReidSettings) -> None:
        super().__init__()
        self.scale = settings.arcface_scale
        self.neck = nn.BatchNorm1d(width) if settings.neck else None
        if self.neck is not None:
            self.neck.bias.requires_grad_(False)
        self.classifier = nn.Linear(width, n_classes, bias=False)
        if self.scale is None:
            nn.init.normal_(self.classifier.weight, std=_CLASSIFIER_STD)
        else:
            nn.init.xavier_uniform_(self.classifier.weight)
        self.centres = nn.Buffer(torch.zeros(n_classes, width)) if settings.centre_weight else None

    def forward(self, features: Tensor) -> ReidOutput:
        neck = features if self.neck is None else self.neck(features)  # (B, D)
        if self.scale is None:
            logits = self.classifier(neck)  # (B, n_classes)
        else:
            cosines = F.linear(F.normalize(neck.float()), F.normalize(self.classifier.weight.float()))
            logits = self.scale * cosines
        return ReidOutput(logits, features, neck, self.centres)


@dataclass(frozen=True)
class ReidHeads:
    """Makes heads for `n_classes` training identities.

    Raises:
        ValueError: there are fewer than two.
    """

    n_classes: int
    settings: ReidSettings

    def __post_init__(self) -> None:
        if self.n_classes < 2:
            raise ValueError(f"n_classes must be >= 2, got {self.n_classes}")

    def image(self, width: int, *, bias: bool = True) -> nn.Module:
        """A neck and a classifier, which has no bias whatever the family wants."""
        return ReidHead(width, self.n_classes, self.settings)

    def per_class(self, width: int) -> nn.Module:
        raise ConfigError(
            "task reid: the model reads one vector for each class, and re-identification meets identities that are no "
            "classes; use another model, such as cnn, br_npa, loupe or dcal"
        )

    def combine(self, branches: Mapping[str, HeadOutput]) -> ReidOutput:
        """The branches' vectors side by side: embeddings (B, D1 + D2 …), and those after the necks.

        Logits are those of the mean probability, see `mean_probability`.

        Source: Zhu et al. 2022 (arXiv 2205.02151), section 3.4.
        """
        outputs = [branch for branch in branches.values() if isinstance(branch, ReidOutput)]
        embedding, neck = (torch.cat(parts, dim=1) for parts in zip(*(o.vectors for o in outputs), strict=True))
        return ReidOutput(mean_probability([branch.logits for branch in branches.values()]), embedding, neck)


def hardest_distances(embeddings: Tensor, identities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each image of a batch the Euclidean distances of its farthest positive and of its nearest negative.

    Args:
        embeddings: (B, D).
        identities: (B,) int64.
    Returns:
        (B,) float32 of the positives and of the negatives, and (B,) bool, True where an image has both; elsewhere the
        distances mean nothing.
    """
    features = embeddings.float()
    squares = features.square().sum(dim=1)
    squared = squares[:, None] + squares[None, :] - 2 * features @ features.T  # (B, B)
    distances = squared.clamp(min=1e-12).sqrt()  # a gradient of the root at 0 would be infinite
    is_same = identities[:, None] == identities[None, :]
    is_positive = is_same & ~torch.eye(len(identities), dtype=torch.bool, device=is_same.device)
    farthest = distances.masked_fill(~is_positive, -math.inf).amax(dim=1)
    nearest = distances.masked_fill(is_same, math.inf).amin(dim=1)
    return farthest, nearest, is_positive.any(dim=1) & ~is_same.all(dim=1)


def batch_hard_triplet(embeddings: Tensor, identities: Tensor, *, margin: float | None) -> Tensor:
    """The batch-hard triplet loss, a float32 scalar: the mean over the images that have a positive and a negative.

    It is max(0, d_ap - d_an + margin), or log(1 + exp(d_ap - d_an)) without a margin, of Euclidean distances to the
    farthest image of the same and the nearest of another identity. Where no image has both it is 0, with a gradient
    of 0.

    Args:
        embeddings: (B, D), not normalised.
        identities: (B,) int64.
        margin: None takes the soft margin.
    Source: Hermans et al. 2017 (arXiv 1703.07737), section 2.
    """
    farthest, nearest, is_valid = hardest_distances(embeddings, identities)
    gaps = (farthest - nearest).masked_fill(~is_valid, 0.0)  # chosen by a mask, as a choice by places would wait
    losses = F.softplus(gaps) if margin is None else F.relu(gaps + margin)
    return losses.masked_fill(~is_valid, 0.0).sum() / is_valid.sum().clamp(min=1)


def arcface_loss(
    logits: Tensor, identities: Tensor, *, scale: float, margin: float, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy after the angle of the true identity was widened by a margin, a float32 scalar.

    Args:
        logits: (B, n_classes), `scale` times the cosines.
        identities: (B,) int64.
        margin: in radians. Angles that it would widen beyond half a turn lose margin · sin(margin) instead.
    Source: Deng et al. 2019 (arXiv 1801.07698), section 2.1, and its released code.
    """
    cosines = (logits.float() / scale).clamp(-1.0, 1.0)
    of_true = cosines.gather(1, identities[:, None])  # (B, 1)
    sines = (1.0 - of_true.square()).clamp(min=1e-12).sqrt()
    widened = of_true * math.cos(margin) - sines * math.sin(margin)
    beyond = of_true - margin * math.sin(margin)
    widened = torch.where(of_true > -math.cos(margin), widened, beyond)
    return F.cross_entropy(scale * cosines.scatter(1, identities[:, None], widened), identities,
                           label_smoothing=label_smoothing)  # fmt: skip


def centre_loss(embeddings: Tensor, identities: Tensor, centres: Tensor) -> Tensor:
    """The mean squared distance of embeddings (B, D) to the centres (n_classes, D) of their identities (B,)."""
    return (embeddings.float() - centres[identities]).square().sum(dim=1).mean()


@torch.no_grad()
def move_centres(centres: Tensor, embeddings: Tensor, identities: Tensor) -> None:
    """Moves the centres (n_classes, D) of the identities (B,) of a batch towards their embeddings (B, D), in place.

    Source: Wen et al. 2016 (ECCV), equation 4, with a rate of 0.5.
    """
    gaps = torch.zeros_like(centres).index_add_(0, identities, centres[identities] - embeddings.float())
    counts = centres.new_zeros(len(centres)).index_add_(0, identities, torch.ones_like(embeddings[:, 0]).float())
    centres -= _CENTRE_RATE * gaps / (1 + counts)[:, None]


def _move_all_centres(output: AttentionOutput, batch: Batch) -> None:
    """Moves the centres of each head once: SA and PWCA of DCAL have one head and its centres."""
    moved: list[Tensor] = []
    for head in output.trained_heads.values():
        assert isinstance(head, ReidOutput)
        if head.centres is None or head.embedding is None or any(head.centres is centres for centres in moved):
            continue
        move_centres(head.centres, head.embedding.detach(), batch.labels)
        moved.append(head.centres)


@dataclass(frozen=True)
class ReidTask(Task):
    """Images of one identity lie near each other; validation ranks galleries of identities that training never saw."""

    settings: ReidSettings
    predicts_classes: ClassVar[bool] = False

    def metrics(self, table: ImageTable) -> frozenset[str]:
        assert table.match_rule is not None
        suffix = RETRIEVAL_RULES[table.match_rule][0]
        return frozenset(f"{name}{suffix}" for name in RETRIEVAL_METRICS)

    def heads(self, n_classes: int) -> ReidHeads:
        return ReidHeads(n_classes, self.settings)

    def losses(
        self,
        output: AttentionOutput,
        batch: Batch,
        *,
        in_training: bool = True,
        label_smoothing: float = 0.0,
        soft_targets: SoftTargets | None = None,
    ) -> dict[str, dict[str, Tensor]]:
        """`identity`, `triplet` and, where it is asked for, `centre` of each branch, weighted.

        Outside of training `triplet` alone, as the identities of other splits are no classes of the model. In training
        the centres move afterwards, towards the embeddings of the first branch that reads their head.
        """
        losses: dict[str, dict[str, Tensor]] = {}
        for branch, head in output.trained_heads.items():
            assert isinstance(head, ReidOutput)
            suffix = f"_{branch}" if losses else ""
            terms = {"triplet": self._triplet(head, batch)}
            if in_training:
                terms = {"identity": self._identity(head, batch, label_smoothing), **terms, **self._centre(head, batch)}
            losses[branch] = {f"{name}{suffix}": loss for name, loss in terms.items()}
        if in_training and torch.is_grad_enabled():
            _move_all_centres(output, batch)
        return losses

    def _triplet(self, head: ReidOutput, batch: Batch) -> Tensor:
        assert head.embedding is not None
        loss = batch_hard_triplet(head.embedding, batch.labels, margin=self.settings.triplet_margin)
        return self.settings.triplet_weight * loss

    def _identity(self, head: ReidOutput, batch: Batch, label_smoothing: float) -> Tensor:
        settings, logits = self.settings, head.logits.float()
        if settings.arcface_scale is None:
            loss = F.cross_entropy(logits, batch.labels, label_smoothing=label_smoothing)
        else:
            scale, margin = settings.arcface_scale, settings.arcface_margin
            loss = arcface_loss(logits, batch.labels, scale=scale, margin=margin, label_smoothing=label_smoothing)
        return settings.identity_weight * loss

    def _centre(self, head: ReidOutput, batch: Batch) -> dict[str, Tensor]:
        """The term, if there is one."""
        if head.centres is None or head.embedding is None:
            return {}
        return {"centre": self.settings.centre_weight * centre_loss(head.embedding, batch.labels, head.centres)}

    def meter(
        self, table: ImageTable, device: torch.device, *, in_training: bool = False, in_halves: bool = False
    ) -> RetrievalMeter:
        embed = None if in_training else self.embed
        return RetrievalMeter(table, embed, distance=self.settings.distance, in_halves=in_halves)

    def predict(self, model: AttentionModel, batch: Batch, *, maps: tuple[str, ...] | None = None) -> AttentionOutput:
        """What the model makes of a batch; with `flip_average`, embeddings are means with those of mirror images."""
        output = super().predict(model, batch, maps=maps)
        if not self.settings.flip_average:
            return output
        mirrored = super().predict(model, _mirrored(batch))
        branches = {name: _mean_of(head, mirrored.branches[name]) for name, head in output.branches.items()}
        return replace(output, head=_mean_of(output.head, mirrored.head), branches=branches)

    def embedding_cells(self, model: AttentionModel, batch: Batch) -> Tensor:
        """What each cell adds to what images are compared by, before that is scaled: (B, D, h, w) float32.

        What the neck adds to every image is spread evenly over the cells; with `flip_average`, the cells of the mirror
        image are mirrored back.

        Raises:
            UsageError: the embedding is no sum over the cells.
        """
        cells = self._cells(model, batch)
        return (cells + self._cells(model, _mirrored(batch)).flip(-1)) / 2 if self.settings.flip_average else cells

    def _cells(self, model: AttentionModel, batch: Batch) -> Tensor:
        """What each cell adds to the embedding of one view, (B, D, h, w)."""
        cells = model.embedding_cells(batch)
        if self.settings.embedding == "before_neck":
            return cells
        scale, shift = (values[:, None, None] for values in _neck_of(model, cells.shape[1]))
        return cells * scale + shift / (cells.shape[2] * cells.shape[3])

    def embed(self, output: AttentionOutput) -> Tensor:
        """(B, D) float32, before or after the neck, of length 1 unless `normalise` is off."""
        head = output.head
        assert isinstance(head, ReidOutput)
        before, after = head.vectors
        features = after if self.settings.embedding == "after_neck" else before
        return F.normalize(features.float()) if self.settings.normalise else features.float()

    def target(self, output: AttentionOutput) -> SimilarityTarget:
        """The similarity of each image to itself, as there is no other: what its own embedding rests on."""
        return SimilarityTarget(self.embed(output).detach(), self.embed)

    def archived_target(
        self,
        archived: AttentionArchive,
        places: NDArray[np.int64],
        *,
        choice: TargetChoice = "predicted",
        temperature: float | None = None,
    ) -> SimilarityTarget:
        """The similarity to the nearest gallery image, or for the choice `label` to the nearest match."""
        references = references_of(archived, places, choice)  # (B, D)
        return SimilarityTarget(references, self.embed, GalleryRanking.of(archived, places))

    def row_order(self, table: ImageTable, *, batch_size: int, seed: int, epoch: int) -> NDArray[np.int64]:
        k = self.settings.images_per_identity
        return identity_batches(table, batch_size=batch_size, images_per_identity=k, seed=seed, epoch=epoch)

    def parts(self, n_images: int, part_images: int) -> list[slice]:
        """Parts of `part_images` images, which are whole identities; triplets are found within a part."""
        return [slice(start, min(start + part_images, n_images)) for start in range(0, n_images, part_images)]


def _mirrored(batch: Batch) -> Batch:
    """The batch with the mirror images, without masks."""
    padding = None if batch.padding is None else batch.padding.flip(-1)
    return replace(batch, images=batch.images.flip(-1), padding=padding, part_masks=None)


def _neck_of(model: AttentionModel, width: int) -> tuple[Tensor, Tensor]:
    """Scale and shift (D,) that the neck of the head of a width D has in eval mode.

    Raises:
        UsageError: the model has no such head.
    """
    for head in model.modules():
        if isinstance(head, ReidHead) and head.neck is not None and head.neck.num_features == width:
            statistics = head.neck.running_mean, head.neck.running_var
            mean, variance = (cast(Tensor, one).float() for one in statistics)
            scale = head.neck.weight.float() / (variance + head.neck.eps).sqrt()
            return scale, head.neck.bias.float() - mean * scale
    raise UsageError(
        f"{type(model).__name__} has no neck behind an embedding of {width} channels, so that none is split"
    )


def _mean_of(head: HeadOutput, mirrored: HeadOutput) -> HeadOutput:
    """The head with the means of both heads' vectors (B, D) before and after the neck."""
    assert isinstance(head, ReidOutput)
    assert isinstance(mirrored, ReidOutput)
    embedding, neck = ((own + other) / 2 for own, other in zip(head.vectors, mirrored.vectors, strict=True))
    return replace(head, embedding=embedding, neck=neck)
