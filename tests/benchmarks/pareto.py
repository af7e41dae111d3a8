"""How much of the volume does the front of a search cover, by seeds? The Loupe's three objectives.

python tests/benchmarks/pareto.py --seeds 3

Each seed searches `loupe_pareto` under the demo profile. Printed are the epochs that were trained, and the volume that
the front covers of accuracy x relevance gain x (1 - sparsity), out of 1.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from attnsearch.config.load import load_study
from attnsearch.search.run import run_study
from attnsearch.search.trials import StudyRows, read_study

STUDY, REFERENCE = "loupe_pareto", (0.0, 0.0, 0.0)
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


def volume(points: Iterable[Point], reference: Sequence[float]) -> float:
    """What the boxes between the points and the reference cover together, in any number of objectives.

    Slices along the last objective: between two of its levels, only the points above take part.
    """
    above = [point for point in points if all(value > low for value, low in zip(point, reference, strict=True))]
    if not above:
        return 0.0
    if len(reference) == 1:
        return max(point[0] for point in above) - reference[0]
    levels = sorted({point[-1] for point in above})
    total = 0.0
    for low, high in zip([reference[-1], *levels], levels, strict=False):
        total += (high - low) * volume([point[:-1] for point in above if point[-1] >= high], reference[:-1])
    return total


def search(seed: int, *, overrides: Sequence[str], root: Path) -> Outcome:
    """Runs one search to its end."""
    loaded = load_study(STUDY, profile="demo", overrides=[f"seed={seed}", f"name={STUDY}_{seed}", *overrides])
    plan = run_study(loaded, root=root).plan
    rows = read_study(plan.url, loaded.study.name)
    points = gains(rows)
    epochs = sum(trial.epochs_run for trial in rows.trials)
    return Outcome(len(points), len(rows.best), epochs, volume(points, REFERENCE))


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
