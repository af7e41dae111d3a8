"""What the sparsity weight of The Loupe does: mean gate and accuracy over weights and seeds, beside the plain backbone.

python tests/benchmarks/loupe_sparsity.py --seeds 3
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

from runs import Job, Outcome, make_job, run_all

WEIGHTS = (0.0, 0.005, 0.05, 0.1, 0.2)
PLAIN = "plain backbone"


def make_jobs(seeds: int, profile: str, folder: Path) -> list[Job]:
    jobs = []
    for seed in range(seeds):
        jobs.append(make_job("loupe_baseline", profile, PLAIN, seed, {}, folder))
        for weight in WEIGHTS:
            settings = {"model.has_sparsity": weight > 0, **({"model.sparsity_weight": weight} if weight else {})}
            jobs.append(make_job("loupe", profile, f"{weight:g}", seed, settings, folder))
    return jobs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    found: dict[str, list[Outcome]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for outcome in run_all(make_jobs(arguments.seeds, arguments.profile, Path(folder)), arguments.workers):
            found[outcome.label].append(outcome)
    print(f"sparsity weight: mean gate, validation accuracy (each seed); {arguments.seeds} seeds")
    for label in (*(f"{weight:g}" for weight in WEIGHTS), PLAIN):
        runs = sorted(found[label], key=lambda run: run.seed)
        gate = "-" if label == PLAIN else f"{statistics.mean(run.mean_map for run in runs):.4f}"
        each = " ".join(f"{run.accuracy:.4f}" for run in runs)
        print(f"  {label}: {gate}, {statistics.mean(run.accuracy for run in runs):.4f} ({each})")


if __name__ == "__main__":
    main()
