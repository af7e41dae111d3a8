"""How much of the volume does the front of a search cover, by seeds? The Loupe's three objectives.

python tests/benchmarks/pareto.py --seeds 3

Each seed searches `loupe_pareto` under the demo profile. Printed are the epochs that were trained, and the volume that
the front covers of accuracy x relevance gain x (1 - sparsity), out of 1.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from attnsearch.config.load import load_study
from attnsearch.metrics.statistics import hypervolume
from attnsearch.search.run import run_study
from attnsearch.search.trials import StudyRows, read_study

STUDY = "loupe_pareto"
Point = tuple[float, ...]


@dataclass(frozen=True)
class Outcome:
    """One search; `volume` is that of its front."""

    n_complete: int
    n_front: int
    epochs: int
    volume: float


def gains(rows: StudyRows) -> list[Point]:
    """The complete trials with all objectives turned so that more is better, and sparsity counted from a flat map."""
    signs = [1.0 if direction == "maximize" else -1.0 for direction in rows.objectives.values()]
    offsets = [0.0 if sign > 0 else 1.0 for sign in signs]
    complete = [trial for trial in rows.trials if trial.state == "complete"]
    return [
        tuple(offset + sign * value for offset, sign, value in zip(offsets, signs, trial.values, strict=True))
        for trial in complete
    ]


def search(seed: int, *, overrides: Sequence[str], root: Path) -> Outcome:
    """Runs one search to its end."""
    loaded = load_study(STUDY, profile="demo", overrides=[f"seed={seed}", f"name={STUDY}_{seed}", *overrides])
    plan = run_study(loaded, root=root).plan
    rows = read_study(plan.url, loaded.study.name)
    points = gains(rows)
    epochs = sum(trial.epochs_run for trial in rows.trials)
    return Outcome(len(points), len(rows.best), epochs, hypervolume(np.array(points).reshape(-1, len(rows.objectives))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--root", type=Path, default=Path("results/pareto"))
    parser.add_argument("overrides", nargs="*", help="key=value settings of the study")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    overrides = [f"n_trials={arguments.trials}", *arguments.overrides]
    for seed in range(1, arguments.seeds + 1):
        one = search(seed, overrides=overrides, root=arguments.root)
        print(
            f"seed {seed}: {one.epochs} epochs, {one.n_complete} complete, front of {one.n_front}, "
            f"volume {one.volume:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
