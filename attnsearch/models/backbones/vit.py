"""Plain vision transformers from timm: which ones, at which size, with which stem and weights."""

from __future__ import annotations

import itertools
import math
from typing import Any, cast

import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models import is_model_in_modules
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from attnsearch.config.model import DcalSettings
from attnsearch.errors import ConfigError
from attnsearch.models.backbones import check_known, create_body
from attnsearch.models.weights import load_backbone

MODULES = ("vision_transformer", "vision_transformer_hybrid", "deit")
EXAMPLE = "deit_tiny_patch16_224"
BLOCK_KEYS = frozenset(
    f"{layer}.{kind}"
    for layer in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    for kind in ("weight", "bias")
)
OUTER_KEYS = frozenset({"cls_token", "pos_embed", "norm.weight", "norm.bias"})
STEM_PREFIX = "patch_embed."


def build_vit(cfg: DcalSettings) -> VisionTransformer:
    """A timm ViT without classifier, its parameters under timm's names, with the weights that the settings ask for.

    Its patch embedding takes images of any size and returns (B, h, w, D), h = ceil(H / stride).

    Raises:
        ConfigError: timm does not know the backbone, it is not a plain ViT, or its weights cannot be loaded.
    """
    _check_name(cfg.backbone)
    with torch.device("meta"):  # only its sizes are needed
        original = _create(cfg)
    _check_is_plain(original, cfg.backbone)
    stride = int(original.patch_embed.feat_ratio())
    sizes: dict[str, Any] = {"drop_path_rate": cfg.drop_path}
    if cfg.width != 1.0:
        n_scaled = max(1, round(n_heads(original) * cfg.width))
        sizes |= {"num_heads": n_scaled, "embed_dim": n_scaled * (original.embed_dim // n_heads(original))}
    if cfg.depth is not None:
        sizes["depth"] = cfg.depth
    if cfg.position_grid is not None:
        grid = cfg.position_grid
        rows, columns = (grid, grid) if isinstance(grid, int) else grid
        sizes["img_size"] = (rows * stride, columns * stride)
    body = _create(cfg, **sizes)
    if cfg.stem == "conv":
        body.patch_embed = ConvStem(body.embed_dim, stride=stride, grid_size=body.patch_embed.grid_size)
    load_backbone(body, cfg.weights, cfg.backbone)  # resamples the position embedding, as timm does
    return body


def n_heads(body: VisionTransformer) -> int:
    """H, the heads of each block."""
    attention: Any = body.get_submodule("blocks.0.attn")
    return int(attention.num_heads)


def embed(body: VisionTransformer, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Images (B, 3, H, W) -> tokens (B, 1 + h·w, D), the class token first, and the grid (h, w).

    A grid other than that of the position embedding resamples it, as timm does.
    """
    patches = body.patch_embed(images)  # (B, h, w, D)
    n_images, height, width, _ = patches.shape
    class_token, positions = cast(Tensor, body.cls_token), cast(Tensor, body.pos_embed)
    own_grid = tuple(body.patch_embed.grid_size)  # rows and columns that `positions` (1, 1 + rows·columns, D) is for
    if (height, width) != own_grid:
        positions = resample_abs_pos_embed(positions, [height, width], old_size=list(own_grid))
    tokens = torch.cat([class_token.expand(n_images, -1, -1), patches.flatten(1, 2)], dim=1)  # (B, T, D)
    return tokens + positions, (height, width)


class ConvStem(nn.Module):
    """Patch embedding by 3x3 convolutions of stride 2, whose channels double, and one 1x1: learns well from few images.

    Images (B, 3, H, W) -> (B, h, w, D), h = ceil(H / stride).

    Source: Xiao et al. 2021 (arXiv 2106.14881), section 4.
    """

    def __init__(self, n_channels: int, *, stride: int, grid_size: tuple[int, int]) -> None:
        super().__init__()
        n_steps = stride.bit_length() - 1
        if 2**n_steps != stride or n_channels % 2 ** (n_steps - 1):
            raise ConfigError(
                "model.stem conv halves the image step by step, so patches must be a power of two and channels "
                f"divide by half of it, got patches of {stride} pixels and {n_channels} channels; use model.stem=patch"
            )
        self.grid_size = grid_size
        widths = [3, *(n_channels // 2**step for step in reversed(range(n_steps)))]
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(widths):
            layers += [nn.Conv2d(n_in, n_out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(n_channels, n_channels, 1))

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images)  # (B, D, h, w)
        return features.permute(0, 2, 3, 1)


def _check_name(name: str) -> None:
    check_known(name, modules=MODULES, examples=[EXAMPLE])
    if not is_model_in_modules(name, list(MODULES)):
        raise ConfigError(f"model.backbone {name!r} is not a ViT, use a vit or deit model of timm such as {EXAMPLE}")


def _create(cfg: DcalSettings, **sizes: Any) -> VisionTransformer:
    options = {"dynamic_img_size": True, "dynamic_img_pad": True, **sizes}
    return cast(VisionTransformer, create_body(cfg.backbone, width=cfg.width, **options))


def _check_is_plain(body: VisionTransformer, name: str) -> None:
    """Refuses what differs from the ViT of the paper: other blocks, tokens, norms or position embeddings."""
    expected = {f"blocks.{index}.{key}" for index in range(len(body.blocks)) for key in BLOCK_KEYS} | OUTER_KEYS
    present = {key for key in body.state_dict() if not key.startswith(STEM_PREFIX)}
    oddities = sorted(expected ^ present)
    oddities += sorted({type(block).__name__ for block in body.blocks if type(block) is not Block})
    if not oddities and cast(Tensor, body.pos_embed).shape[1] != 1 + math.prod(body.patch_embed.grid_size):
        oddities = ["a class token without position"]
    if oddities:
        raise ConfigError(
            f"model.backbone {name!r} differs from a plain ViT in {oddities[0]}, use another vit or deit model of timm "
            f"such as {EXAMPLE}"
        )
