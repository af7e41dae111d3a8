"""Anonymous resident memory while the maps of n and of 10 n images are collected, each in a process of its own.

python tests/benchmarks/maps_memory.py [--n-images 400]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

CLASSES = 4


def collect_and_print(n_images: int) -> None:
    """Prints the largest RssAnon in MB during `collect`, beyond that after a first, small collection."""
    import torch

    from attnsearch.config.load import load_experiment
    from attnsearch.data.loader import open_data
    from attnsearch.device import anonymous_mb
    from attnsearch.evaluation.evaluation import Evaluation
    from attnsearch.models import build_model
    from attnsearch.models.checkpoint import ModelCheckpoint, write_model_checkpoint
    from attnsearch.store.trial_layout import TrialLayout
    from attnsearch.tasks.classification import LinearHeads

    per_class = n_images // CLASSES
    overrides = [f"data.n_classes={CLASSES}", f"data.n_test_per_class={per_class}", "data.n_val_per_class=8"]
    overrides += ["data.n_train_per_class=8", "model.stride_stage3=1", "model.stride_stage4=1", "train.precision=fp32"]
    config = load_experiment("br_npa_low_res", profile="demo", overrides=overrides)
    torch.set_num_threads(1)
    data = open_data(config.data)
    with tempfile.TemporaryDirectory() as folder:
        layout = TrialLayout(Path(folder))
        model, names = build_model(config.model, LinearHeads(CLASSES)), data.tables.class_names
        write_model_checkpoint(
            ModelCheckpoint(
                layout.best,
                config=config,
                class_names=names,
                epoch=1,
                accumulation=1,
                val_hash=data.tables.val_hash,
                state=model.state_dict(),
            )
        )
        Evaluation.open(layout.best, data, config=config).run("val", archive=layout.archive("val"))
        before, largest, done = anonymous_mb(), 0.0, threading.Event()

        def watch() -> None:
            nonlocal largest
            while not done.wait(0.005):
                largest = max(largest, anonymous_mb())

        watcher = threading.Thread(target=watch)
        watcher.start()
        Evaluation.open(layout.best, data, config=config).run("test", archive=layout.archive("test"))
        done.set()
        watcher.join()
        n_bytes = sum(path.stat().st_size for path in layout.archive("test").arrays.values() if path.exists())
    print(f"{max(0.0, largest - before):.1f} {n_bytes / 1e6:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-images", type=int, default=400)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        collect_and_print(arguments.n_images)
        return
    grown = []
    for n_images in (arguments.n_images, 10 * arguments.n_images):
        command = [sys.executable, __file__, "--inside", "--n-images", str(n_images)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        grown.append(float(printed[-2]))
        print(f"{n_images} images, {printed[-1]} MB of maps: peak RssAnon {grown[-1]:.1f} MB above the start")
    print(f"ten times the images add {grown[1] - grown[0]:+.1f} MB")


if __name__ == "__main__":
    main()
