"""timm backbones of any kind without their classifier: built with weights, or run in two parts around a stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import timm
import torch
from timm.models import is_model_in_modules
from torch import Tensor, nn

from attnsearch.config.model import BackboneSettings, CnnSettings, HierarchicalSettings
from attnsearch.errors import ConfigError
from attnsearch.models.backbones import check_known, create_body
from attnsearch.models.backbones.resnet import build_resnet
from attnsearch.models.weights import load_backbone
from attnsearch.types import IMAGENET_MEAN, IMAGENET_STD


class PixelStatistics(nn.Module):
    """From ImageNet's normalisation, which batches have, to that of a timm backbone: (B, 3, H, W) to the same.

    It depends on the backbone's name alone and not on whether weights are loaded, so that a checkpoint means the same
    later; it has no state.
    """

    def __init__(self, backbone: str) -> None:
        super().__init__()
        timm_cfg = timm.get_pretrained_cfg(backbone)
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if timm_cfg is None else (tuple(timm_cfg.mean), tuple(timm_cfg.std))
        self.is_identity = (mean, std) == (IMAGENET_MEAN, IMAGENET_STD)
        columns = torch.tensor([IMAGENET_MEAN, IMAGENET_STD, mean, std], device="cpu").view(4, 1, 3, 1, 1)
        have_mean, have_std, want_mean, want_std = columns.unbind(0)
        self.scale = nn.Buffer(have_std / want_std, persistent=False)
        self.shift = nn.Buffer((have_mean - want_mean) / want_std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to the same."""
        return images if self.is_identity else images * self.scale + self.shift


#: timm's options that let a backbone take images of any size, padding them where its windows or patches ask for it.
_ANY_SIZE: dict[str, dict[str, Any]] = {
    "swin_transformer": {"strict_img_size": False},
    "swin_transformer_v2": {"strict_img_size": False},
    "vision_transformer": {"dynamic_img_size": True, "dynamic_img_pad": True},
    "deit": {"dynamic_img_size": True, "dynamic_img_pad": True},
    "eva": {"dynamic_img_size": True, "dynamic_img_pad": True},
}
#: timm's modules whose children, run in their order, are the backbone; a test compares each with timm's own forward.
HIERARCHICAL = (
    "convnext",
    "pvt_v2",
    "regnet",
    "resnet",
    "resnetv2",
    "swin_transformer",
    "swin_transformer_v2",
)
_STAGE_CELLS_PX = (4, 8, 16, 32)
_HEADS = ("global_pool", "head", "fc")


def build_any_backbone(cfg: BackboneSettings) -> nn.Module:
    """A timm backbone without classifier, with its weights loaded.

    ResNets are those of `backbones.resnet`; all others come as timm builds them. Swin and vision transformers of one
    scale, such as DeiT and DINOv3, take images of any size.

    Raises:
        ConfigError: timm does not know the backbone, cannot change its width or last stride, or its weights cannot be
            loaded.
    """
    last_stride = cfg.last_stride if isinstance(cfg, HierarchicalSettings) else 2
    if timm.is_model(cfg.backbone) and is_model_in_modules(cfg.backbone, ["resnet"]):
        resnet = CnnSettings(backbone=cfg.backbone, width=cfg.width, weights=cfg.weights, stride_stage4=last_stride)
        return build_resnet(resnet)
    check_known(cfg.backbone, examples=["resnet50"])
    if last_stride != 2:
        raise ConfigError(
            f"model.last_stride {last_stride} does not fit {cfg.backbone!r}: only ResNets change their last stride; "
            "set it to 2 or use a ResNet such as resnet50"
        )
    if cfg.width != 1.0:
        raise ConfigError(
            f"model.width {cfg.width:g} does not fit {cfg.backbone!r}: only ResNets change their width; set it to 1"
        )
    options = next((kwargs for module, kwargs in _ANY_SIZE.items() if is_model_in_modules(cfg.backbone, [module])), {})
    body = create_body(cfg.backbone, **options)
    if "strict_img_size" in options:
        body.patch_embed.dynamic_img_pad = True  # its constructor does not pass this option
    load_backbone(body, cfg.weights, cfg.backbone)
    return cast(nn.Module, body)


class FeatureBackbone(nn.Module):
    """A timm backbone up to its last features: images (B, 3, H, W) in ImageNet's normalisation -> (B, C, h, w).

    Attributes:
        num_features: C.
    """

    def __init__(self, cfg: BackboneSettings) -> None:
        super().__init__()
        self.pixels = PixelStatistics(cfg.backbone)
        self.body = build_any_backbone(cfg)
        self.num_features = int(cast(Any, self.body).feature_info[-1]["num_chs"])

    def forward(self, images: Tensor) -> Tensor:
        body = cast(Any, self.body)
        stages: list[Tensor] = body.forward_intermediates(
            self.pixels(images), indices=1, norm=True, intermediates_only=True
        )
        return stages[-1]  # (B, C, h, w)


def build_backbone(cfg: BackboneSettings) -> FeatureBackbone:
    """The backbone that the settings name, with its weights loaded, for a model of your own.

    Raises:
        ConfigError: timm does not know the backbone, cannot change its width, or its weights cannot be loaded.
    """
    return FeatureBackbone(cfg)


@dataclass(frozen=True)
class StageSplit:
    """The children of a backbone up to the end of a stage, and those after it, by name and in their order.

    Attributes:
        n_channels: of the features between the two.
        is_channels_last: whether the backbone passes (B, h, w, C) instead of (B, C, h, w).
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    n_channels: int
    is_channels_last: bool


def split_after(body: nn.Module, stage: int, backbone: str) -> StageSplit:
    """Where to cut a hierarchical backbone, after stage 0 (cells of 4 px), 1, 2 or 3 (cells of 32 px).

    Args:
        backbone: the body's timm name.
    Raises:
        ConfigError: the backbone is not hierarchical.
    """
    infos = list(cast(Any, body).feature_info)[-len(_STAGE_CELLS_PX) :]
    cells = tuple(int(info["reduction"]) for info in infos)
    if cells != _STAGE_CELLS_PX or not is_model_in_modules(backbone, list(HIERARCHICAL)):
        raise ConfigError(
            f"model.backbone {backbone!r} is not one of the hierarchical backbones, whose four stages have cells of "
            "4, 8, 16 and 32 px; use a Swin, ResNet, RegNet, ConvNeXt or PVT model of timm, such as "
            "swin_tiny_patch4_window7_224"
        )
    names = _children(body, [info["module"] for info in infos])
    cut = names.index(infos[stage]["module"]) + 1
    is_channels_last = str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC")
    return StageSplit(names[:cut], names[cut:], int(infos[stage]["num_chs"]), is_channels_last)


def _children(body: nn.Module, stages: Sequence[str]) -> tuple[str, ...]:
    """Names of all children but the heads; a child that holds stages is replaced by its own children."""
    names: list[str] = []
    for name, child in body.named_children():
        inner = [f"{name}.{inner_name}" for inner_name, _ in child.named_children()]
        if name not in _HEADS:
            names += inner if any(stage in inner for stage in stages) else [name]
    return tuple(names)


def run_children(body: nn.Module, names: Sequence[str], inputs: Tensor) -> Tensor:
    """What the named children of a body make, one after the other, of images (B, 3, H, W) or the features between."""
    for name in names:
        inputs = body.get_submodule(name)(inputs)
    return inputs
