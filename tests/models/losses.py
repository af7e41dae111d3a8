"""The loss terms of a model under classification, as the training loop makes them."""

from __future__ import annotations

from torch import Tensor

from attnsearch.config.task import ClassificationSettings
from attnsearch.models.base import AttentionModel
from attnsearch.tasks.base import build_task
from attnsearch.types import AttentionOutput, Batch


def loss_terms(
    model: AttentionModel, output: AttentionOutput, batch: Batch, *, label_smoothing: float = 0.0
) -> dict[str, Tensor]:
    """Named scalars whose sum is the loss."""
    losses = build_task(ClassificationSettings()).losses(output, batch, label_smoothing=label_smoothing)
    return model.weigh_losses(losses, output)
