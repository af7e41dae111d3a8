"""Model families: from settings to an `AttentionModel`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from attnsearch import plugins
from attnsearch.config.base import register_part
from attnsearch.config.model import BackboneSettings, ModelConfig
from attnsearch.models.base import AttentionModel, Heads

__all__ = ["AttentionModel", "Heads", "build_model", "register_model"]

S = TypeVar("S", bound=BackboneSettings)


def build_model(config: ModelConfig, heads: Heads, *, load_weights: bool = True) -> AttentionModel:
    """The model of any family, on the CPU, in training mode.

    Args:
        heads: of the task; they are built where the family has them.
        load_weights: False starts from random weights whatever `config.weights` says, for models whose whole state
            is loaded next.
    Raises:
        ConfigError: the backbone or its weights cannot be used.
    """
    if not load_weights:
        config = config.model_copy(update={"weights": "none"})
    model: AttentionModel = plugins.resolve(plugins.find("model", config.name).build)(config, heads)
    return model


def register_model(settings: type[S], build: Callable[[S, Heads], AttentionModel]) -> None:
    """Makes a family of your own known: `model: {name: …}` then takes its settings everywhere.

    Args:
        settings: a subclass of `BackboneSettings` with a field such as `name: Literal["mine"] = "mine"`.
        build: called with the settings and the heads of the task; the class of the model itself serves.
    Raises:
        ConfigError: the settings have no name, or another family has it.
    """
    register_part("model", settings, build)
