"""The encoder and decoder of INTR, under the state names of its authors' code; tokens are (B, T, d)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class CrossAttention:
    """What one decoder layer attends with; `weights` turns it into maps, of the classes that are asked for alone.

    Attributes:
        queries: (B, H, n_classes, d / H), H being the heads.
        keys: (B, H, L, d / H), one per cell.
        padding: (B, L) bool, True on padding, or None.
    """

    queries: Tensor
    keys: Tensor
    padding: Tensor | None

    def weights(self, class_index: Tensor) -> Tensor:
        """The attention of one class per image: (B,) -> (B, H, L) float32; sums to 1 and is 0 on padding."""
        rows = torch.arange(len(class_index), device=class_index.device)
        with torch.autocast(self.queries.device.type, enabled=False):
            queries = self.queries[rows, :, class_index].float()  # (B, H, d / H)
            scores = torch.einsum("bhd,bhld->bhl", queries, self.keys.float()) / queries.shape[-1] ** 0.5
            if self.padding is not None:
                scores = scores.masked_fill(self.padding[:, None], float("-inf"))
            weights: Tensor = scores.softmax(dim=-1)
            return weights


@dataclass(frozen=True)
class DecoderOutput:
    """What the transformer returns.

    Attributes:
        memory: (B, L, d), the encoded cells.
        states: one (B, n_classes, d) per decoder layer, before the final norm.
        attention: one per decoder layer.
    """

    memory: Tensor
    states: tuple[Tensor, ...]
    attention: tuple[CrossAttention, ...]


class Transformer(nn.Module):
    """Encoder and decoder, both post-norm, with Xavier-uniform matrices."""

    def __init__(
        self, d_model: int, n_heads: int, *, n_encoder_layers: int, n_decoder_layers: int, width: int, dropout: float
    ) -> None:
        super().__init__()
        self.encoder = Encoder([EncoderLayer(d_model, n_heads, width, dropout) for _ in range(n_encoder_layers)])
        self.decoder = Decoder(
            [DecoderLayer(d_model, n_heads, width, dropout) for _ in range(n_decoder_layers)], d_model
        )
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self, cells: Tensor, positions: Tensor, queries: Tensor, *, padding: Tensor | None = None
    ) -> DecoderOutput:
        """Encodes the cells, to which every class query then attends.

        Args:
            cells: (B, L, d) projected features.
            positions: (B, L, d), added to queries and keys of the encoder alone.
            queries: (n_classes, d).
            padding: (B, L) bool, True on padding.
        """
        memory = self.encoder(cells, positions, padding)
        states, attention = self.decoder(memory, queries.expand(len(cells), -1, -1), padding)
        return DecoderOutput(memory, states, attention)


class Encoder(nn.Module):
    """Self-attention layers over the cells (B, L, d) with their positions (B, L, d) and padding (B, L)."""

    def __init__(self, layers: list[EncoderLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, cells: Tensor, positions: Tensor, padding: Tensor | None) -> Tensor:
        for layer in self.layers:
            cells = layer(cells, positions, padding)  # (B, L, d)
        return cells


class Decoder(nn.Module):
    """The state starts at zero; the class queries are added to queries and keys, never to values or to the state.

    Source: DETR's decoder, as INTR changes it: the keys of the cross-attention carry no position.
    """

    def __init__(self, layers: list[DecoderLayer], d_model: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(d_model)

    def forward(
        self, memory: Tensor, queries: Tensor, padding: Tensor | None
    ) -> tuple[tuple[Tensor, ...], tuple[CrossAttention, ...]]:
        states, attention = [], []
        state = torch.zeros_like(queries)  # (B, n_classes, d)
        for layer in self.layers:
            state, attended = layer(state, queries, memory, padding)  # (B, n_classes, d)
            states.append(state)
            attention.append(attended)
        return tuple(states), tuple(attention)


class Attention(nn.Module):
    """Multi-head attention under the state names of `torch.nn.MultiheadAttention`, by the fused kernel."""

    def __init__(self, d_model: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * d_model, d_model))  # drawn by `Transformer`
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * d_model))
        self.out_proj = nn.Linear(d_model, d_model)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None
    ) -> tuple[Tensor, CrossAttention]:
        """(B, T, d) and twice (B, L, d) -> (B, T, d), and what its attention weights follow from."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        queries, keys, values = (
            F.linear(tokens, weight, bias).view(*tokens.shape[:2], self.n_heads, -1).transpose(1, 2)  # (B, H, T, d / H)
            for tokens, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        is_seen = None if padding is None else ~padding[:, None, None]  # (B, 1, 1, L)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=is_seen, dropout_p=dropout)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), CrossAttention(queries, keys, padding)


class EncoderLayer(nn.Module):
    def __init__(self, d_model: int, n_heads: int, width: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(d_model, n_heads, dropout)
        self.linear1, self.linear2 = nn.Linear(d_model, width), nn.Linear(width, d_model)
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, cells: Tensor, positions: Tensor, padding: Tensor | None) -> Tensor:
        placed = cells + positions  # (B, L, d)
        attended, _ = self.self_attn(placed, placed, cells, padding)
        cells = self.norm1(cells + self.dropout(attended))
        hidden = self.linear2(self.dropout(F.relu(self.linear1(cells))))  # (B, L, d), within it (B, L, width)
        normed: Tensor = self.norm2(cells + self.dropout(hidden))
        return normed


class DecoderLayer(nn.Module):
    def __init__(self, d_model: int, n_heads: int, width: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(d_model, n_heads, dropout)
        self.multihead_attn = Attention(d_model, n_heads, dropout)
        self.linear1, self.linear2 = nn.Linear(d_model, width), nn.Linear(width, d_model)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(d_model) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, state: Tensor, queries: Tensor, memory: Tensor, padding: Tensor | None
    ) -> tuple[Tensor, CrossAttention]:
        placed = state + queries  # (B, n_classes, d)
        mixed, _ = self.self_attn(placed, placed, state, None)
        state = self.norm1(state + self.dropout(mixed))
        seen, attention = self.multihead_attn(state + queries, memory, memory, padding)
        state = self.norm2(state + self.dropout(seen))
        hidden = self.linear2(self.dropout(F.relu(self.linear1(state))))  # (B, n_classes, d)
        return self.norm3(state + self.dropout(hidden)), attention
