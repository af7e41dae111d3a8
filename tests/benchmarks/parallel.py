"""Training on two processes with a thread each, against one process with one and with two threads.

    python tests/benchmarks/parallel.py [--rounds 3] [--epochs 6]

All three sides train in the same two parts of each batch, and so compute the same weights. They take turns; the median
is that of all epochs but the first of each run, whose caches are cold.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from attnsearch.store.epochs import read_csv
from attnsearch.store.layout import StudyLayout

SIDES = {
    "one process, 1 thread": ("train.accumulation=2", "runtime.n_threads=1"),
    "one process, 2 threads": ("train.accumulation=2", "runtime.n_threads=2"),
    "two processes, 1 thread each": ("runtime.devices_per_trial=2", "runtime.n_threads=1"),
}
CONFIG = """
name: {name}
experiment: parallel
data: {{name: synthetic, n_classes: 4, n_train_per_class: 80, n_val_per_class: 40, n_test_per_class: 2}}
model: {model}
train: {{epochs: {n_epochs}, batch_size: 16, precision: fp32}}
evaluation: {{scores: {{families: []}}}}
runtime: {{device: cpu}}
"""
MODELS = {
    "br_npa": "{name: br_npa, backbone: resnet18, width: 0.5}",
    "dcal": "{name: dcal, backbone: deit_tiny_patch16_224, weights: none, depth: 4}",
}


def train(model: str, side: str, root: Path, n_epochs: int) -> list[tuple[float, float]]:
    """(images per second of training, seconds of training and validation) of the epochs of a run but the first."""
    file = root / "config.yaml"
    file.write_text(CONFIG.format(name=model, model=MODELS[model], n_epochs=n_epochs))
    environment = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    command = [sys.executable, "-m", "attnsearch", "train", str(file), *SIDES[side], "--results", str(root)]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    epochs = read_csv(StudyLayout(root, "parallel", model).trial(0).epochs_csv)[1:]
    return list(zip(epochs["images_per_s"], epochs["seconds"], strict=True))


def main() -> None:
    """Prints a line for each side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    options = parser.parse_args()
    for model in MODELS:
        found: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
        for _ in range(options.rounds):
            for side in SIDES:
                with tempfile.TemporaryDirectory() as root:
                    found[side] += train(model, side, Path(root), options.epochs)
        for side, epochs in found.items():
            rate, seconds = (statistics.median(values) for values in zip(*epochs, strict=True))
            print(f"{model}: {side}: {rate:.0f} images/s, an epoch {seconds:.2f} s", flush=True)
    print(f"load average {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
