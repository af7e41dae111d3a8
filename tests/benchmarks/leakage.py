"""Do the features that a map weighs stay where their part is, family by family, against random weights?

    for family in br_npa_low_res loupe intr_cub; do
        attnsearch train $family --profile demo
    done
    python tests/benchmarks/leakage.py results/demo br_npa_low_res loupe intr_cub

Each name is a study of the experiment, whose best trial is measured, or `STUDY:TRIAL`. Printed are the grid of the map,
the accuracy on validation, the mean skill of a linear probe at a part's own cells and at those of other parts, and
their locality, each beside that of random weights; then how often decisions stand on the cells with 80 % of the map
alone, beside as many random cells. The tables of skills part by part lie beside each trial's scores.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from attnsearch.results.full_scores import target_of
from attnsearch.results.leakage import measure_target
from attnsearch.results.reader import load_study
from attnsearch.results.trial import TrialReader

HEAD = ("trial", "grid", "accuracy", "own", "leak", "locality", "by map", "by random", "cells")


def chosen_trials(experiment: Path, names: list[str]) -> Iterator[TrialReader]:
    """The trials of the names, `STUDY` or `STUDY:TRIAL`."""
    for name in names:
        study_name, _, number = name.partition(":")
        study = load_study(experiment / study_name)
        yield study.trial(int(number)) if number else study.best


def row_of(trial: TrialReader, n_images: int) -> tuple[str, ...]:
    """What is measured of one trial on validation; that of random weights is in brackets."""
    measured, _ = measure_target(target_of(trial.study, trial.number), (), n_images=n_images)
    trained, floor, decisions = measured.trained, measured.untrained, measured.decisions
    rows, columns = trial.archive("val").saliency.shape[1:]
    accuracy = trial.metrics["val/accuracy"]
    pairs = [(getattr(trained, name), getattr(floor, name)) for name in ("own", "leak", "locality")]
    kept = (decisions.by_map, decisions.by_random, decisions.fraction_of_cells)
    return (
        f"{trial.study.name}:{trial.number}",
        f"{rows} x {columns}",
        f"{accuracy:.3f}",
        *(f"{one:.3f} ({other:.3f})" for one, other in pairs),
        *(f"{value:.3f}" for value in kept),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path, help="folder of an experiment, such as results/demo")
    parser.add_argument("names", nargs="+", help="STUDY, or STUDY:TRIAL")
    parser.add_argument("--images", type=int, default=320, help="of validation, that are drawn again")
    arguments = parser.parse_args()
    print("| " + " | ".join(HEAD) + " |\n" + "| --- " * len(HEAD) + "|")
    for trial in chosen_trials(arguments.experiment, arguments.names):
        print("| " + " | ".join(row_of(trial, arguments.images)) + " |", flush=True)


if __name__ == "__main__":
    main()
