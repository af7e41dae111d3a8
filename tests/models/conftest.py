"""Tiny settings, images and weights by formula, shared by the tests of the models."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attnsearch.config.model import ResNetSettings
from attnsearch.testing.model import fill_by_formula, wave_batch
from attnsearch.types import Batch

GOLDEN = Path(__file__).parents[1] / "golden"

Golden = Callable[[str], dict[str, Tensor]]


@pytest.fixture
def golden() -> Golden:
    """Reads one golden file as tensors."""

    def read(name: str) -> dict[str, Tensor]:
        with np.load(GOLDEN / f"{name}.npz") as arrays:
            return {key: torch.from_numpy(array) for key, array in arrays.items()}

    return read


@pytest.fixture
def tiny() -> Callable[..., ResNetSettings]:
    """Settings of a ResNet family on the smallest backbone."""

    def settings(settings_class: type[ResNetSettings], **changes: object) -> ResNetSettings:
        return settings_class.model_validate({"backbone": "resnet10t", "width": 0.25, **changes})

    return settings


@pytest.fixture
def fill() -> Callable[[nn.Module], nn.Module]:
    return fill_by_formula


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    return wave_batch
