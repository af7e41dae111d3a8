"""Model families: from settings to an `AttentionModel`."""

from __future__ import annotations

from typing import assert_never

from attnsearch.config.model import (
    BCnnSettings,
    BrNpaSettings,
    CnnSettings,
    DcalSettings,
    IntrSettings,
    LoupeSettings,
    ModelConfig,
    PlainSettings,
)
from attnsearch.models import br_npa, dcal, intr, loupe
from attnsearch.models.base import AttentionModel

__all__ = ["AttentionModel", "build_model"]


def build_model(config: ModelConfig, n_classes: int, *, load_weights: bool = True) -> AttentionModel:
    """The model of any family, on the CPU, in training mode.

    Args:
        load_weights: False starts from random weights whatever `config.weights` says, for models whose whole state
            is loaded next.
    Raises:
        ConfigError: the backbone or its weights cannot be used.
    """
    if not load_weights:
        config = config.model_copy(update={"weights": "none"})
    if isinstance(config, CnnSettings | BCnnSettings | BrNpaSettings):
        return br_npa.build(config, n_classes)
    if isinstance(config, LoupeSettings | PlainSettings):
        return loupe.build(config, n_classes)
    if isinstance(config, IntrSettings):
        return intr.build(config, n_classes)
    if isinstance(config, DcalSettings):
        return dcal.build(config, n_classes)
    assert_never(config)
