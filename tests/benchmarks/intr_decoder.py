"""Times INTR's decoder, forward and backward, against the way of the published code with the same parameters.

The published decoder asks every attention for its weights, computes every cross-attention twice (weights of each head,
and their mean), normalises the state after every layer and stacks the weights of all layers, in training too. Ours
keeps what the weights of one class can be told from. `--cross-only` leaves the second computation of the
cross-attention as the only difference: the self-attention is then ours on both sides, and nothing is stacked.

Timed with dropout as INTR trains; the states are compared without.

python tests/benchmarks/intr_decoder.py [--layers 6] [--repeats 7] [--dropout 0.1] [--cross-only]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from attnsearch.models.intr_transformer import Attention, CrossAttention, Decoder, Transformer

D_MODEL, N_HEADS, N_QUERIES, N_CELLS, BATCH = 256, 8, 200, 25 * 30, 4


class WithWeights(Attention):
    """Attention that tells its weights, as `torch.nn.MultiheadAttention` does by default."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None
    ) -> tuple[Tensor, CrossAttention]:
        mixed, self.mean_weights = self._attend(query, key, value, is_averaged=True)
        return mixed, CrossAttention(query, key, padding)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, *, is_averaged: bool) -> tuple[Tensor, Tensor]:
        mixed, weights = F.multi_head_attention_forward(
            query.transpose(0, 1),
            key.transpose(0, 1),
            value.transpose(0, 1),
            query.shape[-1],
            self.n_heads,
            self.in_proj_weight,
            self.in_proj_bias,
            None,
            None,
            False,
            self.dropout,
            self.out_proj.weight,
            self.out_proj.bias,
            training=self.training,
            need_weights=True,
            average_attn_weights=is_averaged,
        )
        assert weights is not None
        return mixed.transpose(0, 1), weights


class Twice(WithWeights):
    """Cross-attention that is computed for the weights of each head and again for their mean."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None
    ) -> tuple[Tensor, CrossAttention]:
        mixed, self.head_weights = self._attend(query, key, value, is_averaged=False)
        _, self.mean_weights = self._attend(query, key, value, is_averaged=True)
        return mixed, CrossAttention(query, key, padding)


def decode_once(decoder: Decoder, memory: Tensor, queries: Tensor) -> tuple[Tensor, ...]:
    """The state after the last layer, normalised: (B, n_classes, d)."""
    states, _ = decoder(memory, queries, None)
    return (decoder.norm(states[-1]),)


def decode_as_published(decoder: Decoder, memory: Tensor, queries: Tensor) -> tuple[Tensor, ...]:
    """The same, and the weights of all layers: (layers, B, H, n_classes, L) and (layers, B, n_classes, L)."""
    states, _ = decoder(memory, queries, None)
    normed = torch.stack([decoder.norm(state) for state in states])
    attentions = [layer.multihead_attn for layer in decoder.layers]
    stacked = (torch.stack([getattr(each, name) for each in attentions]) for name in ("head_weights", "mean_weights"))
    return normed[-1], *stacked


def build(arguments: argparse.Namespace, *, cross: type[Attention], own: type[Attention], seed: int = 1) -> Decoder:
    torch.manual_seed(seed)
    transformer = Transformer(
        D_MODEL,
        N_HEADS,
        n_encoder_layers=0,
        n_decoder_layers=arguments.layers,
        width=2048,
        dropout=arguments.dropout,
    )
    for layer in transformer.decoder.layers:
        for name, kind in (("self_attn", own), ("multihead_attn", cross)):
            attention = kind(D_MODEL, N_HEADS, arguments.dropout)
            attention.load_state_dict(getattr(layer, name).state_dict())
            setattr(layer, name, attention)
    return transformer.decoder


@dataclass(frozen=True)
class Side:
    """A decoder and the way in which it is used."""

    decoder: Decoder
    decode: Callable[[Decoder, Tensor, Tensor], tuple[Tensor, ...]]

    @torch.no_grad()
    def state(self, memory: Tensor, queries: Tensor) -> Tensor:
        """Of the last layer, normalised, without dropout."""
        return self.decode(self.decoder.eval(), memory, queries)[0]

    def step(self, memory: Tensor, queries: Tensor) -> None:
        self.decoder.train().zero_grad(set_to_none=True)
        state, *_ = self.decode(self.decoder, memory, queries)
        torch.autograd.backward(state.square().mean())


def make_sides(arguments: argparse.Namespace, device: torch.device) -> dict[str, Side]:
    own = Attention if arguments.cross_only else WithWeights
    decode = decode_once if arguments.cross_only else decode_as_published
    return {
        "published": Side(build(arguments, cross=Twice, own=own).to(device), decode),
        "ours": Side(build(arguments, cross=Attention, own=Attention).to(device), decode_once),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--cross-only", action="store_true", help="differ in the cross-attention alone")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    memory = torch.randn(BATCH, N_CELLS, D_MODEL, device=device, requires_grad=True)  # the encoder learns too
    queries = torch.randn(BATCH, N_QUERIES, D_MODEL, device=device)
    sides = make_sides(arguments, device)
    states = [side.state(memory, queries) for side in sides.values()]
    error = (states[0] - states[1]).abs().max().item()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(arguments.repeats + 1):
        for name, side in sides.items():
            start = time.perf_counter()
            side.step(memory, queries)
            if device.type == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    median = {name: statistics.median(values[1:]) for name, values in times.items()}
    name = "cross-attention twice" if arguments.cross_only else "the published way"
    ratio = median["published"] / median["ours"]
    print(f"{arguments.layers} decoder layers, forward and backward, {device}, {torch.get_num_threads()} threads")
    print(f"{name} {median['published']:.3f} s, ours {median['ours']:.3f} s, {ratio:.2f} x faster, ", end="")
    print(f"largest difference {error:.0e}")


if __name__ == "__main__":
    main()
