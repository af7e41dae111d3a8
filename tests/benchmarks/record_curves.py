"""Records training curves for `replay.py`: random searches without pruning, and their curves as JSON lines.

    PYTHONPATH=. python tests/benchmarks/record_curves.py record --root build/curves --data PHOTOS --settings 40
    PYTHONPATH=. python tests/benchmarks/record_curves.py export --root build/curves

`record` takes hours and continues where it was stopped; with fewer `--settings` first and more later it goes in pieces.
`export` may run meanwhile: it reads complete trials only, and writes nothing to the results. PHOTOS is a folder of
photographs by class, as `data.name=folder` takes it. Without names all pools are recorded, the photographs only with
`--data`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attnsearch.config.load import load_study
from attnsearch.errors import ConfigError
from attnsearch.files import atomic_write
from attnsearch.results.reader import find_study
from attnsearch.results.study import StudyReader
from attnsearch.search.run import run_study
from attnsearch.types import HALVES
from tests.benchmarks.curves import FOLDER, NAMES, Curve, path_of

ON_PHOTOS = "photos"


def record(names: Sequence[str], *, root: Path, n_settings: int, data: Path | None) -> None:
    """Runs the searches until each has so many trainings."""
    for name in names:
        overrides = [f"n_trials={n_settings}"]
        if name == ON_PHOTOS:
            if data is None:
                print(f"{name}: not recorded, for want of --data", flush=True)
                continue
            overrides.append(f"data.root={data}")
        ended = run_study(load_study(str(FOLDER / f"{name}.yaml"), overrides=overrides), root=root)
        print(f"{name}: {ended.outcome}", flush=True)


def curves_of(study: StudyReader) -> list[Curve]:
    """The curves of the complete trials of a study that may still be running, by number."""
    rows = {row.number: row for row in study.rows.complete}
    curves = []
    for number, frame in sorted(study.epochs_of(list(rows)).items()):
        n_images = int(frame["val/n_images"].iloc[0])
        halves = frame[[f"val/accuracy{half}" for half in HALVES]].to_numpy()  # (E, 2)
        sizes = half_sizes(frame["val/accuracy"].to_numpy(), halves, n_images)
        curves.append(
            Curve(
                number=number,
                seed=study.trial(number).config.seed,
                settings=dict(rows[number].params),
                n_images=sizes,
                correct=[(int(first), int(second)) for first, second in (halves * sizes).round()],
                loss=[float(f"{value:.4g}") for value in frame["val/loss"]],
                seconds=round(rows[number].seconds, 1),
            )
        )
    return curves


def half_sizes(accuracy: NDArray[np.float64], halves: NDArray[np.float64], n_images: int) -> tuple[int, int]:
    """Images of the two halves of validation, from accuracies (E,) on all of it and (E, 2) on the halves.

    A half has half of each class, so that its size may differ from half of the images by as many as there are classes.
    """
    for first in sorted(range(1, n_images), key=lambda one: abs(2 * one - n_images)):
        right = halves * (first, n_images - first)
        is_whole = abs(right - right.round()).max() < 1e-6
        if is_whole and abs(right.sum(axis=1) / n_images - accuracy).max() < 1e-9:
            return first, n_images - first
    raise ValueError(f"the accuracy on {n_images} images is not that of two halves")


def export(names: Sequence[str], *, root: Path) -> None:
    """Writes a file for each study that has complete trials."""
    for name in names:
        try:
            curves = curves_of(find_study(f"curves_{name}", root))
        except ConfigError as error:
            print(f"{name}: {error}")
            continue
        if curves:
            atomic_write(path_of(name), "".join(f"{curve.line}\n" for curve in curves))
        print(f"{name}: {len(curves)} settings, {path_of(name) if curves else 'nothing written'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["record", "export"])
    parser.add_argument("names", nargs="*", default=list(NAMES), help=f"pools out of {', '.join(NAMES)}")
    parser.add_argument("--root", type=Path, default=Path("build/curves"), help="results folder of the searches")
    parser.add_argument("--settings", type=int, default=40, help="trainings of each search")
    parser.add_argument("--data", type=Path, help="folder of photographs")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if arguments.command == "record":
        record(arguments.names, root=arguments.root, n_settings=arguments.settings, data=arguments.data)
    else:
        export(arguments.names, root=arguments.root)


if __name__ == "__main__":
    main()
