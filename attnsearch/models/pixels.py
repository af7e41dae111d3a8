"""Feeds a backbone pixels under the mean and deviation that its weights expect."""

from __future__ import annotations

import timm
import torch
from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PixelStatistics(nn.Module):
    """From ImageNet's normalisation, which batches have, to that of a timm backbone: (B, 3, H, W) to the same.

    It depends on the backbone's name alone and not on whether weights are loaded, so that a checkpoint means the same
    later; it has no state.
    """

    def __init__(self, backbone: str) -> None:
        super().__init__()
        found = timm.get_pretrained_cfg(backbone)
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if found is None else (tuple(found.mean), tuple(found.std))
        self.is_identity = (mean, std) == (IMAGENET_MEAN, IMAGENET_STD)
        columns = torch.tensor([IMAGENET_MEAN, IMAGENET_STD, mean, std], device="cpu").view(4, 1, 3, 1, 1)
        have_mean, have_std, want_mean, want_std = columns.unbind(0)
        self.scale = nn.Buffer(have_std / want_std, persistent=False)
        self.shift = nn.Buffer((have_mean - want_mean) / want_std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return images if self.is_identity else images * self.scale + self.shift
