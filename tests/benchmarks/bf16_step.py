"""Times a training step of transformer backbones in bf16 against fp32, both by turns in one process.

python tests/benchmarks/bf16_step.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from attnsearch.config.model import DcalSettings, LoupeSettings
from attnsearch.device import Arithmetic, pick_device
from attnsearch.models import build_model
from attnsearch.models.base import AttentionModel
from attnsearch.tasks.classification import LinearHeads
from attnsearch.testing.model import loss_terms
from attnsearch.types import Batch

N_CLASSES = 200
VITS = ("deit_tiny_patch16_224", "deit_small_patch16_224", "deit_base_patch16_224")
MODELS: dict[str, LoupeSettings | DcalSettings] = {
    "loupe on swin_tiny_patch4_window7_224": LoupeSettings(name="loupe", backbone="swin_tiny_patch4_window7_224"),
    **{f"dcal (sa_only) on {vit}": DcalSettings(name="dcal", variant="sa_only", backbone=vit) for vit in VITS},
}


def make_step(model: AttentionModel, arithmetic: Arithmetic, batch: Batch) -> Callable[[], None]:
    batch = arithmetic.place_images(batch)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with arithmetic.autocast():
            output = model(batch)
        torch.autograd.backward(torch.stack(list(loss_terms(model, output, batch).values())).sum())

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    device = pick_device("auto")
    n_images = arguments.batch_size
    batch = Batch(torch.randn(n_images, 3, 224, 224), torch.arange(n_images), ("",) * n_images, torch.arange(n_images))
    print(f"training step of {n_images} images of 224 px, {device}, {torch.get_num_threads()} threads")
    for name, settings in MODELS.items():
        steps = {}
        for precision in ("fp32", "bf16"):
            torch.manual_seed(1)
            model = build_model(settings, LinearHeads(N_CLASSES), load_weights=False)
            arithmetic = Arithmetic(device, precision, model.channels_last)
            steps[precision] = make_step(arithmetic.place_model(model).train(), arithmetic, batch)
        times: dict[str, list[float]] = {precision: [] for precision in steps}
        for _ in range(arguments.repeats + 1):
            for precision, step in steps.items():
                start = time.perf_counter()
                step()
                times[precision].append(time.perf_counter() - start)
        median = {precision: statistics.median(values[1:]) for precision, values in times.items()}
        print(f"{name}: fp32 {median['fp32']:.3f} s, bf16 {median['bf16']:.3f} s, ", end="")
        print(f"{median['fp32'] / median['bf16']:.2f} x faster")


if __name__ == "__main__":
    main()
