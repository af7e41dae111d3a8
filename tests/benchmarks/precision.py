"""Accuracy of bf16 against fp32 after equal epochs: the same runs in both, seed by seed, difference with its interval.

python tests/benchmarks/precision.py --seeds 8 data.part_scale=0.8
python tests/benchmarks/precision.py --profile photos --study cnn --seeds 5 data.root=PHOTOS
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import os
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from scipy import stats

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import load_study, with_settings


def measure(job: tuple[str, str, int]) -> tuple[str, int, float, float]:
    """(precision, seed, accuracy of the kept epoch, mean accuracy of the last three epochs) on validation."""
    from attnsearch.data.loader import open_data
    from attnsearch.search.single import SingleContext
    from attnsearch.store.records import read_csv
    from attnsearch.training.run import fit

    text, precision, seed = job
    base = ExperimentConfig.model_validate_json(text)
    config = with_settings(base, {"train.precision": precision, "seed": seed, "runtime.n_threads": 1})
    with tempfile.TemporaryDirectory() as folder:
        context = SingleContext(seed, Path(folder), lambda: False)
        result = fit(config, context, data=open_data(config.data))
        last = read_csv(Path(folder) / "epochs.csv")["val_accuracy"].tail(3).mean()
    return precision, seed, result.metrics["val/accuracy"], float(last)


def interval(differences: list[float]) -> tuple[float, float]:
    """Mean and half width of the 95 % interval of paired differences (Student's t)."""
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.mean(differences), float(stats.t.ppf(0.975, len(differences) - 1)) * error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="br_npa_low_res")
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    text = load_study(
        arguments.study, profile=arguments.profile, overrides=arguments.overrides
    ).experiment.model_dump_json()
    jobs = [(text, precision, seed) for seed, precision in itertools.product(range(arguments.seeds), ("bf16", "fp32"))]
    found: dict[tuple[str, int], tuple[float, float]] = {}
    with ProcessPoolExecutor(arguments.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for precision, seed, kept, last in pool.map(measure, jobs):
            found[precision, seed] = (kept, last)
            print(json.dumps({"precision": precision, "seed": seed, "kept": kept, "last_three": last}), flush=True)
    for index, name in enumerate(("kept epoch", "mean of the last three epochs")):
        of = {p: [found[p, seed][index] for seed in range(arguments.seeds)] for p in ("bf16", "fp32")}
        mean, half = interval([a - b for a, b in zip(of["bf16"], of["fp32"], strict=True)])
        print(
            f"{name}: bf16 {statistics.mean(of['bf16']):.4f}, fp32 {statistics.mean(of['fp32']):.4f}, "
            f"difference {mean:+.4f} +- {half:.4f} (95 %, {arguments.seeds} seeds)"
        )


if __name__ == "__main__":
    main()
