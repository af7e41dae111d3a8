"""Tiny settings, images and weights by formula, shared by the tests of the models."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attnsearch.config.model import ResNetSettings
from attnsearch.types import Batch

GOLDEN = Path(__file__).parents[1] / "golden"
N_CLASSES = 5

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
    """Sets every parameter by formula, so that no layer is zero and no output depends on a random generator."""

    @torch.no_grad()
    def fill_by_formula(module: nn.Module) -> nn.Module:
        for index, parameter in enumerate(module.parameters()):
            wave = torch.cos(0.7 * torch.arange(parameter.numel()) + index).view_as(parameter)
            fan_in = parameter[0].numel()
            parameter.copy_(wave * (2 / fan_in) ** 0.5 if parameter.ndim > 1 else 0.5 + 0.25 * wave)
        return module

    return fill_by_formula


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """A batch of waves; image i is the same whatever the batch's size."""

    def build(n_images: int = 2, height: int = 64, width: int = 64) -> Batch:
        frequency = 0.03 * (1 + torch.arange(n_images * 3).view(n_images, 3, 1, 1))
        grid = torch.arange(height)[:, None] * 1.3 + torch.arange(width)
        return Batch(
            images=torch.sin(frequency * grid),
            labels=torch.arange(n_images) % N_CLASSES,
            image_ids=tuple(f"{index}.jpg" for index in range(n_images)),
            rows=torch.arange(n_images),
        )

    return build
