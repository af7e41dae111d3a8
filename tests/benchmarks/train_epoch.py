"""Times one training epoch against timm's own loader and against a plain loop, all in one process, by turns.

The timm side is what its `train.py` does at the same model, size and precision: `create_loader` with its default
augmentation over an image folder in one loader worker per core, bf16 autocast and channels-last where ours has them,
and the fused optimizer that ours has. The plain loop (`--plain`) is what one writes first: PIL through torchvision,
float32, NCHW. Ours reads the pixel cache (built beforehand, not timed) and measures what its records hold. Processor
time tells more than the clock on a machine that others use too; set OMP_NUM_THREADS=1 there.
Also timed: our epoch against the same steps on one resident batch, and, with --loader-only, the loaders alone.

    PYTHONPATH=. python tests/benchmarks/train_epoch.py --data PATH
        [--backbone resnet18] [--width 1] [--image-size-px 128] [--n-images 512] [--longest-px 500] [--plain]
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from timm.data import create_dataset, create_loader
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.data.images import open_upright
from attnsearch.data.loader import open_data
from attnsearch.data.tables import ImageTable
from attnsearch.device import describe_device, n_cores
from attnsearch.models import build_model
from attnsearch.tasks.classification import LinearHeads
from attnsearch.training.loop import TrainingSetup, train_epoch
from attnsearch.training.setup import build_optimizer, build_run
from attnsearch.training.state import TrainingState
from attnsearch.types import Batch
from tests.tiny import RecordingContext

N_WORKERS = max(2, n_cores())


@dataclass
class Resident:
    """A loader that yields one batch, already on the device, as often as the true one has batches."""

    batch: Batch
    n_batches: int
    table: ImageTable

    def __len__(self) -> int:
        return self.n_batches

    def sizes(self) -> list[int]:
        return [len(self.batch.labels)] * self.n_batches

    def epoch(self, epoch: int, share: object = None) -> Iterator[Batch]:
        return iter([self.batch] * self.n_batches)


def take_subset(source: Path, target: Path, n_images: int, longest_px: int | None = None) -> None:
    """Copies the first images of each class, `n_images` for training and two of each class for validation.

    Args:
        longest_px: their longer side, enlarged where files are thumbnails; None leaves them alone.
    """
    classes = sorted(path for path in (source / "train").iterdir() if path.is_dir())
    for position, folder in enumerate(classes):
        share = n_images // len(classes) + (position < n_images % len(classes))
        files = sorted(folder.iterdir())[: share + 2]
        for split, chosen in (("train", files[:share]), ("val", files[share:])):
            (target / split / folder.name).mkdir(parents=True)
            for file in chosen:
                copy = Path(shutil.copy(file, target / split / folder.name))
                if longest_px is not None:
                    open_upright(file, longest_px=longest_px, enlarge=True).save(copy, quality=90)


def make_config(root: Path, arguments: argparse.Namespace) -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {
            "name": "benchmark",
            "data": {"name": "folder", "root": str(root), "image_size_px": arguments.image_size_px},
            "model": {"name": "cnn", "backbone": arguments.backbone, "width": arguments.width},
            "train": {"batch_size": arguments.batch_size, "optimizer": {"name": "adamw", "lr": 0.001}},
        }
    )


def timm_loader(root: Path, config: ExperimentConfig, device: torch.device) -> Iterable[tuple[Tensor, Tensor]]:
    """timm's training loader with its default augmentation."""
    loader: Iterable[tuple[Tensor, Tensor]] = create_loader(
        create_dataset("", root=str(root / "train")),
        input_size=(3, *config.data.image_hw),
        batch_size=config.train.batch_size,
        is_training=True,
        use_prefetcher=device.type == "cuda",
        num_workers=N_WORKERS,
        device=device,
        color_jitter=0.4,
        hflip=0.5,
        persistent_workers=True,
    )
    return loader


def timm_epoch(
    run: TrainingSetup, model: nn.Module, optimizer: Optimizer, loader: Iterable[tuple[Tensor, Tensor]]
) -> None:
    """The loop of timm's `train.py` on the same model class: bf16 autocast, channels-last, the loss read at its end."""
    arithmetic, loss = run.arithmetic, torch.zeros(())
    model.train()
    for images, labels in loader:
        placed = images.to(arithmetic.device, non_blocking=True).contiguous(memory_format=arithmetic.memory_format)
        targets = labels.to(arithmetic.device, non_blocking=True)
        batch = Batch(placed, targets, ("",) * len(labels), torch.arange(len(labels)))
        with arithmetic.autocast():
            loss = nn.functional.cross_entropy(model(batch).logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    loss.item()


def plain_loader(root: Path, config: ExperimentConfig) -> DataLoader[tuple[Tensor, Tensor]]:
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


def plain_epoch(run: TrainingSetup, model: nn.Module, optimizer: Optimizer, loader: DataLoader) -> None:
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


def processor_s() -> float:
    """Processor time so far of this process and of its children, those that live on included."""
    total = sum(os.times()[:4])
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


def cost_of(work: Callable[[], object]) -> Cost:
    start, used = time.perf_counter(), processor_s()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Cost(time.perf_counter() - start, processor_s() - used)


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
    device = run.arithmetic.device
    print(f"{describe_device(device)}, {run.arithmetic.precision}, {torch.get_num_threads()} threads: ", end="")
    print(f"{arguments.backbone} x {arguments.width:g}, ", end="")
    print(f"{run.train.n_images} images of {arguments.image_size_px} px, batch {config.train.batch_size}")
    theirs = timm_loader(root, config, device)
    if arguments.loader_only:
        sides = {"timm's loader": lambda: exhaust(iter(theirs)), "ours": lambda: exhaust(run.train.epoch(1))}
        times = by_turns(sides, arguments.repeats)
        tell_ratio("loader alone, times faster", times["timm's loader"], times["ours"])
        return
    passes: dict[str, Callable[[], object]] = {"timm": partial(timm_epoch, run, *model_of(run, config), theirs)}
    if arguments.plain:
        plain = partial(plain_epoch, run, *model_of(run, config, placed=False), plain_loader(root, config))
        passes["plain"] = plain
    resident = replace(run, train=Resident(next(run.train.epoch(1)), len(run.train), run.train.table))  # type: ignore[arg-type]
    passes["ours"] = lambda: train_epoch(run, 1, accumulation=1, check=lambda: None)
    passes["resident"] = lambda: train_epoch(resident, 1, accumulation=1, check=lambda: None)
    times = by_turns(passes, arguments.repeats)
    tell_ratio("epoch, times faster than timm's loader, precision and layout", times["timm"], times["ours"])
    if arguments.plain:
        tell_ratio("epoch, times faster than a plain loop", times["plain"], times["ours"])
    tell_ratio("throughput with the loader, as a share of that on a resident batch", times["resident"], times["ours"])


def model_of(run: TrainingSetup, config: ExperimentConfig, *, placed: bool = True) -> tuple[nn.Module, Optimizer]:
    """Another model of the same class, and our optimizer of it.

    Args:
        placed: in the memory format of ours; else as torch makes it.
    """
    model = build_model(config.model, LinearHeads(len(run.train.table.class_names)))
    model = run.arithmetic.place_model(model) if placed else model.to(run.arithmetic.device)
    return model, build_optimizer(model, config.train.optimizer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/<class>/<picture>")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--image-size-px", type=int, default=128)
    parser.add_argument("--longest-px", type=int, help="longer side of the files; 500 is that of CUB's")
    parser.add_argument("--n-images", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--loader-only", action="store_true")
    parser.add_argument("--plain", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ATTNSEARCH_CACHE"] = str(Path(folder) / "cache")
        take_subset(arguments.data, Path(folder) / "data", arguments.n_images, arguments.longest_px)
        compare(Path(folder) / "data", arguments)


if __name__ == "__main__":
    main()
