"""The contract between a model family and the trainer, the evaluation and the search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from attnsearch.types import AttentionOutput, Batch


class AttentionModel(nn.Module, ABC):
    """A classifier that can show where it looked.

    In eval mode it is deterministic and what it says of an image does not depend on the rest of the batch.

    Attributes:
        channels_last: whether the trainer should use channels-last memory for images and weights.
        backbone_prefix: parameters whose name starts so take the backbone's learning rate factor.
        undecayed: last names of parameters without weight decay, beside all vectors and scalars.
        needs_masks: whether its loss reads `Batch.part_masks`, which training must then have; evaluation leaves the
            term out where there are none.
    """

    channels_last: ClassVar[bool] = False
    backbone_prefix: ClassVar[str] = "backbone."
    undecayed: ClassVar[frozenset[str]] = frozenset()
    needs_masks: bool = False

    @abstractmethod
    def forward(self, batch: Batch, *, maps: tuple[str, ...] | None = None) -> AttentionOutput:
        """Classifies a batch.

        Args:
            maps: None for no maps and no norms (training), an empty tuple for the family's default maps, or the names
                of those wanted, in the order wanted.
        Returns:
            Logits (B, n_classes), possibly in the autocast dtype; maps and norms in float32, attached to the graph.
        Raises:
            ValueError: a map is asked for that the family does not make.
        """

    def loss_terms(self, output: AttentionOutput, batch: Batch, *, label_smoothing: float = 0.0) -> dict[str, Tensor]:
        """Named float32 scalars, each a mean over the batch; the loss is their sum.

        A family's own terms come weighted. `cross_entropy` is the one that a teacher replaces.
        """
        cross_entropy = F.cross_entropy(output.logits.float(), batch.labels, label_smoothing=label_smoothing)
        return {"cross_entropy": cross_entropy, **output.extra_losses}

    @abstractmethod
    def saliency(self, output: AttentionOutput, target: Tensor) -> Tensor:
        """The one map that the model offers as its answer, (B, h, w) float32, not negative, of any scale.

        Args:
            output: of a forward pass with the default maps.
            target: (B,) int64, the class to explain; families whose maps do not depend on a class ignore it.
        Raises:
            ValueError: the output lacks the maps.
        """


def select_maps(maps: Tensor, names: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[Tensor, tuple[str, ...]]:
    """The maps (B, len(wanted), h, w) with these names, and their names; nothing wanted means all.

    Raises:
        ValueError: a name is unknown.
    """
    if not wanted:
        return maps, names
    if unknown := [name for name in wanted if name not in names]:
        raise ValueError(f"there is no map {', '.join(unknown)}, only {', '.join(names)}")
    return maps[:, [names.index(name) for name in wanted]], wanted
