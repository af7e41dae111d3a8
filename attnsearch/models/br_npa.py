"""BR-NPA and its baselines: three ways to pool the features of one ResNet into logits and maps."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from timm.models.resnet import BasicBlock
from torch import Tensor, nn

from attnsearch.config.model import BCnnSettings, BrNpaSettings, CnnSettings, ResNetSettings
from attnsearch.errors import UsageError
from attnsearch.models.backbones.resnet import build_resnet, pad_circularly
from attnsearch.models.base import AttentionModel, Heads, default_maps, select_maps
from attnsearch.types import AttentionOutput, Batch, HeadOutput

EPSILON = 1e-5  # added to each pixel's norm, as in the released code
MIN_SIMILARITY_SUM = 1e-12  # below it a map has no direction: its features are zero
EVAL_SEED = 1  # of the pixels that `random_vectors` takes outside training

# Auxiliary head -> the vectors that it sees, as slices of their concatenation in units of C.
AUXILIARY_HEADS = {"01": (0, 2), "12": (1, 3), "0": (0, 1), "1": (1, 2), "2": (2, 3)}


def build(cfg: CnnSettings | BCnnSettings | BrNpaSettings, heads: Heads) -> PooledResNet:
    """The model that the settings describe, with the backbone's weights loaded.

    Raises:
        ConfigError: the backbone or its weights cannot be used.
    """
    if isinstance(cfg, CnnSettings):
        return Cnn(cfg, heads)
    return BCnn(cfg, heads) if isinstance(cfg, BCnnSettings) else BrNpa(cfg, heads)


def representative_vectors(
    features: Tensor,
    n_vectors: int,
    *,
    refine: bool = True,
    generator: torch.Generator | None = None,
    shared_draw: bool = False,
) -> tuple[Tensor, Tensor]:
    """Picks N seed pixels per image and returns what is similar to each.

    A seed pixel is the most active one, activity being the norm of its features; each pick lowers the activity of
    the pixels that resemble it. Map k is the cosine similarity to seed k, divided by its sum; vector k is the mean of
    all pixels under that map. All is computed in float32 (or float64), also under autocast.

    Args:
        features: (B, C, h, w). Of signed features a map may have negative cells, or flip its sign with its sum.
        n_vectors: N.
        refine: False returns the features of the seed pixels instead of the means; maps are the same.
        generator: draws the seed pixels at random instead, with replacement (ablation).
        shared_draw: whether a random pick is the same for all images of the batch.
    Returns:
        Vectors (B, N, C) and maps (B, N, h, w), most active first. Each map sums to 1; one whose similarities sum to
        less than 1e-12, as all do in an image without any activity, is zero, and so is its vector.
    Source: BR-NPA (Gomez et al. 2022), released code `TristanGomez44/br_npa` code/modelBuilder.py. Difference: zero
        features give zeros instead of NaN.
    """
    n_images, _, height, width = features.shape
    with torch.autocast(features.device.type, enabled=False):
        # Similarities divide by norms, and the activity is a product over picks: both need more than 8 bits.
        pixels = features.to(torch.promote_types(features.dtype, torch.float32)).flatten(2)  # (B, C, h·w)
        norms = torch.linalg.vector_norm(pixels, dim=1) + EPSILON  # (B, h·w)
        random_seeds = None
        if generator is not None:
            # Uniform and with replacement: the distribution of the released code, which takes maxima of uniform draws.
            shape = (1 if shared_draw else n_images, n_vectors)
            drawn = torch.randint(height * width, shape, generator=generator, device=generator.device)
            random_seeds = drawn.to(features.device).expand(n_images, -1)  # (B, N)
        # It starts as the norm and shrinks by 1 - cosine at each pick, so that the next seed resembles none before.
        activity = norms.detach()  # (B, h·w)
        seeds, similarities = [], []
        for index in range(n_vectors):
            seed_index = activity.argmax(dim=1) if random_seeds is None else random_seeds[:, index]  # (B,)
            seed, similarity = _similarity(pixels, norms, seed_index)  # (B, C), (B, h·w)
            activity = (1.0 - similarity.detach()) * activity
            seeds.append(seed)
            similarities.append(similarity)
        weights = _normalise(torch.stack(similarities, dim=1))  # (B, N, h·w)
        vectors = torch.bmm(weights, pixels.transpose(1, 2)) if refine else torch.stack(seeds, dim=1)  # (B, N, C)
        return vectors, weights.view(n_images, n_vectors, height, width)


def part_pooling(features: Tensor, maps: Tensor) -> Tensor:
    """The spatial mean of each map times the features: (B, C, h, w) and (B, N, h, w) -> (B, N·C), map by map."""
    n_cells = features.shape[2] * features.shape[3]
    parts = torch.bmm(maps.flatten(2), features.flatten(2).transpose(1, 2)) / n_cells  # (B, N, C)
    return parts.flatten(1)


def feature_norm(features: Tensor) -> Tensor:
    """The L2 norm over channels, (B, C, h, w) -> (B, 1, h, w) float32."""
    norms: Tensor = torch.linalg.vector_norm(features.float(), dim=1, keepdim=True)
    return norms


class PooledResNet(AttentionModel):
    """A ResNet, a way to pool its features into one vector, dropout and a linear classifier."""

    channels_last: ClassVar[bool] = True

    def __init__(self, cfg: ResNetSettings, heads: Heads, *, n_pooled: int, map_names: tuple[str, ...]) -> None:
        super().__init__()
        self.map_names = map_names
        self.backbone = build_resnet(cfg)
        self.n_channels = int(self.backbone.num_features)
        self.dropout = nn.Dropout(cfg.dropout)
        self.head = heads.image(n_pooled * self.n_channels, bias=cfg.head_bias)

    @abstractmethod
    def pool(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features (B, C, h, w) -> pooled (B, n_pooled·C) and maps (B, K, h, w), None where the norm is the map."""

    def forward(self, batch: Batch, *, maps: tuple[str, ...] | None = None) -> AttentionOutput:
        features = self.backbone(batch.images)  # (B, C, h, w)
        pooled, grid = self.pool(features)  # (B, n_pooled·C), (B, K, h, w)
        pooled = self.dropout(pooled)  # (B, n_pooled·C)
        head, branches = self.head(pooled), self.branches(pooled)
        if maps is None:
            return AttentionOutput(head, branches)
        norms = feature_norm(features)  # (B, 1, h, w)
        selected, names = select_maps(norms if grid is None else grid.float(), self.map_names, maps)  # (B, K, h, w)
        return AttentionOutput(head, branches, maps=selected, map_names=names, norms=norms)

    def cell_features(self, batch: Batch) -> Tensor:
        features: Tensor = self.backbone(batch.images)  # (B, C, h, w)
        return features

    def embedding_cells(self, batch: Batch) -> Tensor:
        features = self.backbone(batch.images)  # (B, C, h, w)
        weights = self.cell_weights(features, self.pool(features)[1])  # (B, n_pooled, h, w)
        cells: Tensor = (weights[:, :, None] * features[:, None]).flatten(1, 2)  # (B, n_pooled·C, h, w)
        return cells.float()

    @abstractmethod
    def cell_weights(self, features: Tensor, maps: Tensor | None) -> Tensor:
        """By what each cell counts in each pooled vector, (B, n_pooled, h, w).

        Args:
            features: (B, C, h, w).
            maps: (B, K, h, w) that `pool` made of them.
        Raises:
            UsageError: a pooled vector is no weighted sum.
        """

    def branches(self, pooled: Tensor) -> dict[str, HeadOutput]:
        """Further heads on the pooled vectors after dropout, (B, n_pooled·C)."""
        return {}

    def saliency(self, output: AttentionOutput, target: Tensor) -> Tensor:
        maps = default_maps(output, self.map_names)  # (B, K, h, w)
        assert output.norms is not None
        return self.combine(maps, output.norms)  # (B, h, w)

    @abstractmethod
    def combine(self, maps: Tensor, norms: Tensor) -> Tensor:
        """All maps (B, K, h, w) and norms (B, 1, h, w) -> saliency (B, h, w)."""


class Cnn(PooledResNet):
    """The plain network: mean features. Its only map is the feature norm.

    Source: BR-NPA's released code, which multiplies the norm by itself for saliency; here it counts once.
    """

    def __init__(self, cfg: CnnSettings, heads: Heads) -> None:
        super().__init__(cfg, heads, n_pooled=1, map_names=("norm",))

    def pool(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        return features.mean(dim=(2, 3)), None  # (B, C)

    def cell_weights(self, features: Tensor, maps: Tensor | None) -> Tensor:
        return torch.full_like(features[:, :1], 1 / (features.shape[2] * features.shape[3]))  # (B, 1, h, w)

    def combine(self, maps: Tensor, norms: Tensor) -> Tensor:
        return norms[:, 0]  # (B, h, w)


class BCnn(PooledResNet):
    """Learned attention: N maps pool the features, one more takes the background and is never pooled.

    Source: Hu et al. 2019 (arXiv 1901.09891), bilinear attention pooling, as BR-NPA's released code does it.
    """

    def __init__(self, cfg: BCnnSettings, heads: Heads) -> None:
        parts = tuple(f"part_{index}" for index in range(1, cfg.n_parts + 1))
        super().__init__(cfg, heads, n_pooled=cfg.n_parts, map_names=(*parts, "background"))
        self.attention = nn.Sequential(
            BasicBlock(self.n_channels, self.n_channels),
            nn.Conv2d(self.n_channels, cfg.n_parts + 1, kernel_size=1, bias=False),
            nn.ReLU(),
        )
        if cfg.padding == "circular":
            pad_circularly(self.attention)

    def pool(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        maps = self.attention(features)  # (B, N + 1, h, w)
        return part_pooling(features, maps[:, :-1]), maps

    def cell_weights(self, features: Tensor, maps: Tensor | None) -> Tensor:
        assert maps is not None
        return maps[:, :-1] / (features.shape[2] * features.shape[3])  # (B, N, h, w)

    def combine(self, maps: Tensor, norms: Tensor) -> Tensor:
        return maps.mean(dim=1) * norms[:, 0]  # (B, h, w)


class BrNpa(PooledResNet):
    """Attention without parameters: similarity to N representative vectors, whose concatenation is classified.

    With `random_vectors` the seed pixels come from torch's global CPU generator while training. In eval mode they come
    from a fixed seed and are the same for all images of one grid size, so that a score neither changes from call to
    call nor depends on the batch (the released code draws again at each evaluation).

    With `auxiliary_heads` five linear probes classify single vectors and neighbouring pairs. They see the pooled vector
    detached, after dropout, so they train themselves and nothing else.

    Source: Gomez et al. 2022 (arXiv 2106.02566), released code `TristanGomez44/br_npa` code/modelBuilder.py.
    """

    def __init__(self, cfg: BrNpaSettings, heads: Heads) -> None:
        names = tuple(f"vector_{index}" for index in range(1, cfg.n_vectors + 1))
        super().__init__(cfg, heads, n_pooled=cfg.n_vectors, map_names=names)
        self.n_vectors, self.refine, self.random_vectors = cfg.n_vectors, cfg.refine, cfg.random_vectors
        probed = AUXILIARY_HEADS if cfg.auxiliary_heads else {}
        self.auxiliary = nn.ModuleDict(
            {name: heads.image((stop - start) * self.n_channels) for name, (start, stop) in probed.items()}
        )

    def pool(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        generator = None
        if self.random_vectors:
            generator = torch.default_generator if self.training else torch.Generator().manual_seed(EVAL_SEED)
        vectors, maps = representative_vectors(
            features, self.n_vectors, refine=self.refine, generator=generator, shared_draw=not self.training
        )
        return vectors.flatten(1), maps  # (B, N·C), (B, N, h, w)

    def cell_weights(self, features: Tensor, maps: Tensor | None) -> Tensor:
        if not self.refine:
            raise UsageError(
                "with model.refine=false a vector is that of one pixel and no sum under its map; use refine=true"
            )
        assert maps is not None
        return maps  # (B, N, h, w)

    def branches(self, pooled: Tensor) -> dict[str, HeadOutput]:
        detached, n_channels = pooled.detach(), self.n_channels  # (B, 3·C)
        slices = {name: slice(*(bound * n_channels for bound in AUXILIARY_HEADS[name])) for name in self.auxiliary}
        return {name: head(detached[:, slices[name]]) for name, head in self.auxiliary.items()}

    def combine(self, maps: Tensor, norms: Tensor) -> Tensor:
        return maps[:, 0] * norms[:, 0]  # (B, h, w)


def _similarity(pixels: Tensor, norms: Tensor, seed_index: Tensor) -> tuple[Tensor, Tensor]:
    """Features (B, C) of the seed pixels (B,), and every pixel's cosine similarity (B, h·w) to them."""
    where = seed_index[:, None]  # (B, 1)
    seed = pixels.gather(2, where[:, None].expand(-1, pixels.shape[1], -1))  # (B, C, 1)
    products = torch.bmm(seed.transpose(1, 2), pixels)[:, 0]  # (B, h·w)
    return seed[:, :, 0], products / (norms * norms.gather(1, where))


def _normalise(similarities: Tensor) -> Tensor:
    """Divides each map of (B, N, h·w) by its sum; without a sum it becomes zero, with finite gradients."""
    total = similarities.sum(dim=-1, keepdim=True)
    is_empty = total.abs() < MIN_SIMILARITY_SUM  # (B, N, 1)
    # The inner fill keeps the quotient finite where the outer one hides it: a hidden 0 / 0 still has NaN gradients.
    return (similarities / total.masked_fill(is_empty, 1.0)).masked_fill(is_empty, 0.0)
