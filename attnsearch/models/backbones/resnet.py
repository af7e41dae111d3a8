"""ResNet-like feature extractors from timm whose last three stages may keep their resolution."""

from __future__ import annotations

from typing import Any, cast

import torch
from timm.models import is_model_in_modules
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from attnsearch.config.model import ResNetSettings
from attnsearch.errors import ConfigError
from attnsearch.models.backbones import check_known, create_body
from attnsearch.models.weights import load_backbone

CHANNEL_STEP = 8  # widths are rounded to it: tensor cores and channels-last kernels want multiples of 8


def build_resnet(cfg: ResNetSettings) -> ResNet:
    """A timm ResNet without pooling and classifier: images (B, 3, H, W) -> features (B, C, h, w), never negative.

    With all strides 2, h = ceil(H / 32); each stride of 1 doubles h and w. Nothing is dilated, so weights fit
    whatever the strides. C is `num_features`. Only `weights: hub` may reach the network.

    Raises:
        ConfigError: timm does not know the backbone, it is not a ResNet that ends in a ReLU, it cannot change its
            width, or its weights cannot be loaded.
    Source: BR-NPA (Gomez et al. 2022, arXiv 2106.02566), whose authors' networks change strides in the same way; for
        re-identification of persons at high resolution those of the stages 2, 3 and 4.
    """
    _check_name(cfg.backbone)
    body = _create(cfg.backbone, cfg.width)
    if not isinstance(_last_activation(body), nn.ReLU):
        raise ConfigError(f"model.backbone {cfg.backbone!r} does not end in a ReLU, its features may be negative")
    load_backbone(body, cfg.weights, cfg.backbone)
    for number, stride in ((2, cfg.stride_stage2), (3, cfg.stride_stage3), (4, cfg.stride_stage4)):
        if stride == 1:
            _keep_resolution(_blocks(body, number)[0])
    _accept_odd_sizes(body)
    if cfg.padding == "circular":
        for number in (1, 2, 3, 4):
            for block in _blocks(body, number):
                pad_circularly(block)
    return body


def pad_circularly(module: nn.Module) -> None:
    """Lets every 3x3 convolution in `module` wrap around the border instead of padding with zeros."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
            layer.padding_mode = "circular"


def _check_name(name: str) -> None:
    check_known(name, modules=["resnet"], examples=["resnet18", "resnet50"])
    if not is_model_in_modules(name, ["resnet"]):
        raise ConfigError(
            f"model.backbone {name!r} is not ResNet-like, use one of the resnet, resnext, wide_resnet, seresnet, "
            "ecaresnet, resnetaa, resnetblur or resnetrs models of timm, such as resnet50"
        )


def _create(name: str, width: float) -> ResNet:
    if width == 1.0:
        return cast(ResNet, create_body(name, global_pool=""))
    with torch.device("meta"):  # only its channels are needed
        channels = _scaled_channels(create_body(name, global_pool=""), width)
    scaled: ResNet = create_body(name, width=width, global_pool="", **channels)
    if scaled.num_features != channels["channels"][-1] * _expansion(scaled):
        raise ConfigError(f"model.width {width:g} does not fit {name!r}, whose channels are fixed; set model.width=1")
    return scaled


def _scaled_channels(body: ResNet, width: float) -> dict[str, Any]:
    """timm's options for a body with `width` times the channels; a plain 7x7 stem keeps its 64."""
    stem, *stages = (cast(int, info["num_chs"]) for info in body.feature_info)
    return {
        "stem_width": _rounded(stem // 2 * width),
        "channels": tuple(_rounded(n_channels // _expansion(body) * width) for n_channels in stages),
    }


def _rounded(n_channels: float) -> int:
    return max(CHANNEL_STEP, round(n_channels / CHANNEL_STEP) * CHANNEL_STEP)


def _expansion(body: ResNet) -> int:
    return _blocks(body, 4)[-1].expansion


def _blocks(body: ResNet, stage: int) -> list[BasicBlock | Bottleneck]:
    blocks = body.get_submodule(f"layer{stage}").children()
    return [block for block in blocks if isinstance(block, BasicBlock | Bottleneck)]


def _last_activation(body: ResNet) -> nn.Module:
    block = _blocks(body, 4)[-1]
    return block.act2 if isinstance(block, BasicBlock) else block.act3


def _keep_resolution(block: BasicBlock | Bottleneck) -> None:
    """Sets the stride of a stage's first block from 2 to 1, as timm builds a block of stride 1; no weight changes.

    Anti-aliasing and the average pool of 't' and 'd' variants exist only to go with a stride, so they go with it.
    """
    shortcut = block.downsample
    assert isinstance(shortcut, nn.Sequential)
    for layer in (block.conv1, block.conv2, *shortcut):
        if isinstance(layer, nn.Conv2d):
            layer.stride = (1, 1)
    block.aa = nn.Identity()
    if isinstance(shortcut[0], nn.AvgPool2d):
        shortcut[0] = nn.Identity()
    block.stride = 1


def _accept_odd_sizes(body: ResNet) -> None:
    """Rounds up in average pools as strided convolutions do; otherwise 'aa' variants fail on odd grids."""
    for layer in body.modules():
        if isinstance(layer, nn.AvgPool2d):
            layer.ceil_mode = True
