"""What search and store cost per trial, and whether a worker's memory stays flat.

    python tests/benchmarks/overhead.py [--n-trials 20]

Runs one worker in this process over many short trials (two epochs of the demo's size) and times what is neither
training nor evaluation: asking, telling, database, list of files, dashboard images. Prints seconds per trial, their
fraction of a demo trial, and anonymous resident memory after each trial.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attnsearch.config.load import load_study
from attnsearch.device import anonymous_mb
from attnsearch.search import worker as module
from attnsearch.search.context import SearchContext, Worker
from attnsearch.search.plan import SearchPlan
from attnsearch.search.worker import run_worker


class Spent:
    """Adds up the seconds of the functions that it wraps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **keywords: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                self.seconds += time.perf_counter() - start

        return timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--demo-trial-s", type=float, help="seconds of one demo trial, to print the fraction")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    training, memory, totals = Spent(), list[float](), list[float]()
    module.fit = training.wrap(module.fit)
    module.evaluate_best = training.wrap(module.evaluate_best)
    inside = Spent()  # what the context does while `fit` runs belongs to the search, not to the training
    for name in ("record", "report", "should_prune", "check"):
        setattr(SearchContext, name, inside.wrap(getattr(SearchContext, name)))
    run_claim = module.run_claim

    def watched(*arguments: Any) -> None:
        run_claim(*arguments)
        memory.append(anonymous_mb())
        totals.append(time.perf_counter())

    module.run_claim = watched
    overrides = [f"n_trials={arguments.n_trials}", f"train.epochs={arguments.epochs}", *arguments.overrides]
    with tempfile.TemporaryDirectory() as folder:
        plan = SearchPlan.check(load_study("br_npa_low_res", profile="demo", overrides=overrides), Path(folder))
        data, handle = plan.open_data(), plan.open()
        start = time.perf_counter()
        run_worker(handle, Worker("here:0:a", None), data)
        elapsed = time.perf_counter() - start
        handle.database.close()
    overhead = (elapsed - training.seconds + inside.seconds) / arguments.n_trials
    per_trial = [after - before for before, after in itertools.pairwise(totals)]
    print(f"trials {arguments.n_trials} of {arguments.epochs} epochs, median {statistics.median(per_trial):.2f} s each")
    print(f"search and store: {overhead:.3f} s per trial")
    if arguments.demo_trial_s:
        print(f"fraction of a demo trial of {arguments.demo_trial_s:.1f} s: {overhead / arguments.demo_trial_s:.2%}")
    third, last = memory[2], memory[-1]
    print("RssAnon after each trial, MB: " + " ".join(f"{mb:.0f}" for mb in memory))
    print(f"from the third ({third:.0f} MB) to the last ({last:.0f} MB): {last / third - 1:+.1%}")


if __name__ == "__main__":
    main()
