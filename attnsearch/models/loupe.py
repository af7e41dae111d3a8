"""The Loupe, a learned gate between two stages of a hierarchical backbone, and the same backbone without it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnsearch.config.model import BackboneSettings, LoupeSettings, PlainSettings
from attnsearch.errors import ConfigError, DataError, UsageError
from attnsearch.models.backbones.generic import PixelStatistics, build_any_backbone, run_children, split_after
from attnsearch.models.base import AttentionModel, Heads, default_maps, select_maps
from attnsearch.types import AttentionOutput, Batch, HeadOutput

LAST_STAGE = 3


def build(cfg: LoupeSettings | PlainSettings, heads: Heads) -> AttentionModel:
    """The model that the settings describe, with the backbone's weights loaded.

    Raises:
        ConfigError: the backbone or its weights cannot be used, or the gate does not fit it.
    """
    return Loupe(cfg, heads) if isinstance(cfg, LoupeSettings) else Plain(cfg, heads)


class LoupeGate(nn.Module):
    """How much of each cell passes: (B, C, h, w) -> (B, 1, h, w) float32 in (0, 1).

    Args:
        channels: C.
        reduction: the hidden convolution has C // reduction channels.
    Source: The Loupe (Sengodan 2025, arXiv 2508.16663), released code `narensen/Loupe` model.py, whose state names
        these are. Difference: the sigmoid is computed in float32 under autocast.
    """

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        if not 1 <= reduction <= channels:
            raise ValueError(f"reduction must be from 1 to the {channels} channels, got {reduction}")
        n_hidden = channels // reduction
        self.attention_net = nn.Sequential(
            nn.Conv2d(channels, n_hidden, kernel_size=3, padding=1), nn.ReLU(), nn.Conv2d(n_hidden, 1, kernel_size=1)
        )

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.attention_net(features)  # (B, 1, h, w)
        return logits.float().sigmoid()


def gate_mean_outside(gate: Tensor, part_masks: Tensor) -> Tensor:
    """The mean over batch and cells of what the gate lets pass outside of the parts, a scalar.

    The masks are reduced to the fraction of each cell that they cover. No publication defines the "masked loss" that
    the authors of The Loupe mention; this definition is this package's own and reproduces nothing.

    Args:
        gate: (B, 1, h, w) in [0, 1].
        part_masks: (B, H, W) bool, True on the parts.
    """
    height, width = gate.shape[2:]
    covered = F.adaptive_avg_pool2d(part_masks[:, None].float(), (height, width))  # (B, 1, h, w)
    return (gate * (1.0 - covered)).mean()


class HierarchicalClassifier(AttentionModel):
    """A hierarchical backbone that is cut after one stage, its own pooling, and a head with bias."""

    channels_last: ClassVar[bool] = True

    def __init__(self, cfg: BackboneSettings, heads: Heads, *, stage: int) -> None:
        super().__init__()
        self.backbone = build_any_backbone(cfg)
        self.pixels = PixelStatistics(cfg.backbone)
        self.split = split_after(self.backbone, stage, cfg.backbone)
        cast(Any, self.backbone).reset_classifier(0, "avg")  # ResNets come without pooling
        self.head = heads.image(cast(int, self.backbone.num_features))

    def features_at_split(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, h, w) after the stage."""
        features = run_children(self.backbone, self.split.before, self.pixels(images))
        return features.permute(0, 3, 1, 2) if self.split.is_channels_last else features

    def predict(self, features: Tensor) -> HeadOutput:
        """The head's answer to the features (B, C, h, w) after the stage."""
        head: HeadOutput = self.head(self._pool(self._final(features)))
        return head

    def cell_features(self, batch: Batch) -> Tensor:
        return self.features_at_split(batch.images)

    def embedding_cells(self, batch: Batch) -> Tensor:
        final = self._final(self.shown_features(self.features_at_split(batch.images)))
        cells = (final.permute(0, 3, 1, 2) if self.split.is_channels_last else final).float()  # (B, D, h, w)
        cells = cells / (cells.shape[2] * cells.shape[3])
        if not torch.allclose(cells.sum(dim=(2, 3)), self._pool(final).float(), rtol=1e-2, atol=1e-3):
            raise UsageError(
                f"the embedding of {type(self).__name__} is no sum over the cells of an image, as this backbone "
                "changes it after the average, as ConvNeXt does; use a ResNet or Swin"
            )
        return cells

    def shown_features(self, features: Tensor) -> Tensor:
        """What the rest of the backbone sees of the features (B, C, h, w) after the stage: here all, the same shape."""
        return features

    def _final(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) after the stage -> the last ones of the backbone, in its own order of axes."""
        if self.split.is_channels_last:
            features = features.permute(0, 2, 3, 1)  # (B, h, w, C)
        return run_children(self.backbone, self.split.after, features)

    def _pool(self, final: Tensor) -> Tensor:
        """The last features of the backbone -> (B, D), pooled as it does itself."""
        pooled: Tensor = cast(Any, self.backbone).forward_head(final, pre_logits=True)
        return pooled


class Plain(HierarchicalClassifier):
    """The baseline: no gate and no parameter of one. Its map is the norm of the last stage's features.

    Under the same seed its backbone and classifier start from the weights of a `loupe`.
    """

    map_names = ("norm",)

    def __init__(self, cfg: PlainSettings, heads: Heads) -> None:
        super().__init__(cfg, heads, stage=LAST_STAGE)

    def forward(self, batch: Batch, *, maps: tuple[str, ...] | None = None) -> AttentionOutput:
        features = self.features_at_split(batch.images)  # (B, C, h, w)
        head = self.predict(features)
        if maps is None:
            return AttentionOutput(head)
        norms = torch.linalg.vector_norm(features.float(), dim=1, keepdim=True)  # (B, 1, h, w)
        selected, names = select_maps(norms, self.map_names, maps)
        return AttentionOutput(head, maps=selected, map_names=names, norms=norms)

    def saliency(self, output: AttentionOutput, target: Tensor) -> Tensor:
        return default_maps(output, self.map_names)[:, 0]  # (B, h, w)


class Loupe(HierarchicalClassifier):
    """A backbone with a gate that scales the features after one stage; the gate is the map and the saliency.

    The loss adds `gate_sparsity`, the weighted mean of the gate over batch and cells, and where `mask_weight` asks for
    it `gate_mask`, see `gate_mean_outside`. Training without masks is then an error; evaluation leaves the term out.

    Source: The Loupe (Sengodan 2025, arXiv 2508.16663), released code `narensen/Loupe` model.py and train.py.
        Difference: any stage of any hierarchical backbone.
    """

    map_names = ("gate",)

    def __init__(self, cfg: LoupeSettings, heads: Heads) -> None:
        super().__init__(cfg, heads, stage=cfg.stage)
        if cfg.reduction > self.split.n_channels:
            raise ConfigError(
                f"model.reduction must not exceed the {self.split.n_channels} channels after stage {cfg.stage} of "
                f"{cfg.backbone!r}, got {cfg.reduction}"
            )
        self.gate = LoupeGate(self.split.n_channels, cfg.reduction)
        last_convolution = cast(nn.Conv2d, self.gate.attention_net[2])
        with torch.no_grad():
            cast(Tensor, last_convolution.bias).add_(cfg.initial_gate_bias)
        self.sparsity_weight = cfg.sparsity_weight if cfg.has_sparsity else 0.0
        self.mask_weight = cfg.mask_weight
        self.needs_masks = cfg.mask_weight > 0.0

    def forward(self, batch: Batch, *, maps: tuple[str, ...] | None = None) -> AttentionOutput:
        features = self.features_at_split(batch.images)  # (B, C, h, w)
        gate = self.gate(features)  # (B, 1, h, w)
        head = self.predict(features * gate.to(features.dtype))  # of (B, C, h, w)
        losses = {"gate_sparsity": self.sparsity_weight * gate.mean()}
        if self.needs_masks and batch.part_masks is not None:
            losses["gate_mask"] = self.mask_weight * gate_mean_outside(gate, batch.part_masks)
        if maps is None:
            return AttentionOutput(head, extra_losses=losses)
        selected, names = select_maps(gate, self.map_names, maps)
        return AttentionOutput(head, maps=selected, map_names=names, extra_losses=losses)

    def shown_features(self, features: Tensor) -> Tensor:
        gate: Tensor = self.gate(features)  # (B, 1, h, w)
        return features * gate.to(features.dtype)

    def weigh_losses(self, losses: Mapping[str, Mapping[str, Tensor]], output: AttentionOutput) -> dict[str, Tensor]:
        if self.training and self.needs_masks and "gate_mask" not in output.extra_losses:
            raise DataError(
                f"model.mask_weight is {self.mask_weight:g} and the images have no part masks; use data that has "
                "them, such as data.name=synthetic, or set it to 0"
            )
        return super().weigh_losses(losses, output)

    def saliency(self, output: AttentionOutput, target: Tensor) -> Tensor:
        return default_maps(output, self.map_names)[:, 0]  # (B, h, w)
