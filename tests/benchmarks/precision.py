"""Accuracy of bf16 against fp32 after equal epochs: the same runs in both, seed by seed, difference with its interval.

python tests/benchmarks/precision.py --seeds 8 data.part_scale=0.8
python tests/benchmarks/precision.py --profile photos --study cnn --seeds 5 data.root=PHOTOS
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from runs import Outcome, interval, make_job, run_all

from attnsearch.config.yaml_reader import read_overrides

PRECISIONS = ("bf16", "fp32")


def last_three(outcome: Outcome) -> float:
    return statistics.mean(outcome.curve[-3:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="br_npa_low_res")
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    settings = read_overrides(arguments.overrides).values
    found: dict[tuple[str, int], Outcome] = {}
    with tempfile.TemporaryDirectory() as folder:
        jobs = [
            make_job(arguments.study, arguments.profile, p, seed, {**settings, "train.precision": p}, Path(folder))
            for seed in range(arguments.seeds)
            for p in PRECISIONS
        ]
        for run in run_all(jobs, arguments.workers):
            found[run.label, run.seed] = run
            said = {"precision": run.label, "seed": run.seed, "kept": run.accuracy, "last_three": last_three(run)}
            print(json.dumps(said), flush=True)
    measures = {"best epoch": lambda run: run.accuracy, "mean of the last three epochs": last_three}
    for name, measure in measures.items():
        of = {p: [measure(found[p, seed]) for seed in range(arguments.seeds)] for p in PRECISIONS}
        mean, half = interval([a - b for a, b in zip(of["bf16"], of["fp32"], strict=True)])
        print(
            f"{name}: bf16 {statistics.mean(of['bf16']):.4f}, fp32 {statistics.mean(of['fp32']):.4f}, "
            f"difference {mean:+.4f} +- {half:.4f} (95 %, {arguments.seeds} seeds)"
        )


if __name__ == "__main__":
    main()
