"""Times the parts of DCAL that cost something: both sides of each comparison in one process, by turns.

Rollout: the row of the class token as a chain of vectors, against the product of all L matrices, on head means.
Step: forward and backward pass of each variant, against self-attention alone; PWCA adds one more pass over the blocks.

    python tests/benchmarks/dcal.py [--tokens 785] [--blocks 12] [--full] [--repeats 5]

`--full` takes DeiT-Tiny at 448 pixels instead of a model of four blocks at 96 pixels: minutes on a processor.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from attnsearch.config.model import DcalSettings
from attnsearch.models.dcal import attention_rollout, build
from attnsearch.tasks.classification import LinearHeads
from attnsearch.testing.model import loss_terms
from attnsearch.types import Batch

N_CLASSES = 200
SMALL = {"width": 0.67, "depth": 4, "stem": "conv", "position_grid": 6}
VARIANTS = ("sa_only", "sa_glca", "sa_pwca", "full")


def by_turns(sides: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each side, after one round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats + 1):
        for name, work in sides.items():
            start = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def product_rollout(attentions: Tensor) -> Tensor:
    """Row 0 of the product of (A + I) / 2 over all blocks, the latest leftmost: (L, B, 1, T, T) -> (B, T)."""
    identity = torch.eye(attentions.shape[-1], device=attentions.device)
    product = identity
    for layer in attentions[:, :, 0]:
        product = 0.5 * (layer + identity) @ product
    return product[:, 0]


def compare_rollouts(arguments: argparse.Namespace, device: torch.device) -> None:
    shape = (arguments.blocks, arguments.rollout_batch, 1, arguments.tokens, arguments.tokens)
    attentions = torch.rand(shape, device=device).softmax(dim=-1)
    sides = {"product": lambda: product_rollout(attentions), "chain": lambda: attention_rollout(attentions)}
    error = (product_rollout(attentions) - attention_rollout(attentions)).abs().max().item()
    times = by_turns(sides, arguments.repeats)
    print(f"rollout, T = {arguments.tokens}, L = {arguments.blocks}, batch {arguments.rollout_batch}: ", end="")
    print(f"product {1e3 * times['product']:.1f} ms, chain {1e3 * times['chain']:.2f} ms, ", end="")
    print(f"{times['product'] / times['chain']:.0f} x faster, largest difference {error:.0e}")


def make_step(variant: str, arguments: argparse.Namespace, device: torch.device) -> Callable[[], None]:
    sizes = {"position_grid": 28} if arguments.full else SMALL
    model = build(DcalSettings.model_validate({"variant": variant, **sizes}), LinearHeads(N_CLASSES)).to(device).train()
    n_images, side = (arguments.batch_size or (4 if arguments.full else 16)), (448 if arguments.full else 96)
    labels = torch.arange(n_images, device=device)
    images = torch.rand(n_images, 3, side, side, device=device)
    batch = Batch(images, labels, ("",) * n_images, torch.arange(n_images))

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=arguments.bf16):
            output = model(batch)
        torch.stack(list(loss_terms(model, output, batch).values())).sum().backward()

    return step


def compare_steps(arguments: argparse.Namespace, device: torch.device) -> None:
    times = by_turns({name: make_step(name, arguments, device) for name in VARIANTS}, arguments.repeats)
    print("step of", "DeiT-Tiny at 448 px" if arguments.full else "4 blocks of width 128 at 96 px")
    for name, seconds in times.items():
        print(f"  {name}: {1e3 * seconds:.1f} ms, {seconds / times['sa_only']:.2f} x self-attention alone")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=785)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--rollout-batch", type=int, default=4)
    parser.add_argument("--batch-size", type=int, help="images of a step; 16, or 4 with --full")
    parser.add_argument("--full", action="store_true", help="DeiT-Tiny at 448 px")
    parser.add_argument("--bf16", action="store_true", help="steps under autocast")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{device}, {torch.get_num_threads()} threads")
    compare_rollouts(arguments, device)
    compare_steps(arguments, device)


if __name__ == "__main__":
    main()
