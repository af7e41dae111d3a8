"""Times one training epoch against a plain loop, both in one process, by turns.

The plain loop is what one writes first: an image folder decoded by PIL in two loader workers, float32, NCHW. Ours reads
the pixel cache (built beforehand, not timed), augments batches, and uses bf16 and channels-last where `auto` does.
Processor time tells more than the clock on a machine that others use too; set OMP_NUM_THREADS=1 there.
Also timed: our epoch against the same steps on one resident batch, and, with --loader-only, the loaders alone.

    PYTHONPATH=. python tests/benchmarks/train_epoch.py --data PATH
        [--backbone resnet18] [--image-size-px 128] [--n-images 512]
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.data.loader import open_data
from attnsearch.models import build_model
from attnsearch.tasks.classification import LinearHeads
from attnsearch.training.loop import TrainingSetup, train_epoch
from attnsearch.training.setup import build_run
from attnsearch.training.state import TrainingState
from attnsearch.types import Batch
from tests.tiny import RecordingContext

N_WORKERS = 2


@dataclass
class Resident:
    """A loader that yields one batch, already on the device, as often as the true one has batches."""

    batch: Batch
    n_batches: int

    def __len__(self) -> int:
        return self.n_batches

    def epoch(self, epoch: int) -> Iterator[Batch]:
        return iter([self.batch] * self.n_batches)


def take_subset(source: Path, target: Path, n_images: int) -> None:
    """Copies the first images of each class, `n_images` for training and two of each class for validation."""
    classes = sorted(path for path in (source / "train").iterdir() if path.is_dir())
    for position, folder in enumerate(classes):
        share = n_images // len(classes) + (position < n_images % len(classes))
        files = sorted(folder.iterdir())[: share + 2]
        for split, chosen in (("train", files[:share]), ("val", files[share:])):
            (target / split / folder.name).mkdir(parents=True)
            for file in chosen:
                shutil.copy(file, target / split / folder.name)


def make_config(root: Path, arguments: argparse.Namespace) -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {
            "name": "benchmark",
            "data": {"name": "folder", "root": str(root), "image_size_px": arguments.image_size_px},
            "model": {"name": "cnn", "backbone": arguments.backbone},
            "train": {"batch_size": arguments.batch_size, "optimizer": {"lr": 0.01}},
        }
    )


def plain_loader(root: Path, config: ExperimentConfig) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
    """ImageFolder with BR-NPA's augmentation through PIL."""
    data = config.data
    steps = transforms.Compose(
        [
            transforms.Resize(data.resized_hw),
            transforms.RandomCrop(data.image_hw),
            transforms.RandomHorizontalFlip(data.flip),
            transforms.ColorJitter(brightness=data.brightness, saturation=data.saturation),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    return DataLoader(
        ImageFolder(str(root / "train"), steps), config.train.batch_size, shuffle=True, num_workers=N_WORKERS
    )


def plain_epoch(
    run: TrainingSetup, model: torch.nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader
) -> None:
    """The loop that one writes first, on the same model class."""
    device = run.arithmetic.device
    model.train()
    for images, labels in loader:
        batch = Batch(images.to(device), labels.to(device), ("",) * len(labels), torch.arange(len(labels)))
        loss = torch.nn.functional.cross_entropy(model(batch).logits, batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()


@dataclass(frozen=True)
class Cost:
    """Seconds by the clock, and of processor time of this process and its loader workers."""

    wall_s: float
    cpu_s: float


def cost_of(work: Callable[[], object]) -> Cost:
    start, used = time.perf_counter(), sum(os.times()[:4])
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Cost(time.perf_counter() - start, sum(os.times()[:4]) - used)


def by_turns(sides: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Cost]:
    """The least of each side's rounds (a busy machine only ever adds), after one that is not counted."""
    rounds: list[dict[str, Cost]] = []
    for index in range(repeats + 1):
        rounds.append({name: cost_of(work) for name, work in sides.items()})
        told = ", ".join(f"{name} {cost.wall_s:.2f} s ({cost.cpu_s:.2f} cpu)" for name, cost in rounds[-1].items())
        print(f"  {told}{'' if index else ', not counted'}", flush=True)
    counted = rounds[1:]
    return {
        name: Cost(min(costs[name].wall_s for costs in counted), min(costs[name].cpu_s for costs in counted))
        for name in sides
    }


def tell_ratio(what: str, slow: Cost, fast: Cost) -> None:
    print(f"{what}: {slow.wall_s / fast.wall_s:.3f} by the clock, {slow.cpu_s / fast.cpu_s:.3f} by processor time")


def exhaust(iterator: Iterator[object]) -> None:
    for _ in iterator:
        pass


def compare(root: Path, arguments: argparse.Namespace) -> None:
    config = make_config(root, arguments)
    run = build_run(TrainingState(config, RecordingContext(root / "trial"), open_data(config.data), accumulation=1))
    plain = plain_loader(root, config)
    n_images = run.train.n_images
    print(
        f"{arguments.backbone}, {n_images} images of {arguments.image_size_px} px, batch {config.train.batch_size}, ",
        end="",
    )
    print(f"{run.arithmetic.device}, {torch.get_num_threads()} threads, {run.arithmetic.precision}")
    if arguments.loader_only:
        sides = {"plain loader": lambda: exhaust(iter(plain)), "cached loader": lambda: exhaust(run.train.epoch(1))}
        times = by_turns(sides, arguments.repeats)
        tell_ratio("loader alone, times faster", times["plain loader"], times["cached loader"])
        return
    model = build_model(config.model, LinearHeads(run.n_classes)).to(run.arithmetic.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    resident = replace(run, train=Resident(next(run.train.epoch(1)), len(run.train)))  # type: ignore[arg-type]
    passes: dict[str, Callable[[], object]] = {
        "plain": lambda: plain_epoch(run, model, optimizer, plain),
        "ours": lambda: train_epoch(run, 1, accumulation=1, check=lambda: None),
        "resident": lambda: train_epoch(resident, 1, accumulation=1, check=lambda: None),
    }
    times = by_turns(passes, arguments.repeats)
    tell_ratio("epoch, times faster", times["plain"], times["ours"])
    tell_ratio("throughput with the loader, as a share of that on a resident batch", times["resident"], times["ours"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/<class>/<picture>")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--image-size-px", type=int, default=128)
    parser.add_argument("--n-images", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--loader-only", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ATTNSEARCH_CACHE"] = str(Path(folder) / "cache")
        take_subset(arguments.data, Path(folder) / "data", arguments.n_images)
        compare(Path(folder) / "data", arguments)


if __name__ == "__main__":
    main()
