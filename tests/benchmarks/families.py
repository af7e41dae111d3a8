"""All families side by side: accuracy, what their maps are worth, and the floors of both.

    python tests/benchmarks/part_truth.py train build/truth
    python tests/benchmarks/families.py build/truth/results/truth t_cnn t_b_cnn t_br_npa t_loupe t_intr

Of each study the trial of the best validation accuracy is scored on 128 validation images: relevance gain, decision
gain and SD_swap of its own map, with 95 % intervals; beside the gains those of random and of centre maps of the same
model. The last columns are of the same network with random weights and its own map.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

from localisation import wilson

from attnsearch.config.evaluation import ScoreSettings
from attnsearch.config.load import load_experiment, with_settings
from attnsearch.data.loader import open_data
from attnsearch.evaluation.base import run_split, untrained
from attnsearch.evaluation.evaluation import Evaluation
from attnsearch.evaluation.score_archive import score_archive
from attnsearch.metrics.statistics import mean_interval
from attnsearch.results.reader import load_study
from attnsearch.store.image_scores import ScoreTable
from attnsearch.store.trial_layout import TrialLayout

GAINS = ("relevance_gain", "decision_gain")
OF_FLOORS = ScoreSettings(families=("faithfulness",), n_images=128)
OF_MODELS = ScoreSettings(families=("faithfulness", "parts"), n_images=128)
FLOORS = ("random", "centre")
HEAD = (
    *("family", "map", "accuracy", "relevance gain", "random, centre", "decision gain", "random, centre"),
    *("SD_swap", "untrained: accuracy", "relevance gain"),
)


def shown(table: ScoreTable, name: str) -> str:
    """The mean of a score with its interval; a gain that is undefined with the drop that is too small."""
    if name in table.undefined_gains():
        return f"undefined, mean drop {table.mean_drop(name):.3f}"
    interval = mean_interval(table.values[name])
    return f"{interval.mean:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def number(table: ScoreTable, name: str) -> str:
    mean = table.means()[name]
    return "undefined" if math.isnan(mean) else f"{mean:.3f}"


def row_of(study_folder: Path) -> list[str]:
    """The cells of one family."""
    study = load_study(study_folder)
    best = max(study.rows.trials, key=lambda row: row.metrics.get("val/accuracy", -1.0))
    files = study.layout.trial(best.number)
    config = with_settings(load_experiment(str(files.config)), {"runtime.n_threads": 1})
    archive = files.archive("val")
    with (
        tempfile.TemporaryDirectory() as folder,
        Evaluation.open(files.best, open_data(config.data), config=config) as evaluation,
    ):
        own = evaluation.score(archive, TrialLayout(Path(folder) / "own").scores("val"), settings=OF_MODELS)
        floors = evaluation.baselines(archive, FLOORS, settings=OF_FLOORS)
        blank, other = untrained(evaluation), TrialLayout(Path(folder) / "untrained")
        accuracy = run_split(blank, "val", archive=other.archive("val"))["val/accuracy"]
        of_blank = score_archive(blank, other.archive("val"), other.scores("val"), settings=OF_FLOORS)
        n_images = len(evaluation.table("val"))
    low, high = wilson(best.metrics["val/accuracy"], n_images)
    rows, columns = own.about["grid"]
    cells = [config.model.name, f"{rows} x {columns}"]
    cells.append(f"{best.metrics['val/accuracy']:.3f} ({low:.3f} to {high:.3f})")
    for name in GAINS:
        cells += [shown(own, name), ", ".join(number(floors[floor], name) for floor in FLOORS)]
    return [*cells, shown(own, "sd_swap"), f"{accuracy:.3f}", shown(of_blank, "relevance_gain")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path, help="folder of an experiment, such as results/demo")
    parser.add_argument("studies", nargs="+")
    arguments = parser.parse_args()
    print("| " + " | ".join(HEAD) + " |\n" + "| --- " * len(HEAD) + "|")
    for name in arguments.studies:
        print("| " + " | ".join(row_of(arguments.experiment / name)) + " |", flush=True)


if __name__ == "__main__":
    main()
