"""Does a confirmation say the same with other seeds: of two settings that differ, and of two that hardly do?

    python tests/benchmarks/confirm.py build/confirm

Two searches of two settings each, on four species of synthetic birds: learning rates of 3e-3 and 1e-5, and of 3e-3 and
2.8e-3. Each is confirmed twice under different names, so that all seeds differ.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from attnsearch.config.load import LoadedStudy, load_study
from attnsearch.config.study import Confirm
from attnsearch.results import reader
from attnsearch.results.selection import confirmation_lines
from attnsearch.search.confirm import confirm_study
from attnsearch.search.run import SearchOutcome, run_study

OVERRIDES = (
    *("data.n_classes=4", "data.n_train_per_class=24", "data.n_val_per_class=40", "data.n_test_per_class=4"),
    *("data.picture_px=48", "data.image_size_px=32", "model.width=0.25", "train.epochs=8", "train.batch_size=8"),
    *("train.precision=fp32", "evaluation.scores.families=[]", "n_trials=2", "n_workers=1"),
    "space={train.optimizer.lr: {kind: float, low: 1e-5, high: 1e-2, log: true}}",
)
PAIRS = {"clear": (3e-3, 1e-5), "open": (3e-3, 2.8e-3)}
SEEDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    root = parser.parse_args().folder / "results"

    def run(study: LoadedStudy) -> SearchOutcome:
        return run_study(study, root=root, n_workers=0)

    for name, rates in PAIRS.items():
        points = ", ".join(f"{{train.optimizer.lr: {rate}}}" for rate in rates)
        overrides = [*OVERRIDES, f"name={name}", f"enqueue=[{points}]"]
        ended = run(load_study("br_npa_low_res", profile="demo", overrides=overrides))
        for repetitions in (f"{name}_confirm", f"{name}_again"):
            confirm_study(ended.plan.loaded, ended.plan.layout, Confirm(top=2, seeds=SEEDS), run, name=repetitions)
            study = reader.load_study(ended.plan.layout.study_dir)
            values = {row.number: round(row.values[0], 3) for row in study.rows.trials}
            print(f"{name}, learning rates {rates}, accuracy of the search {values}, {repetitions}:", flush=True)
            assert study.confirmation is not None
            print(*confirmation_lines(study.confirmation), sep="\n", flush=True)


if __name__ == "__main__":
    main()
