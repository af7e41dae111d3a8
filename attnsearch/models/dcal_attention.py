"""The attention of DCAL: rollout, global-local and pair-wise cross-attention, on the blocks of a timm ViT.

Letters beside the usual ones: `Q` query tokens, `L` blocks, `d` channels of a head. `H` counts heads. Token 0 is the
class token.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnsearch.errors import TrialError

TimmBlock = Any  # a plain `Block` of timm, of whose parts type checkers know nothing
EPSILON = 1e-6  # guards the number of picked patches against products such as 0.29 * 100


@dataclass(frozen=True, eq=False)
class Mixing:
    """One attention of a forward pass, kept to be explained.

    Attributes:
        query: (B, H, Q, d).
        key, value: (B, H, T, d).
        mixed: (B, H, Q, d), the mean of the values under the attention, in the graph of the output.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mixed: Tensor

    def relevance(self, gradient: Tensor) -> Tensor:
        """What each query took that raised a score, (B, Q, T): the mean over heads of the positive part of A · ds/dA.

        The explicit matrix A = softmax(query keyᵀ / √d) is made here alone. The score s sees it through `mixed` = A v
        only, so that ds/dA = ds/dmixed vᵀ.

        Args:
            gradient: (B, H, Q, d) of the score by `mixed`.
        """
        with torch.autocast(gradient.device.type, enabled=False):
            attention = softmax_attention(self.query, self.key)  # (B, H, Q, T)
            raised = gradient.to(attention) @ self.value.to(attention).transpose(2, 3)
            return (attention * raised).clamp(min=0).mean(dim=1)


@dataclass(frozen=True, eq=False)
class Mixings:
    """The attentions of a forward pass: of all SA blocks, and of the GLCA blocks beside the last of them."""

    sa: list[Mixing] = field(default_factory=list)
    glca: list[Mixing] = field(default_factory=list)


def attend(query: Tensor, key: Tensor, value: Tensor, kept: list[Mixing] | None = None) -> Tensor:
    """The mean of the values (B, H, T, d) under the attention of queries (B, H, Q, d) over keys: (B, H, Q, d).

    Args:
        kept: to which this attention is added, if it is to be explained.
    """
    mixed = F.scaled_dot_product_attention(query, key, value)
    if kept is not None:
        kept.append(Mixing(query, key, value, mixed))
    return mixed


def gradient_rollout(mixings: Mixings, score: Tensor, *, read: Tensor) -> Tensor:
    """How far each input token raised a score through the attention of all blocks, (B, T), not negative.

    Each token whose last state a head reads starts with 1 in a row over the tokens; for blocks L … 1 the row takes
    row <- row + row · mean_h((A · ds/dA)⁺). The 1 that a token keeps past all attention is left out.

    Args:
        score: (B,), of which each entry depends on its own image alone.
        read: (B, T), 1 for the tokens that are the queries of the first GLCA block and are read after its last; they
            enter the row there, and each GLCA block adds what its queries took.
    Source: Chefer et al. 2021 (arXiv 2103.15679), section 3, whose rule for a class token this is. Difference: every
        query that GLCA's head reads starts as a class token does.
    """
    every = [*mixings.sa, *mixings.glca]
    gradients = torch.autograd.grad(
        score.sum(), [mixing.mixed for mixing in every], allow_unused=True, materialize_grads=True
    )
    relevances = [mixing.relevance(gradient) for mixing, gradient in zip(every, gradients, strict=True)]
    n_blocks, first_glca = len(mixings.sa), len(mixings.sa) - len(mixings.glca)
    row = start = F.one_hot(torch.zeros_like(read[:, 0], dtype=torch.int64), read.shape[1]).to(read)  # (B, T)
    for index in reversed(range(n_blocks)):
        taken = relevances[index]  # (B, T, T), of the last block (B, 1, T)
        row = row + (row[:, : taken.shape[1], None] * taken).sum(dim=1)
        if index >= first_glca:
            row = row + relevances[n_blocks + index - first_glca].sum(dim=1)
        if index == first_glca:
            row, start = row + read, start + read
    return row - start


def class_token_rollout(last_rows: Sequence[Tensor], attentions: Sequence[Tensor]) -> Tensor:
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


def attention_rollout(attentions: Tensor | Sequence[Tensor], *, start: Tensor | None = None) -> Tensor:
    """What the class token takes from each input token through all blocks and their residual connections.

    This is one row of the product S_L … S_1 with S_l = (A_l + I) / 2, A_l the mean over the heads of block l. The row
    goes through the blocks as a vector, the latest block first: O(L T²) where the product costs O(L T³). Computed in
    float32 (or float64), also under autocast.

    Args:
        attentions: (L, B, H, T, T), or L tensors (B, H, T, T), the first block first; rows sum to 1.
        start: (B, T), the row to carry through the blocks instead of that of the class token alone.
    Returns:
        (B, T), rows sum to 1. Entry 0 is what the class token takes from itself.
    Source: Abnar and Zuidema 2020 (arXiv 2005.00928), section 3.
    """
    n_images, _, n_tokens, _ = attentions[-1].shape
    with torch.autocast(attentions[-1].device.type, enabled=False):
        row = start
        if row is None:
            row = torch.zeros(n_images, n_tokens, dtype=attentions[-1].dtype, device=attentions[-1].device)
            row[:, 0] = 1.0
        for index in reversed(range(len(attentions))):
            taken = row[:, None, None] @ attentions[index]  # (B, H, 1, T)
            row = 0.5 * (row + taken.mean(dim=(1, 2)))
        return row


def pairwise_attention(query: Tensor, key: Tensor, value: Tensor, partner_key: Tensor, partner_value: Tensor) -> Tensor:
    """Attention of one image over its own tokens and those of a partner, under one softmax over both.

    The (T, 2T) matrix is never held: a fused kernel takes the keys in blocks and merges their softmax as it goes.

    Args:
        query, key, value: (B, H, T, d) of the image, not yet scaled.
        partner_key, partner_value: (B, H, T, d); image i sees those in row i.
    Returns:
        (B, H, T, d).
    Source: Zhu et al. 2022 (arXiv 2205.02151), section 3.3.
    """
    keys, values = torch.cat([key, partner_key], dim=2), torch.cat([value, partner_value], dim=2)
    return F.scaled_dot_product_attention(query, keys, values)


def draw_partners(n_images: int, *, device: torch.device) -> Tensor:
    """For each image the index of another one, (B,) int64: a random cycle through the batch, in which none is its own.

    Drawn from torch's global generator of the device.

    Raises:
        TrialError: there is one image only.
    """
    if n_images < 2:
        raise TrialError(
            f"pair-wise cross-attention needs 2 or more images at once to train, got {n_images}; lower "
            "train.accumulation or raise train.batch_size, or set model.variant to sa_glca or sa_only"
        )
    order = torch.randperm(n_images, device=device)
    return torch.empty_like(order).scatter_(0, order, order.roll(-1))


def pick_patches(row: Tensor, ratio: float) -> Tensor:
    """Token indices (B, k) of the patches with the highest scores, highest first; of equal ones the first.

    Args:
        row: (B, T) rollout; entry 0, the class token itself, takes no part.
        ratio: in (0, 1]; k = max(1, floor(ratio · (T - 1))).
    """
    n_picked = max(1, math.floor(ratio * (row.shape[1] - 1) + EPSILON))
    return row[:, 1:].argsort(dim=1, descending=True, stable=True)[:, :n_picked] + 1


class GlobalLocalCrossAttention(nn.Module):
    """A transformer block whose queries are a few picked tokens, and whose keys and values are all tokens.

    A query never sees another query, so what happens to the class token does not depend on which patches were picked.

    Source: Zhu et al. 2022, section 3.2.
    """

    def __init__(self, block: TimmBlock) -> None:
        """Starts as a copy of a self-attention block, whose class token it then repeats exactly."""
        super().__init__()
        self.block = copy.deepcopy(block)

    def forward(self, queries: Tensor, tokens: Tensor, *, kept: list[Mixing] | None = None) -> Tensor:
        """Queries (B, Q, D) among tokens (B, T, D), both before the first norm -> (B, Q, D); `kept` as of `attend`."""
        query, key, value = self._project(queries, tokens)
        return finish(self.block, queries, attend(query, key, value, kept))

    def attention(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """The attention of the queries over all tokens, (B, H, Q, T) float32."""
        query, key, _ = self._project(queries, tokens)
        return softmax_attention(query, key)

    def _project(self, queries: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, H, Q, d) and twice (B, H, T, d); only the queries go through the query projection."""
        block, n_channels = self.block, tokens.shape[2]
        weight, bias = block.attn.qkv.weight, block.attn.qkv.bias
        query = F.linear(block.norm1(queries), weight[:n_channels], bias[:n_channels])
        both = F.linear(block.norm1(tokens), weight[n_channels:], bias[n_channels:])
        key, value = both.chunk(2, dim=2)
        return _split_heads(query, block), _split_heads(key, block), _split_heads(value, block)


def project(block: TimmBlock, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value of a timm block, each (B, H, T, d), of the tokens (B, T, D) that enter it."""
    query, key, value = block.attn.qkv(block.norm1(tokens)).chunk(3, dim=2)
    return _split_heads(query, block), _split_heads(key, block), _split_heads(value, block)


def finish(block: TimmBlock, tokens: Tensor, mixed: Tensor) -> Tensor:
    """The rest of a timm block after its attention: tokens (B, T, D) and mixed values (B, H, T, d) -> (B, T, D)."""
    tokens = tokens + block.drop_path1(block.attn.proj(mixed.transpose(1, 2).flatten(2)))
    out: Tensor = tokens + block.drop_path2(block.mlp(block.norm2(tokens)))
    return out


def softmax_attention(query: Tensor, key: Tensor) -> Tensor:
    """The attention matrix of queries (…, Q, d) over keys (…, T, d), (…, Q, T) float32 (or float64)."""
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    exact: Tensor = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return exact.softmax(dim=-1)


def mean_attention(query: Tensor, key: Tensor) -> Tensor:
    """The mean over heads of the attention of (B, H, T, d), (B, 1, T, T) float32; one head is held at a time."""
    n_heads = query.shape[1]
    total = softmax_attention(query[:, 0], key[:, 0])  # (B, T, T)
    for head in range(1, n_heads):
        total = total + softmax_attention(query[:, head], key[:, head])
    return (total / n_heads)[:, None]


def _split_heads(tokens: Tensor, block: TimmBlock) -> Tensor:
    """(B, T, D) -> (B, H, T, d)."""
    n_images, n_tokens, n_channels = tokens.shape
    n_heads = int(block.attn.num_heads)
    return tokens.view(n_images, n_tokens, n_heads, n_channels // n_heads).transpose(1, 2)
