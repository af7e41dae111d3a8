"""What the trainer makes of a GPU, in one table; without a GPU it tells that there is none and ends.

    PYTHONPATH=. python tests/benchmarks/gpu_path.py [--json] [--only training|sharing|faithfulness] [--cases NAME ...]

Training, for each case: images/s of our epoch, of timm's loader and loop on the same model, size, precision and
optimizer (`train_epoch.py`), and of the same steps on one resident batch, in turns, the best of `--repeats` after one
that warms up; waits for the device per step by line (`set_sync_debug_mode`) and by the profiler, which also sees copies
from pageable memory; the fraction of the time in which kernels run; how long the trainer stands still for a checkpoint.
Sharing: trials per hour of the demo study with 1, 2, 4 and 8 trials on the GPU. Faithfulness: deletion and insertion in
batches against one image and one step at a time. Images are made on the spot. The device's settings stay as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.data.loader import open_data
from attnsearch.device import describe_device, release_memory
from attnsearch.search.slots import has_mps
from attnsearch.training.loop import TrainingSetup, train_epoch
from attnsearch.training.setup import build_run
from attnsearch.training.state import TrainingState, copy_checkpoints
from tests.benchmarks.train_epoch import Resident, by_turns, model_of, timm_epoch, timm_loader
from tests.tiny import RecordingContext

ROOT = Path(__file__).parents[2]
N_CLASSES, N_BATCHES = 16, 24
SIZE_HW = (375, 500)  # of the images that are made, as photographs of birds
SHARED_BY, TRIALS, EPOCHS = (1, 2, 4, 8), 16, 4
#: What the profiler calls a wait, and a copy from memory that is not pinned.
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "Memcpy HtoD (Pageable", "Memcpy DtoH (Device -> Pageable")


@dataclass(frozen=True)
class Case:
    """One model at one size."""

    model: Mapping[str, Any]
    image_size_px: int
    batch_size: int
    n_batches: int = N_BATCHES


CASES = {
    "resnet50 224": Case({"name": "cnn", "backbone": "resnet50"}, 224, 128),
    "resnet50 448": Case({"name": "cnn", "backbone": "resnet50"}, 448, 32),
    "swin_base 384": Case({"name": "plain", "backbone": "swin_base_patch4_window12_384"}, 384, 32),
    "deit_tiny 448": Case({"name": "dcal", "variant": "sa_only", "backbone": "deit_tiny_patch16_224"}, 448, 64),
    "demo net 96": Case({"name": "cnn", "backbone": "resnet10t", "width": 0.5}, 96, 16, 4 * N_BATCHES),
}
ON_CPU = {"try 64": Case({"name": "cnn", "backbone": "resnet10t", "width": 0.25}, 64, 8, 3)}


def make_images(root: Path, n_images: int) -> None:
    """JPEG files of coarse colours with noise, in class folders, for training and a few for validation."""
    rng = np.random.default_rng(0)
    for index in range(n_images + 2 * N_CLASSES):
        split = "train" if index < n_images else "val"
        coarse = Image.fromarray(rng.integers(256, size=(12, 16, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize(SIZE_HW[::-1], Image.Resampling.BICUBIC), dtype=np.int16)
        noise = rng.integers(-12, 13, size=pixels.shape, dtype=np.int16)
        folder = root / split / f"class_{index % N_CLASSES:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(folder / f"{index}.jpg", quality=90)


def config_of(case: Case, root: Path) -> ExperimentConfig:
    settings = {
        "name": "benchmark",
        "data": {"name": "folder", "root": str(root), "image_size_px": case.image_size_px},
        "model": {"weights": "none", **case.model},
        "train": {"batch_size": case.batch_size, "precision": "auto", "optimizer": {"name": "adamw", "lr": 0.001}},
    }
    return ExperimentConfig.model_validate_json(json.dumps(settings))


def measure_training(case: Case, folder: Path, repeats: int) -> dict[str, Any]:
    """All numbers of one case."""
    config = config_of(case, folder / "images")
    trial = TrainingState(config, RecordingContext(folder / "trial"), open_data(config.data), accumulation=1)
    run = build_run(trial)
    device, n_images = run.arithmetic.device, run.train.n_images
    resident = replace(run, train=Resident(next(run.train.epoch(1)), len(run.train), run.train.table))  # type: ignore[arg-type]
    theirs = timm_loader(folder / "images", config, device)
    sides: dict[str, Callable[[], object]] = {
        "timm": partial(timm_epoch, run, *model_of(run, config), theirs),
        "ours": partial(train_epoch, run, 1, accumulation=1, check=lambda: None),
        "resident": partial(train_epoch, resident, 1, accumulation=1, check=lambda: None),
    }
    costs = by_turns(sides, repeats)
    seconds = {name: cost.wall_s for name, cost in costs.items()}
    found = {f"{name} images/s": round(n_images / cost) for name, cost in seconds.items()}
    return {
        **found,
        "times timm": round(seconds["timm"] / seconds["ours"], 3),
        "fraction of resident": round(seconds["resident"] / seconds["ours"], 3),
        "precision": run.arithmetic.precision,
        "pixels resident": run.train._resident is not None,
        **waits_of(run),
        "checkpoint stall ms": checkpoint_stall_ms(run, trial),
        "peak MB": round(torch.cuda.max_memory_allocated(device) / 1e6) if device.type == "cuda" else None,
    }


def waits_of(run: TrainingSetup) -> dict[str, Any]:
    """Waits of one epoch: how many by line, what the profiler counts of each kind, and the fraction of kernel time.

    Those of the end of the epoch, when its scores are read, are among them.
    """
    epoch = partial(train_epoch, run, 2, accumulation=1, check=lambda: None)
    if run.arithmetic.device.type != "cuda":
        epoch()
        return {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            epoch()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    said = [w for w in caught if "synchroniz" in str(w.message)]
    lines = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in said)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        start = time.perf_counter()
        epoch()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    events = profiler.key_averages()
    kernel_s = sum(event.self_device_time_total for event in events if event.device_type.name == "CUDA") / 1e6
    return {
        "waits per step": round(sum(lines.values()) / len(run.train), 3),
        "waits by line": dict(lines.most_common(12)),
        "profiler": {event.key: event.count for event in events if event.key.startswith(WAITS)},
        "kernel time": round(kernel_s / seconds, 3),
    }


def checkpoint_stall_ms(run: TrainingSetup, trial: TrainingState) -> float:
    """Milliseconds for which training stands still for both checkpoints, the least of five."""
    stalls = []
    for _ in range(5):
        if run.arithmetic.device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        copy_checkpoints(run, trial, is_best=False)
        stalls.append(time.perf_counter() - start)
    return round(1000 * min(stalls), 2)


def trials_per_hour(n_trials_at_once: int, folder: Path) -> dict[str, float]:
    """Of the demo study, with so many trials on the GPU at a time; the end of each, evaluation, included."""
    name = f"by_{n_trials_at_once}"
    command = [
        *(sys.executable, "-m", "attnsearch", "search", "br_npa_low_res", "--profile", "demo"),
        *("--results", str(folder / name), f"n_trials={TRIALS}", "pruner=null", f"n_workers={n_trials_at_once}"),
        *(f"train.epochs={EPOCHS}", f"runtime.trials_per_device={n_trials_at_once}"),
    ]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=500)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(done.stdout[-2000:])
    return {"trials per hour": round(3600 * TRIALS / seconds, 1), "seconds": round(seconds, 1)}


def faithfulness(photos: Path) -> list[str]:
    """What `faithfulness.py` prints."""
    script = Path(__file__).with_name("faithfulness.py")
    command = [sys.executable, str(script), "--photos", str(photos), "--batch-images", "256"]
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=500)
    if done.returncode:
        raise RuntimeError(done.stdout[-2000:])
    return done.stdout.strip().splitlines()


def attempt(work: Callable[[], Any]) -> Any:
    """What it returns, or the error as text: one case that fails keeps no other from being measured."""
    try:
        return work()
    except Exception:
        return {"error": traceback.format_exc()[-1500:]}
    finally:
        release_memory(torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"))


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All that was asked for."""
    cases = ON_CPU if arguments.try_on_cpu else CASES
    chosen = {name: case for name, case in cases.items() if not arguments.cases or name in arguments.cases}
    device = torch.device("cpu") if arguments.try_on_cpu else torch.device("cuda", 0)
    found: dict[str, Any] = {"device": describe_device(device), "torch": torch.__version__, "mps": has_mps()}
    wants = [arguments.only] if arguments.only else ["training", "faithfulness", "sharing"]
    print("making images", flush=True)
    make_images(folder / "images", max(case.n_batches * case.batch_size for case in chosen.values()))
    if "training" in wants:
        found["training"] = {}
        for name, case in chosen.items():
            print(name, flush=True)
            found["training"][name] = attempt(partial(measure_training, case, folder, arguments.repeats))
            print(json.dumps(found["training"][name]), flush=True)
    if "faithfulness" in wants and not arguments.try_on_cpu:
        found["faithfulness"] = attempt(partial(faithfulness, folder / "images" / "val"))
    if "sharing" in wants and not arguments.try_on_cpu:
        attempt(partial(trials_per_hour, 1, folder / "warm-up"))  # draws and decodes the images
        found["sharing"] = {str(n): attempt(partial(trials_per_hour, n, folder)) for n in SHARED_BY}
    return found


def tell(found: Mapping[str, Any]) -> None:
    """Prints the table."""
    print(f"{found['device']}, torch {found['torch']}, MPS {'runs' if found['mps'] else 'does not run'}")
    for name, row in found.get("training", {}).items():
        print(f"{name}: {', '.join(f'{key} {value}' for key, value in row.items())}")
    for n_trials, row in found.get("sharing", {}).items():
        print(f"{n_trials} trials at once: {', '.join(f'{key} {value}' for key, value in row.items())}")
    told = found.get("faithfulness", [])
    print("\n".join(told if isinstance(told, list) else map(str, told.values())))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object; what is told meanwhile goes to stderr")
    parser.add_argument("--only", choices=("training", "sharing", "faithfulness"))
    parser.add_argument("--cases", nargs="*", choices=[*CASES, *ON_CPU])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--try-on-cpu", action="store_true", help="a tiny case, to see that the script itself works")
    arguments = parser.parse_args()
    if not torch.cuda.is_available() and not arguments.try_on_cpu:
        print("torch sees no GPU here: nothing was measured")
        return 0
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        os.environ["ATTNSEARCH_CACHE"] = str(Path(folder) / "cache")
        found = measure(arguments, Path(folder))
    if arguments.json:
        print(json.dumps(found, indent=1))
    else:
        tell(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
