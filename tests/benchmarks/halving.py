"""Halving against no pruning, live: what a search spends and what it finds, by seeds.

    PYTHONPATH=. python tests/benchmarks/halving.py --seeds 3 --data PHOTOS
    PYTHONPATH=. python tests/benchmarks/halving.py br_npa loupe --seeds 1
    PYTHONPATH=. python tests/benchmarks/halving.py loupe_pareto --epochs 8 --pruners none

`br_npa`, `loupe` and `photos` are the studies of `tests/benchmarks/curves/` with TPE and nets of half their width, the
first two on the birds of the demo profile, the last at 48 px; `--hard` leaves nets, birds and photographs as they are
there. `loupe_pareto` searches under the demo profile, in bf16 and with half the width too; its value is the volume that
the front covers of accuracy x relevance gain x (1 - sparsity), out of 1.
Each search ends with a line in ROOT/searches.jsonl; a search that has one is not run again, one that was interrupted
continues, and then its seconds are not known. PHOTOS is a folder of photographs by class.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from attnsearch.cli.search import processor_seconds
from attnsearch.config.load import LoadedStudy, load_study
from attnsearch.metrics.statistics import hypervolume
from attnsearch.search.run import run_study
from attnsearch.search.trials import StudyRows, read_study
from tests.benchmarks.curves import FOLDER, NAMES

FRONT, ON_PHOTOS = "loupe_pareto", "photos"
N_TRIALS = {FRONT: 24}
NARROW = "model.width=0.25"
DEMO_BIRDS = (NARROW, "data.n_train_per_class=100", "data.n_val_per_class=80", "data.part_scale=1.4")
EASIER = {
    "br_npa": DEMO_BIRDS,
    "loupe": DEMO_BIRDS,
    ON_PHOTOS: (NARROW, "data.image_size_px=48"),
    FRONT: (NARROW, "train.precision=bf16"),
}
PRUNERS = {"none": "null", "halving": "halving"}
Point = tuple[float, ...]


@dataclass(frozen=True)
class Search:
    """One search that has ended.

    Attributes:
        value: accuracy of the best trial, or volume of the front.
        n_best: trials on the front; 1 with one objective.
        seconds: wall time, and processor time of all processes; NaN for a search that was interrupted.
    """

    study: str
    seed: int
    pruner: str
    epochs: int
    n_complete: int
    value: float
    n_best: int
    seconds: float
    processor_seconds: float


def gains(rows: StudyRows) -> list[Point]:
    """The complete trials with all objectives turned so that more is better, and sparsity counted from a flat map."""
    signs = [1.0 if direction == "maximize" else -1.0 for direction in rows.objectives.values()]
    offsets = [0.0 if sign > 0 else 1.0 for sign in signs]
    return [
        tuple(offset + sign * value for offset, sign, value in zip(offsets, signs, trial.values, strict=True))
        for trial in rows.complete
    ]


def study_of(name: str, *, seed: int, pruner: str, overrides: Sequence[str]) -> LoadedStudy:
    """The settings of one search."""
    settings = [f"name={name}_{pruner}_{seed}", f"seed={seed}", f"pruner={PRUNERS[pruner]}", *overrides]
    if name == FRONT:
        return load_study(FRONT, profile="demo", overrides=settings)
    return load_study(str(FOLDER / f"{name}.yaml"), overrides=["sampler={name: tpe}", *settings])


def run(name: str, loaded: LoadedStudy, *, seed: int, pruner: str, root: Path) -> Search:
    """Runs one search to its end."""
    is_new = not list(root.glob(f"*/{loaded.study.name}/study.yaml"))
    began, used = time.monotonic(), processor_seconds()
    ended = run_study(loaded, root=root)
    seconds, used = time.monotonic() - began, processor_seconds() - used
    if ended.outcome != "finished":
        raise SystemExit(f"{loaded.study.name}: {ended.outcome}; start again to continue")
    rows = read_study(ended.plan.url, loaded.study.name)
    points = gains(rows)
    return Search(
        study=name,
        seed=seed,
        pruner=pruner,
        epochs=sum(trial.epochs_run for trial in rows.trials),
        n_complete=len(points),
        value=hypervolume(np.array(points)) if len(rows.objectives) > 1 else max(points)[0],
        n_best=len(rows.best),
        seconds=round(seconds, 1) if is_new else float("nan"),
        processor_seconds=round(used, 1) if is_new else float("nan"),
    )


def line_of(one: Search) -> str:
    front = f", front of {one.n_best}" if one.study == FRONT else ""
    return (
        f"{one.study}, seed {one.seed}, {one.pruner:7}: {one.epochs:5} epochs, {one.n_complete:2} complete{front}, "
        f"{one.value:.4f}, {one.seconds:.0f} s, {one.processor_seconds:.0f} s of processor time"
    )


def paired_line(study: str, searches: Sequence[Search]) -> str | None:
    """Halving against no pruning over the seeds that have both; None without any."""
    found = {(one.pruner, one.seed): one for one in searches if one.study == study}
    seeds = sorted({seed for _, seed in found if all((pruner, seed) in found for pruner in PRUNERS)})
    if not seeds:
        return None
    none, halved = ([found[pruner, seed] for seed in seeds] for pruner in ("none", "halving"))
    differences = np.array([b.value - a.value for a, b in zip(none, halved, strict=True)])
    error = differences.std(ddof=1) / np.sqrt(len(seeds)) if len(seeds) > 1 else float("nan")
    ratios = [
        sum(getattr(one, key) for one in none) / sum(getattr(one, key) for one in halved)
        for key in ("epochs", "seconds", "processor_seconds")
    ]
    if study == FRONT:
        share = 100 * differences / np.array([one.value for one in none])
        value = f"volume {share.mean():+.2f} % (worst seed {share.min():+.2f} %)"
    else:
        mean, worst = 100 * differences.mean(), 100 * differences.min()
        value = f"best {mean:+.2f} +- {100 * error:.2f} points (worst seed {worst:+.2f})"
    return (
        f"{study}: {ratios[0]:.2f} x fewer epochs, {ratios[1]:.2f} x less time, {ratios[2]:.2f} x less processor time, "
        f"{value}, {len(seeds)} seeds"
    )


def read_ended(record: Path) -> list[Search]:
    """The searches of earlier starts that came to their end."""
    return [Search(**json.loads(line)) for line in record.read_text().splitlines()] if record.exists() else []


def run_all(arguments: argparse.Namespace, ended: list[Search], record: Path) -> None:
    """Runs every search that has not ended before, all pruners of a seed one after the other; appends to `ended`."""
    known = {(one.study, one.seed, one.pruner) for one in ended}
    keys = product(range(1, arguments.seeds + 1), arguments.studies, arguments.pruners)
    for seed, name, pruner in keys:
        if (name, seed, pruner) in known:
            continue
        n_trials = arguments.trials or N_TRIALS.get(name, 25)
        overrides = [f"n_trials={n_trials}", f"train.epochs={arguments.epochs}", f"n_workers={arguments.workers}"]
        if name == ON_PHOTOS:
            overrides.append(f"data.root={arguments.data}")
        if not arguments.hard:
            overrides += EASIER[name]
        loaded = study_of(name, seed=seed, pruner=pruner, overrides=overrides)
        ended.append(run(name, loaded, seed=seed, pruner=pruner, root=arguments.root))
        with record.open("a") as file:
            file.write(json.dumps(vars(ended[-1])) + "\n")
        print(line_of(ended[-1]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", default=[*NAMES, FRONT])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, help="25; 24 of the front")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pruners", nargs="*", default=list(PRUNERS), choices=list(PRUNERS))
    parser.add_argument("--hard", action="store_true", help="nets and images as the curves were recorded with")
    parser.add_argument("--data", type=Path, help="folder of photographs; without it they are left out")
    parser.add_argument("--root", type=Path, default=Path("build/halving"), help="results folder")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if arguments.data is None and ON_PHOTOS in arguments.studies:
        print(f"{ON_PHOTOS}: left out, for want of --data")
        arguments.studies.remove(ON_PHOTOS)
    record = arguments.root / "searches.jsonl"
    ended = read_ended(record)
    run_all(arguments, ended, record)
    print("\nall searches that have ended:", *map(line_of, ended), sep="\n")
    print(*filter(None, [paired_line(name, ended) for name in arguments.studies]), sep="\n")


if __name__ == "__main__":
    main()
