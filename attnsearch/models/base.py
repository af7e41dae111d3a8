"""The contract between a model family and the trainer, the evaluation and the search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Protocol

from torch import Tensor, nn

from attnsearch.errors import UsageError
from attnsearch.types import AttentionOutput, Batch, HeadOutput


class Heads(Protocol):
    """Makes the heads of a model, as its task needs them; a family decides where they stand and what they read.

    Attributes:
        n_classes: at least 2.
    """

    @property
    def n_classes(self) -> int: ...

    def image(self, width: int, *, bias: bool = True) -> nn.Module:
        """A head that reads one vector an image: (B, width) -> `HeadOutput`.

        Args:
            bias: whether the family wants one; a task may go without.
        """

    def per_class(self, width: int) -> nn.Module:
        """A head that reads one vector for each class: (B, n_classes, width) -> `HeadOutput` without embedding.

        Raises:
            ConfigError: the task has no classes to predict.
        """

    def combine(self, branches: Mapping[str, HeadOutput]) -> HeadOutput:
        """The prediction of several branches together."""


class AttentionModel(nn.Module, ABC):
    """A model that makes attention maps; it knows nothing of its task except the heads that it is given.

    In eval mode it is deterministic, and its output for an image does not depend on the rest of the batch.

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
        """What the model makes of a batch.

        Args:
            maps: None for no maps and no norms (training), an empty tuple for the family's default maps, or the names
                of some, in the order to return them in.
        Returns:
            Heads, possibly in the autocast dtype; maps and norms in float32, attached to the graph.
        Raises:
            UsageError: a map is asked for that the family does not make.
        """

    def figure_maps(self, kind: str) -> tuple[str, ...]:
        """Names of the maps that a figure type needs beside the default ones; none by default.

        Args:
            kind: one of the settings' `figure_kinds`.
        """
        return ()

    def weigh_losses(self, losses: Mapping[str, Mapping[str, Tensor]], output: AttentionOutput) -> dict[str, Tensor]:
        """Named float32 scalars whose sum is the loss: here all losses of all branches and the family's own ones.

        Args:
            losses: of the task, by branch and name, each a mean over the batch; the branches are the
                `trained_heads` of the output.
        """
        terms = {name: loss for of_branch in losses.values() for name, loss in of_branch.items()}
        return {**terms, **output.extra_losses}

    def embedding_cells(self, batch: Batch) -> Tensor:
        """What each cell adds to the embedding of eval mode: (B, D, h, w) float32, whose sum over the cells is it.

        Raises:
            UsageError: the embedding is no sum over the cells, as that of a class token.
        """
        raise UsageError(
            f"the embedding of {type(self).__name__} is no sum over the cells of an image; explain it by removing "
            "cells, or use a family whose features are averaged, such as cnn"
        )

    def cell_features(self, batch: Batch) -> Tensor:
        """What the family's map weighs, cell by cell: (B, C, h, w), on the grid of the map.

        Raises:
            UsageError: the family names no such features.
        """
        raise UsageError(f"{type(self).__name__} does not say what its map weighs; a family does so by cell_features")

    @abstractmethod
    def saliency(self, output: AttentionOutput, target: Tensor) -> Tensor:
        """The one map that the model offers as its answer, (B, h, w) float32, not negative, of any scale.

        Args:
            output: of a forward pass with the default maps.
            target: (B,) int64, the class to explain; families whose maps do not depend on a class ignore it.
        Raises:
            UsageError: the output lacks the maps.
        """


def default_maps(output: AttentionOutput, names: tuple[str, ...]) -> Tensor:
    """The maps (B, K, h, w) of an output, which must be those of these names, as saliency is made of them.

    Raises:
        UsageError: the output has none, or others.
    """
    if output.maps is None or output.map_names != names:
        raise UsageError(f"saliency needs the maps {', '.join(names)}: call forward with maps=()")
    return output.maps


def select_maps(maps: Tensor, names: tuple[str, ...], selected: tuple[str, ...]) -> tuple[Tensor, tuple[str, ...]]:
    """The maps (B, K, h, w) with the K selected names, and their names; an empty tuple selects all.

    Raises:
        UsageError: a name is unknown.
    """
    if not selected:
        return maps, names
    if unknown := [name for name in selected if name not in names]:
        raise UsageError(f"there is no map {', '.join(unknown)}, only {', '.join(names)}")
    return maps[:, [names.index(name) for name in selected]], selected
