"""DCAL: a vision transformer that learns with global-local and pair-wise cross-attention beside its self-attention.

Letters beside the usual ones: `Q` query tokens, `L` blocks. `H` counts heads. Token 0 is the class token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from attnsearch.config.model import DcalSettings
from attnsearch.errors import ConfigError, DataError, UsageError
from attnsearch.models.backbones.generic import PixelStatistics
from attnsearch.models.backbones.vit import OverlappingPatches, build_vit, embed, n_heads
from attnsearch.models.base import AttentionModel, Heads, default_maps
from attnsearch.models.dcal_attention import (
    GlobalLocalCrossAttention,
    Mixings,
    TimmBlock,
    attend,
    attention_rollout,
    class_token_rollout,
    draw_partners,
    finish,
    gradient_rollout,
    mean_attention,
    pairwise_attention,
    pick_patches,
    project,
    softmax_attention,
)
from attnsearch.models.dcal_branches import INIT_STD, GlcaBranch, UncertaintyWeights, token_head, unmoved_statistics
from attnsearch.types import MAIN_BRANCH, AttentionOutput, Batch, HeadOutput

__all__ = ["GlobalLocalCrossAttention", "UncertaintyWeights", "attention_rollout", "build", "pairwise_attention"]

# maps by name, beside the default ones
CLS_HEAD, LOCAL_PATCHES, ROLLOUT = "cls_head_", "local_patches", "rollout_"


def build(cfg: DcalSettings, heads: Heads) -> Dcal:
    """The model that the settings describe, with the backbone's weights loaded.

    Raises:
        ConfigError: the backbone or its weights cannot be used, or it has too few blocks.
    """
    return Dcal(cfg, heads, body=build_vit(cfg))


@dataclass
class TokenStreams:
    """What the blocks leave behind.

    Attributes:
        tokens: (B, T, D) of self-attention; after the last block (B, 1, D), as heads read the class token alone.
        paired: the same of pair-wise cross-attention, in training where the variant has it.
        queries: (B, Q, D) of global-local cross-attention, where the variant has it.
        picked: (B, k) indices of its local queries.
        attentions: head means (B, 1, T, T) of the first SA blocks, as many as were needed.
        cls_attention: (B, H, T) of the class token in the last SA block, if a map needs it.
        cls_queries: (B, T) per global-local block, the head mean of its class token, if a map needs it.
        mixings: all attentions, if they are to be explained.
    """

    tokens: Tensor
    paired: Tensor | None = None
    queries: Tensor | None = None
    picked: Tensor | None = None
    attentions: list[Tensor] = field(default_factory=list)
    cls_attention: Tensor | None = None
    cls_queries: list[Tensor] = field(default_factory=list)
    mixings: Mixings | None = None


class Dcal(AttentionModel):
    """Self-attention (SA), global-local (GLCA) and, in training only, pair-wise cross-attention (PWCA).

    The last GLCA blocks run beside the last SA blocks. Their queries are the class token and the patches that the
    rollout of the blocks before ranks highest; keys and values are all tokens of the SA stream. PWCA sends each image a
    second time through the SA blocks, heads included, where it also sees the keys and values that another image of the
    batch has in the SA stream at the same depth. The prediction is the mean of the probabilities of SA and GLCA; its
    logarithms are the logits.

    Maps: `rollout` (SA, all blocks) and, where there is GLCA, `glca` (its class token, rolled out) are the default, as
    distributions over the tokens, of which the part of the class token itself is left out. By name: `cls_head_<n>`, the
    attention of the class token in the last SA block, `rollout_<n>`, the rollout of the first n SA blocks, and with
    GLCA `local_patches`, 1 where a patch was picked. Where patches overlap, maps are made for cells that divide the
    image evenly, see `OverlappingPatches.on_even_cells`.
    Saliency is the mean of the default maps, as the prediction is the mean of their branches.

    Losses: the SA branch's own cross-entropy is the term `cross_entropy`, those of the others `cross_entropy_<branch>`,
    each weighted by its uncertainty, whose penalty w / 2 is `uncertainty_<branch>`. One branch alone is not weighted.

    Source: Zhu et al. 2022 (arXiv 2205.02151). No code was released. Differences: `glca_readout` (see there); which
        tokens a partner shows is not said in the paper.
    """

    undecayed: ClassVar[frozenset[str]] = frozenset({"cls_token", "dist_token", "pos_embed", "camera_embed", "w"})

    def __init__(self, cfg: DcalSettings, heads: Heads, *, body: VisionTransformer) -> None:
        super().__init__()
        depth = len(body.blocks)
        n_pwca = depth if cfg.n_pwca_blocks is None else cfg.n_pwca_blocks
        _check_depth(cfg, depth, n_pwca)
        self.top_k_ratio = cfg.top_k_ratio
        self.first_pwca = depth - n_pwca if cfg.has_pwca else depth
        self.first_glca = depth - cfg.n_glca_blocks if cfg.has_glca else depth
        self.n_heads = n_heads(body)
        self.backbone = body
        self.head = token_head(body, heads)
        self.glca = GlcaBranch(cfg, heads, body=body) if cfg.has_glca else None
        self.combine = heads.combine
        branches = ["sa", *["glca"] * cfg.has_glca, *["pwca"] * cfg.has_pwca]
        self.uncertainty = UncertaintyWeights(branches) if len(branches) > 1 else None
        self.map_names = ("rollout", "glca") if cfg.has_glca else ("rollout",)
        self.pixels = PixelStatistics(cfg.backbone)
        self.camera_weight, self.camera_embed = cfg.camera_weight, None
        if cfg.n_cameras is not None:
            vectors = torch.empty(cfg.n_cameras, 1, body.embed_dim)
            self.camera_embed = nn.Parameter(nn.init.trunc_normal_(vectors, std=INIT_STD))

    def forward(self, batch: Batch, *, maps: tuple[str, ...] | None = None) -> AttentionOutput:
        names = () if maps is None else self._checked(maps)
        tokens, grid = self._embed(batch)  # (B, T, D)
        streams = self._run(TokenStreams(tokens), maps=frozenset(names))
        output = self._output(streams)
        if maps is None:
            return output
        rows = torch.stack([self._row(name, streams) for name in names], dim=1)  # (B, K, T)
        return replace(output, maps=self._on_cells(rows, grid, batch), map_names=names)

    def gradient_rollout(self, batch: Batch, score: Callable[[AttentionOutput], Tensor]) -> Tensor:
        """What raises a score of the output, (B, h, w) float32, not negative; no gradient is left in parameters.

        Of SA it follows the class token, of GLCA every query that its head reads, through all attention below; see
        `dcal_attention.gradient_rollout`.

        Args:
            score: of the output, one number an image, (B,), which depends on that image alone.
        Raises:
            UsageError: the model is in training mode, in which images depend on each other.
        """
        if self.training:
            raise UsageError("gradient_rollout explains a model in eval mode; call model.eval() first")
        with torch.enable_grad():
            tokens, grid = self._embed(batch)  # (B, T, D)
            streams = TokenStreams(tokens.detach().requires_grad_(), mixings=Mixings())
            output = self._output(self._run(streams, maps=frozenset()))
            assert streams.mixings is not None
            row = gradient_rollout(streams.mixings, score(output), read=self._read_by_glca(streams, tokens))  # (B, T)
        return self._on_cells(row[:, None].detach(), grid, batch)[:, 0]

    def cell_features(self, batch: Batch) -> Tensor:
        """The tokens that enter the last block, where the class token attends to them: (B, D, h, w)."""
        tokens, grid = self._embed(batch)  # (B, T, D)
        tokens = self.backbone.blocks[:-1](tokens)
        return self._on_cells(tokens.transpose(1, 2), grid, batch)

    def _embed(self, batch: Batch) -> tuple[Tensor, tuple[int, int]]:
        """Tokens (B, T, D) with positions and cameras, and their grid (h, w).

        Raises:
            DataError: an image has no camera that the model knows, where it asks for them.
        """
        tokens, grid = embed(self.backbone, self.pixels(batch.images))  # (B, T, D)
        if self.camera_embed is None:
            return tokens, grid
        n_cameras = len(self.camera_embed)
        if batch.cameras is None:
            raise DataError(
                f"the model tells {n_cameras} cameras apart and the images name none; use data with cameras, or train "
                "with model.n_cameras=null"
            )
        # In training the cameras were checked at the start; here a GPU has to be waited for.
        if not self.training and (unknown := batch.cameras[batch.cameras >= n_cameras].tolist()):
            raise DataError(
                f"the model knows the cameras 0 to {n_cameras - 1} and an image is of camera {unknown[0]}; use data of "
                "the cameras it was trained on, or train with model.n_cameras=null"
            )
        vectors = self.camera_embed[batch.cameras.to(tokens.device)]  # (B, 1, D)
        return tokens + self.camera_weight * vectors, grid

    def _output(self, streams: TokenStreams) -> AttentionOutput:
        """The heads' answers to what the blocks leave behind, without maps."""
        head = self._predict(streams.tokens)
        branches: dict[str, HeadOutput] = {}
        if self.glca is not None and streams.queries is not None:
            branches = {"sa": head, "glca": self.glca(streams.queries)}
            head = self.combine(branches)
        if streams.paired is not None:
            with unmoved_statistics(self.head):  # those of test time are of images that saw no partner
                branches["pwca"] = self._predict(streams.paired)
        return AttentionOutput(head, branches, is_combined="glca" in branches)

    def _on_cells(self, rows: Tensor, grid: tuple[int, int], batch: Batch) -> Tensor:
        """Rows over all tokens (B, K, T) -> maps (B, K, h, w) float32 of cells that divide the images evenly."""
        maps = rows[:, :, 1:].reshape(*rows.shape[:2], *grid).float()  # (B, K, h, w)
        patches: nn.Module = self.backbone.patch_embed
        if not isinstance(patches, OverlappingPatches):
            return maps
        return patches.on_even_cells(maps, (batch.images.shape[2], batch.images.shape[3]))

    def _read_by_glca(self, streams: TokenStreams, tokens: Tensor) -> Tensor:
        """1 for the tokens (B, T) that are GLCA's first queries and that its head reads, else 0."""
        read = torch.zeros_like(tokens[:, :, 0])  # (B, T)
        if self.glca is None:
            return read
        if self.glca.readout != "local_mean":
            read[:, 0] = 1.0
        if self.glca.readout == "cls":
            return read
        assert streams.picked is not None
        return read.scatter(1, streams.picked, 1.0)

    def figure_maps(self, kind: str) -> tuple[str, ...]:
        if kind == "heads":
            return tuple(f"{CLS_HEAD}{head + 1}" for head in range(self.n_heads))
        if kind == "layers":
            return tuple(f"{ROLLOUT}{n_blocks + 1}" for n_blocks in range(len(self.backbone.blocks)))
        return (LOCAL_PATCHES,) if kind == "patches" and self.glca is not None else ()

    def weigh_losses(self, losses: Mapping[str, Mapping[str, Tensor]], output: AttentionOutput) -> dict[str, Tensor]:
        if self.uncertainty is None:
            return super().weigh_losses(losses, output)
        terms: dict[str, Tensor] = {}
        for branch, of_branch in losses.items():
            terms |= self.uncertainty("sa" if branch == MAIN_BRANCH else branch, of_branch)
        return terms

    def saliency(self, output: AttentionOutput, target: Tensor) -> Tensor:
        return default_maps(output, self.map_names).mean(dim=1)  # (B, h, w)

    def _run(self, streams: TokenStreams, *, maps: frozenset[str]) -> TokenStreams:
        """Sends the embedded tokens (B, T, D) through all blocks and keeps what the heads and the named maps need.

        A block of SA is x' = x + proj(softmax(q kᵀ / √d) v) and then x'' = x' + mlp(x'). What runs beside it reads the
        tokens x that enter it, so x and its q, k and v are computed once and shared by all streams.
        """
        last = len(self.backbone.blocks) - 1
        partners = None
        if self.training and self.first_pwca <= last:
            partners = draw_partners(len(streams.tokens), device=streams.tokens.device)  # (B,)
        kept = None if streams.mixings is None else streams.mixings.sa
        for index, block in enumerate(self.backbone.blocks):
            tokens = streams.tokens  # (B, T, D)
            # Heads read the class token alone, so the last block computes one query and not T of them.
            read = slice(0, 1) if index == last else slice(None)
            query, key, value = project(block, tokens)  # (B, H, T, d) each
            if partners is not None and index >= self.first_pwca:
                _run_pwca(streams, block, key[partners], value[partners], read=read)
            if index >= self.first_glca:
                self._run_glca(streams, index, maps=maps)
            self._note_attention(streams, index, query, key, maps=maps)
            mixed = attend(query[:, :, read], key, value, kept)  # (B, H, T, d), last (B, H, 1, d)
            streams.tokens = finish(block, tokens[:, read], mixed)  # (B, T, D), last (B, 1, D)
        return streams

    def _note_attention(
        self, streams: TokenStreams, index: int, query: Tensor, key: Tensor, *, maps: frozenset[str]
    ) -> None:
        """Notes what picking and the named maps need of SA block `index`, of query and key (B, H, T, d)."""
        if index < self._n_attended(maps):
            # Patches are picked by an order, which has no gradient; only maps may be differentiated.
            with torch.set_grad_enabled(torch.is_grad_enabled() and bool(maps)):
                streams.attentions.append(mean_attention(query, key))  # (B, 1, T, T)
        if maps and index == len(self.backbone.blocks) - 1:
            streams.cls_attention = softmax_attention(query[:, :, 0:1], key)[:, :, 0]  # (B, H, T)

    def _n_attended(self, maps: frozenset[str]) -> int:
        """How many blocks, from the first, must give their attention matrices; only these leave the fused kernels.

        Picking needs those before the first GLCA block; a rollout needs all but the last, of which the row of the class
        token is enough.
        """
        if maps & {"rollout", "glca"} or any(name.startswith(ROLLOUT) for name in maps):
            return len(self.backbone.blocks) - 1
        return self.first_glca if self._picks(maps) else 0

    def _picks(self, maps: frozenset[str]) -> bool:
        """Whether the readout or a map reads the picked patches."""
        return self.glca is not None and (self.glca.readout != "cls" or LOCAL_PATCHES in maps)

    def _run_glca(self, streams: TokenStreams, index: int, *, maps: frozenset[str]) -> None:
        """One GLCA block, beside the SA block `index` that the tokens (B, T, D) are about to enter."""
        assert self.glca is not None
        if streams.queries is None:
            streams.queries = self._first_queries(streams, maps=maps)  # (B, Q, D)
        block = cast(GlobalLocalCrossAttention, self.glca.blocks[index - self.first_glca])
        if "glca" in maps:
            attention = block.attention(streams.queries[:, :1], streams.tokens)  # (B, H, 1, T)
            streams.cls_queries.append(attention.mean(dim=(1, 2)))  # (B, T)
        kept = None if streams.mixings is None else streams.mixings.glca
        streams.queries = block(streams.queries, streams.tokens, kept=kept)  # (B, Q, D)

    def _first_queries(self, streams: TokenStreams, *, maps: frozenset[str]) -> Tensor:
        """The class token and, where they are read, the picked patches, (B, 1 + k, D) or (B, 1, D).

        Under the readout `cls` the class token is enough: no query influences another.
        """
        assert self.glca is not None
        tokens = streams.tokens  # (B, T, D)
        if self._picks(maps):
            streams.picked = pick_patches(attention_rollout(streams.attentions), self.top_k_ratio)  # (B, k)
        if streams.picked is None or self.glca.readout == "cls":
            return tokens[:, :1]
        picked = tokens.gather(1, streams.picked[:, :, None].expand(-1, -1, tokens.shape[2]))  # (B, k, D)
        return torch.cat([tokens[:, :1], picked], dim=1)

    def _predict(self, tokens: Tensor) -> HeadOutput:
        """The SA head's answer to the class token of (B, T, D)."""
        head: HeadOutput = self.head(self.backbone.norm(tokens[:, 0]))  # of (B, D)
        return head

    def _checked(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The map names, the default ones for an empty tuple.

        Raises:
            UsageError: one is unknown.
        """
        available = [
            *self.map_names,
            *(name for kind in ("heads", "layers", "patches") for name in self.figure_maps(kind)),
        ]
        if unknown := [name for name in names if name not in available]:
            raise UsageError(f"there is no map {', '.join(unknown)}, only {', '.join(available)}")
        return names or self.map_names

    def _row(self, name: str, streams: TokenStreams) -> Tensor:
        """The map of this name over all tokens, (B, T)."""
        assert streams.cls_attention is not None
        if name in ("rollout", f"{ROLLOUT}{len(self.backbone.blocks)}"):
            return class_token_rollout([streams.cls_attention.mean(dim=1)], streams.attentions)
        if name == "glca":
            return class_token_rollout(streams.cls_queries, streams.attentions)
        if name.startswith(ROLLOUT):
            return attention_rollout(streams.attentions[: int(name.removeprefix(ROLLOUT))])
        if name == LOCAL_PATCHES:
            assert streams.picked is not None
            return torch.zeros_like(streams.cls_attention[:, 0]).scatter(1, streams.picked, 1.0)  # (B, T)
        return streams.cls_attention[:, int(name.removeprefix(CLS_HEAD)) - 1]


def _run_pwca(
    streams: TokenStreams, block: TimmBlock, partner_key: Tensor, partner_value: Tensor, *, read: slice
) -> None:
    """One PWCA block: an SA block, weights included, whose keys and values are doubled by a partner's of the SA stream.

    Args:
        partner_key, partner_value: (B, H, T, d) of the SA stream at this block, in the order of the partners.
        read: the tokens that are needed after the block.
    """
    tokens = streams.tokens if streams.paired is None else streams.paired  # (B, T, D)
    query, key, value = project(block, tokens)  # (B, H, T, d) each
    mixed = pairwise_attention(query[:, :, read], key, value, partner_key, partner_value)  # (B, H, T, d)
    streams.paired = finish(block, tokens[:, read], mixed)  # (B, T, D), last (B, 1, D)


def _check_depth(cfg: DcalSettings, depth: int, n_pwca: int) -> None:
    if cfg.has_glca and cfg.n_glca_blocks >= depth:
        raise ConfigError(
            f"model.n_glca_blocks must be less than the {depth} blocks of the backbone, got {cfg.n_glca_blocks}"
        )
    if cfg.has_pwca and n_pwca > depth:
        raise ConfigError(f"model.n_pwca_blocks must be at most the {depth} blocks of the backbone, got {n_pwca}")
