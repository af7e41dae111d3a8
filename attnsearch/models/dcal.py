"""DCAL: a vision transformer that learns with global-local and pair-wise cross-attention beside its self-attention.

Letters beside the usual ones: `Q` query tokens, `L` blocks. `H` counts heads. Token 0 is the class token.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from attnsearch.config.model import DcalSettings
from attnsearch.errors import ConfigError, UsageError
from attnsearch.models.backbones.generic import PixelStatistics
from attnsearch.models.backbones.vit import build_vit, embed, n_heads
from attnsearch.models.base import AttentionModel, Heads, default_maps
from attnsearch.models.dcal_attention import (
    GlobalLocalCrossAttention,
    TimmBlock,
    attention_rollout,
    draw_partners,
    finish,
    mean_attention,
    pairwise_attention,
    pick_patches,
    project,
    softmax_attention,
)
from attnsearch.types import MAIN_BRANCH, AttentionOutput, Batch, HeadOutput

__all__ = ["GlobalLocalCrossAttention", "UncertaintyWeights", "attention_rollout", "build", "pairwise_attention"]

# maps by name, beside the default ones
CLS_HEAD, LOCAL_PATCHES, ROLLOUT = "cls_head_", "local_patches", "rollout_"
INIT_STD = 0.02  # of the linear layers of timm's ViTs


def build(cfg: DcalSettings, heads: Heads) -> Dcal:
    """The model that the settings describe, with the backbone's weights loaded.

    Raises:
        ConfigError: the backbone or its weights cannot be used, or it has too few blocks.
    """
    return Dcal(cfg, heads, body=build_vit(cfg))


class UncertaintyWeights(nn.Module):
    """Learned weights of several losses: the total is the sum of (exp(-w) · loss + w) / 2, each w starting at 0.

    The best w is the logarithm of its loss, so with losses below 1/e the total is rightly negative.

    Source: Kendall et al. 2018 (arXiv 1705.07115), in the form of Zhu et al. 2022, section 3.4.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.w = nn.Parameter(torch.zeros(len(self.names)))

    def forward(self, branch: str, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The terms of one branch: its losses, scalars by name, weighted, and `uncertainty_<branch>` = w / 2."""
        w = self.w[self.names.index(branch)]
        weight = 0.5 * torch.exp(-w)
        return {**{name: weight * loss for name, loss in losses.items()}, f"uncertainty_{branch}": 0.5 * w}


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
    """

    tokens: Tensor
    paired: Tensor | None = None
    queries: Tensor | None = None
    picked: Tensor | None = None
    attentions: list[Tensor] = field(default_factory=list)
    cls_attention: Tensor | None = None
    cls_queries: list[Tensor] = field(default_factory=list)


class GlcaBranch(nn.Module):
    """Global-local cross-attention blocks beside the last self-attention blocks, with a norm and a classifier."""

    def __init__(self, cfg: DcalSettings, heads: Heads, *, body: VisionTransformer) -> None:
        super().__init__()
        parallel: list[TimmBlock] = list(body.blocks)[-cfg.n_glca_blocks :]
        self.readout = cfg.glca_readout
        self.blocks = nn.ModuleList(GlobalLocalCrossAttention(block) for block in parallel)
        self.norm = copy.deepcopy(body.norm)
        if cfg.glca_init == "random":
            self.apply(_initialise)
        self.head = _head(body, heads)

    def forward(self, queries: Tensor) -> HeadOutput:
        """The head's answer to the queries (B, Q, D) after the last block, the class token first."""
        tokens = self.norm(queries)  # (B, Q, D)
        features = {"cls": tokens[:, :1], "local_mean": tokens[:, 1:], "query_mean": tokens}[self.readout]
        head: HeadOutput = self.head(features.mean(dim=1))  # of (B, D)
        return head


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
    GLCA `local_patches`, 1 where a patch was picked.
    Saliency is the mean of the default maps, as the prediction is the mean of their branches.

    Losses: the SA branch's own cross-entropy is the term `cross_entropy`, those of the others `cross_entropy_<branch>`,
    each weighted by its uncertainty, whose penalty w / 2 is `uncertainty_<branch>`. One branch alone is not weighted.

    Source: Zhu et al. 2022 (arXiv 2205.02151). No code was released. Differences: `glca_readout` (see there); which
        tokens a partner shows is not said in the paper.
    """

    undecayed: ClassVar[frozenset[str]] = frozenset({"cls_token", "dist_token", "pos_embed"})

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
        self.head = _head(body, heads)
        self.glca = GlcaBranch(cfg, heads, body=body) if cfg.has_glca else None
        self.combine = heads.combine
        branches = ["sa", *["glca"] * cfg.has_glca, *["pwca"] * cfg.has_pwca]
        self.uncertainty = UncertaintyWeights(branches) if len(branches) > 1 else None
        self.map_names = ("rollout", "glca") if cfg.has_glca else ("rollout",)
        self.pixels = PixelStatistics(cfg.backbone)

    def forward(self, batch: Batch, *, maps: tuple[str, ...] | None = None) -> AttentionOutput:
        names = () if maps is None else self._checked(maps)
        tokens, grid = embed(self.backbone, self.pixels(batch.images))  # (B, T, D)
        streams = self._run(tokens, maps=frozenset(names))
        head = self._predict(streams.tokens)
        branches: dict[str, HeadOutput] = {}
        if self.glca is not None and streams.queries is not None:
            branches = {"sa": head, "glca": self.glca(streams.queries)}
            head = self.combine(branches)
        if streams.paired is not None:
            branches["pwca"] = self._predict(streams.paired)
        output = AttentionOutput(head, branches, is_combined="glca" in branches)
        if maps is None:
            return output
        rows = torch.stack([self._row(name, streams) for name in names], dim=1)  # (B, K, T)
        grids = rows[:, :, 1:].reshape(*rows.shape[:2], *grid).float()  # (B, K, h, w)
        return replace(output, maps=grids, map_names=names)

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

    def _run(self, tokens: Tensor, *, maps: frozenset[str]) -> TokenStreams:
        """Sends the embedded tokens (B, T, D) through all blocks and keeps what the heads and the named maps need.

        A block of SA is x' = x + proj(softmax(q kᵀ / √d) v) and then x'' = x' + mlp(x'). What runs beside it reads the
        tokens x that enter it, so x and its q, k and v are computed once and shared by all streams.
        """
        streams = TokenStreams(tokens)
        last = len(self.backbone.blocks) - 1
        partners = None
        if self.training and self.first_pwca <= last:
            partners = draw_partners(len(tokens), device=tokens.device)  # (B,)
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
            mixed = F.scaled_dot_product_attention(query[:, :, read], key, value)  # (B, H, T, d), last (B, H, 1, d)
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
        streams.queries = block(streams.queries, streams.tokens)  # (B, Q, D)

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
            return _class_token_rollout([streams.cls_attention.mean(dim=1)], streams.attentions)
        if name == "glca":
            return _class_token_rollout(streams.cls_queries, streams.attentions)
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


def _class_token_rollout(last_rows: Sequence[Tensor], attentions: Sequence[Tensor]) -> Tensor:
    """What a class token takes from each input token, (B, T), rows sum to 1.

    In each of its last blocks it mixes, half and half, with tokens of the SA stream, which are rolled out through the
    SA blocks below. With one such block that is (e_0 + a) / 2 · S_{L-1} … S_1: for SA the rollout of all L blocks.

    Args:
        last_rows: (B, T) for each of these blocks, its attention over the tokens that enter the SA block beside it.
        attentions: (B, H, T, T) of the first L - 1 SA blocks.
    """
    n_rows = len(last_rows)
    n_below = len(attentions) - n_rows + 1
    # With n rows a_1 … a_n the token ends as a mix of itself, 2^-n, and of what it took in block i, 2^-(n - i + 1) a_i.
    # What it took in block i entered there, so it is carried down through the SA blocks beside the earlier ones.
    row = torch.zeros_like(last_rows[0])  # (B, T)
    for index in reversed(range(n_rows)):
        row = row + 0.5 ** (n_rows - index) * last_rows[index]
        if index:
            row = attention_rollout(attentions[n_below + index - 1 : n_below + index], start=row)
    itself = torch.zeros_like(row)  # (B, T)
    itself[:, 0] = 0.5**n_rows
    return attention_rollout(attentions[:n_below], start=row + itself)


def _head(body: VisionTransformer, heads: Heads) -> nn.Module:
    """A head on one token (B, D), with the initial weights of timm's ViTs."""
    return heads.image(body.embed_dim).apply(_initialise)


def _initialise(module: nn.Module) -> None:
    """Fresh weights as timm's ViTs start with."""
    if isinstance(module, nn.LayerNorm):
        module.reset_parameters()
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INIT_STD)
        nn.init.zeros_(module.bias)


def _check_depth(cfg: DcalSettings, depth: int, n_pwca: int) -> None:
    if cfg.has_glca and cfg.n_glca_blocks >= depth:
        raise ConfigError(
            f"model.n_glca_blocks must be less than the {depth} blocks of the backbone, got {cfg.n_glca_blocks}"
        )
    if cfg.has_pwca and n_pwca > depth:
        raise ConfigError(f"model.n_pwca_blocks must be at most the {depth} blocks of the backbone, got {n_pwca}")
