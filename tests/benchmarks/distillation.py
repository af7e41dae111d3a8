"""Does a low-resolution teacher help the high-resolution BR-NPA? The same runs with and without it, seed by seed.

python tests/benchmarks/distillation.py --seeds 3
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from pathlib import Path

from runs import Job, Outcome, interval, make_job, run_all


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--interpolation", type=float, default=0.5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        teacher_job = make_job("br_npa_low_res", arguments.profile, "teacher", 0, {}, Path(folder))
        teacher = next(run_all([teacher_job], 1))
        print(f"teacher: {teacher.accuracy:.4f}", flush=True)
        runs = sorted(run_all(students(arguments, teacher, Path(folder)), arguments.workers), key=lambda run: run.seed)
    found: dict[str, list[Outcome]] = defaultdict(list)
    for run in runs:
        found[run.label].append(run)
        curve = " ".join(f"{accuracy:.3f}" for accuracy in run.curve)
        print(f"{run.label}, seed {run.seed}: {run.accuracy:.4f}; by epoch {curve}")
    pairs = zip(found["distilled"], found["plain"], strict=True)
    mean, half = interval([distilled.accuracy - plain.accuracy for distilled, plain in pairs])
    print(f"distilled minus plain: {mean:+.4f} +- {half:.4f} (95 %, {arguments.seeds} seeds)")


def students(arguments: argparse.Namespace, teacher: Outcome, folder: Path) -> list[Job]:
    settings = {
        "train.teacher": {
            "checkpoint": str(teacher.best),
            "temperature": arguments.temperature,
            "interpolation": arguments.interpolation,
        }
    }
    return [
        make_job("br_npa_high_res", arguments.profile, label, seed, changed, folder)
        for seed in range(arguments.seeds)
        for label, changed in (("plain", {}), ("distilled", settings))
    ]


if __name__ == "__main__":
    main()
