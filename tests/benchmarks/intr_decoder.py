"""Times INTR's decoder, forward and backward, against one that computes every cross-attention twice.

The published code calls the cross-attention of a layer once for the weights of each head and once for their mean. The
second side does the same with the same parameters, so both give the same states.

python tests/benchmarks/intr_decoder.py
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from attnsearch.models.intr_transformer import Attention, CrossAttention, Decoder, Transformer

D_MODEL, N_HEADS, N_QUERIES, N_CELLS, BATCH = 256, 8, 200, 25 * 30, 4


class Twice(Attention):
    """Cross-attention by `multi_head_attention_forward`, called for the weights per head and again for their mean."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None
    ) -> tuple[Tensor, CrossAttention]:
        self.mean_weights = self._attend(query, key, value, is_averaged=True)[1]
        mixed, self.weights = self._attend(query, key, value, is_averaged=False)
        return mixed, CrossAttention(query, key, padding)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, *, is_averaged: bool) -> tuple[Tensor, Tensor | None]:
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
        return mixed.transpose(0, 1), weights


def build(*, twice: bool, n_layers: int, seed: int = 1) -> Decoder:
    torch.manual_seed(seed)
    transformer = Transformer(D_MODEL, N_HEADS, n_encoder_layers=0, n_decoder_layers=n_layers, width=2048, dropout=0.0)
    decoder = transformer.decoder
    for layer in decoder.layers if twice else ():
        attention = Twice(D_MODEL, N_HEADS, 0.0)
        attention.load_state_dict(layer.multihead_attn.state_dict())
        layer.multihead_attn = attention
    return decoder.train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    memory = torch.randn(BATCH, N_CELLS, D_MODEL, device=device)
    queries = torch.randn(BATCH, N_QUERIES, D_MODEL, device=device)
    sides = {name: build(twice=name == "twice", n_layers=arguments.layers).to(device) for name in ("twice", "once")}

    def step(decoder: Decoder) -> Tensor:
        decoder.zero_grad(set_to_none=True)
        states, _ = decoder(memory, queries, None)
        torch.autograd.backward(states[-1].square().mean())
        return states[-1].detach()

    times: dict[str, list[float]] = {name: [] for name in sides}
    states: dict[str, Tensor] = {}
    for _ in range(arguments.repeats + 1):
        for name, decoder in sides.items():
            start = time.perf_counter()
            states[name] = step(decoder)
            if device.type == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    median = {name: statistics.median(values[1:]) for name, values in times.items()}
    error = (states["twice"] - states["once"]).abs().max().item()
    print(f"{arguments.layers} decoder layers, forward and backward, {device}, {torch.get_num_threads()} threads")
    print(f"cross-attention twice {median['twice']:.3f} s, once {median['once']:.3f} s, ", end="")
    print(f"{median['twice'] / median['once']:.2f} x faster, largest difference {error:.0e}")


if __name__ == "__main__":
    main()
