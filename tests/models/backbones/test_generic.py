from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attnsearch.config.model import IntrSettings, LoupeSettings, PlainSettings
from attnsearch.models import build_model
from attnsearch.models.backbones.generic import PixelStatistics
from attnsearch.tasks.classification import LinearHeads
from attnsearch.types import Batch

# (1 - mean) / deviation of a white pixel under ImageNet's numbers
WHITE = ((1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])).view(1, 3, 1, 1)


@pytest.mark.parametrize("backbone", ["resnet50", "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "unheard"])
def test_imagenet_backbones_see_the_pixels_as_they_are(backbone: str) -> None:
    images = torch.randn(1, 3, 4, 4)
    assert PixelStatistics(backbone)(images) is images


@pytest.mark.parametrize("backbone", ["vit_base_patch16_224.augreg_in21k", "resnetv2_50x1_bit"])
def test_white_is_one_under_mean_and_deviation_of_a_half(backbone: str) -> None:
    torch.testing.assert_close(PixelStatistics(backbone)(WHITE), torch.ones(1, 3, 1, 1))


def test_statistics_have_no_state() -> None:
    assert PixelStatistics("resnetv2_50x1_bit").state_dict() == {}


@pytest.mark.parametrize(
    "settings",
    [
        LoupeSettings(name="loupe", backbone="resnetv2_50x1_bit", weights="none"),
        PlainSettings(name="plain", backbone="resnetv2_50x1_bit", weights="none"),
        IntrSettings(name="intr", backbone="resnetv2_50x1_bit", weights="none", frozen_batch_norm=False),
    ],
)
def test_every_family_feeds_its_backbone_what_the_name_expects(
    settings: LoupeSettings | PlainSettings | IntrSettings,
) -> None:
    model = build_model(settings, LinearHeads(2)).eval()
    seen: list[Tensor] = []
    first = next(module for module in model.backbone.modules() if isinstance(module, torch.nn.Conv2d))
    first.register_forward_pre_hook(lambda _module, arguments: seen.append(arguments[0]))
    with torch.no_grad():
        model(Batch(WHITE.expand(1, 3, 64, 64), torch.zeros(1, dtype=torch.int64), ("",), torch.zeros(1)))
    torch.testing.assert_close(seen[0][:, :, 32:33, 32:33], torch.ones(1, 3, 1, 1))
