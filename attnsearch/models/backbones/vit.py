"""Plain vision transformers from timm: which ones, at which size, with which stem and weights."""

from __future__ import annotations

import itertools
import math
from typing import Any, cast

import torch
from timm.layers.patch_embed import PatchEmbed
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models import is_model_in_modules
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from attnsearch.config.model import DcalSettings
from attnsearch.errors import ConfigError, DataError
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

    Its patch embedding takes images of any size and returns (B, h, w, D), h = ceil(H / patch); for patches that overlap
    see `OverlappingPatches`.

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
    if cfg.patch_stride is not None and cfg.patch_stride != stride:
        body.patch_embed = OverlappingPatches(_checked_patches(body, cfg), stride=cfg.patch_stride)
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


class OverlappingPatches(nn.Module):
    """Patch embedding whose patches of P pixels begin every S < P: (B, 3, H, W) -> (B, h, w, D), h = (H - P) // S + 1.

    Token i sees the pixels from S i to S i + P, so tokens do not divide an image evenly. Its last pixels are seen by
    none where a further patch would not fit.

    Source: TransReID (He et al. 2021, arXiv 2102.04378), section 3.1.
    """

    def __init__(self, patches: PatchEmbed, *, stride: int) -> None:
        super().__init__()
        self.proj = patches.proj  # as timm names it
        self.proj.stride = (stride, stride)
        self.grid_size = patches.grid_size

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        if min(height, width) < self.proj.kernel_size[0]:
            raise DataError(
                f"an image of {height} x {width} px is smaller than a patch of {self.proj.kernel_size[0]} px; raise "
                "data.image_size_px"
            )
        features: Tensor = self.proj(images)  # (B, D, h, w)
        return features.permute(0, 2, 3, 1)

    def grid(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        """h and w of the tokens of an image."""
        (patch, _), (stride, _) = self.proj.kernel_size, self.proj.stride
        return (image_hw[0] - patch) // stride + 1, (image_hw[1] - patch) // stride + 1

    def on_even_cells(self, maps: Tensor, image_hw: tuple[int, int]) -> Tensor:
        """Maps (..., h, w) of the tokens as maps of h x w cells that divide the image evenly.

        A cell is the mean of the tokens that see some of it, weighted by how many of its rows and columns they see.
        """
        rows, columns = (self._weights(n, px).to(maps) for n, px in zip(maps.shape[-2:], image_hw, strict=True))
        maps = (rows[:, :, None] * maps[..., None, :, :]).sum(dim=-2)  # no matrix product, which autocast would round
        return (maps[..., None, :] * columns).sum(dim=-1)

    def _weights(self, n_tokens: int, n_px: int) -> Tensor:
        """(n, n) of one axis: the part of what is seen of each cell that each token sees; rows sum to 1."""
        starts = self.proj.stride[0] * torch.arange(n_tokens, dtype=torch.float64)  # of the tokens
        stops = starts + self.proj.kernel_size[0]
        edges = torch.arange(n_tokens + 1, dtype=torch.float64)[:, None] * n_px / n_tokens  # of the cells
        seen = (torch.minimum(edges[1:], stops) - torch.maximum(edges[:-1], starts)).clamp(min=0)  # (cells, tokens)
        return seen / seen.sum(dim=1, keepdim=True)


def _checked_patches(body: VisionTransformer, cfg: DcalSettings) -> PatchEmbed:
    """The patch embedding of a body, if its patches can overlap as the settings ask for."""
    patches = body.patch_embed
    if not isinstance(patches, PatchEmbed) or type(patches.proj) is not nn.Conv2d:
        raise ConfigError(
            f"model.patch_stride {cfg.patch_stride} does not fit {cfg.backbone!r}, which makes its tokens of features "
            "and not of pixels; set it to null"
        )
    if cfg.patch_stride is not None and cfg.patch_stride > patches.proj.kernel_size[0]:
        raise ConfigError(
            f"model.patch_stride must be at most the {patches.proj.kernel_size[0]} px of a patch of {cfg.backbone!r}, "
            f"got {cfg.patch_stride}"
        )
    return patches


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
