"""Which cheap score predicts what a map really explains: SD_swap, the effect of exchanging single parts?

    python tests/benchmarks/part_truth.py train build/truth        # 41 trials of five families; an hour on two cores
    python tests/benchmarks/part_truth.py measure build/truth      # a minute each, continues where it was cut off
    python tests/benchmarks/part_truth.py table build/truth

The trials sample what moves their maps: learning rates, sparsity weights, numbers of vectors or parts, refinement,
label smoothing. Data: 8 species of synthetic birds of which any two differ in three parts, 100 training images of each.
Every trial is scored as in a search on 128 validation images (seven points), by single deletion, ROAD and
localisation on the same images, and by SD_swap on them too. `table` gives Spearman's correlation of each score with
SD_swap over the trials that learned (accuracy of at least 0.5), with a 95 % interval by bootstrap over trials, pooled
and as the mean of those within each family.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy import stats

from attnsearch.config.evaluation import ScoreSettings
from attnsearch.config.load import load_experiment, with_settings
from attnsearch.data.loader import open_data
from attnsearch.evaluation.evaluation import Evaluation
from attnsearch.files import atomic_write
from attnsearch.metrics.registry import higher_is_better
from attnsearch.store.epochs import read_csv
from attnsearch.store.trial_layout import TrialLayout

EXPERIMENT = "truth"
CHEAP = ("faithfulness", "localisation", "complexity", "road", "idsds")
N_CHEAP, N_PARTS = 128, 128
TRUTH = "sd_swap"
LEAST_ACCURACY = 0.5
SHOWN = (
    *("relevance_gain", "decision_gain", "deletion", "insertion", "road", "idsds"),
    *("saliency_sparsity", "gini", "energy_in_mask"),
)
N_RESAMPLES = 2000


def _log(low: float, high: float) -> dict[str, Any]:
    return {"kind": "float", "low": low, "high": high, "log": True}


_SMOOTHING = {"train.label_smoothing": {"kind": "float", "low": 0, "high": 0.3}}
_LR = {"train.optimizer.lr": _log(5e-4, 5e-3)}
_RESNET = {"backbone": "resnet10t", "width": 0.5, "weights": "none"}
_INTR = {
    **{"frozen_batch_norm": False, "n_encoder_layers": 1, "n_decoder_layers": 2, "d_model": 64, "n_heads": 4},
    **{"feedforward_width": 128, "dropout": 0},
}
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], int]] = {
    "br_npa": (
        {**_RESNET, "stride_stage3": 1, "stride_stage4": 1},
        {
            "model.n_vectors": {"kind": "int", "low": 1, "high": 8},
            "model.refine": {"kind": "choice", "choices": [True, False]},
            **_LR,
        },
        {"epochs": 8},
        8,
    ),
    "b_cnn": (
        {**_RESNET, "stride_stage4": 1},
        {"model.n_parts": {"kind": "int", "low": 1, "high": 16, "log": True}, **_LR},
        {"epochs": 8},
        8,
    ),
    "cnn": (
        {**_RESNET, "stride_stage4": 1},
        {"model.dropout": {"kind": "float", "low": 0, "high": 0.5}, **_LR},
        {"epochs": 8},
        9,
    ),
    "loupe": (
        {**_RESNET, "stage": 1, "initial_gate_bias": 2},
        {"model.sparsity_weight": _log(3e-3, 0.5), "train.optimizer.lr": _log(5e-4, 2.5e-3)},
        {"epochs": 8},
        11,
    ),
    "intr": (
        {**_RESNET, **_INTR},
        {"train.optimizer.lr": _log(4e-4, 2e-3)},
        {"epochs": 15, "clip_norm": 1},
        5,
    ),
}
"""Family -> settings of the model, space, settings of the training, number of trials."""


def study_of(name: str) -> dict[str, Any]:
    """The settings of one study."""
    model, space, training, n_trials = FAMILIES[name]
    base = {
        "name": f"t_{name}",
        "experiment": EXPERIMENT,
        "seed": 1,
        "data": {
            **{"name": "synthetic", "image_size_px": 96, "n_val_per_class": 62, "n_test_per_class": 10},
            **{"brightness": 0.126, "saturation": 0.5},
        },
        "model": {"name": name, **model},
        "train": {
            **{"batch_size": 16, "precision": "bf16", "optimizer": {"name": "adamw", "lr": 2e-3}},
            **{"schedule": {"name": "constant"}, **training},
        },
        "evaluation": {"scores": {"families": []}},
        "runtime": {"n_threads": 1},
    }
    return {
        **{"name": f"t_{name}", "base": base, "n_trials": n_trials, "n_workers": 1},
        **{"sampler": {"name": "random"}, "space": {**space, **_SMOOTHING}, "retention": {"best_k": 100}},
    }


def train(folder: Path, names: Sequence[str]) -> None:
    """Runs the studies one after the other; a second call continues them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = folder.resolve() / f"t_{name}.yaml"
        path.write_text(yaml.safe_dump(study_of(name), sort_keys=False))
        subprocess.run([sys.executable, "-m", "attnsearch", "search", str(path)], cwd=folder, check=True)


def trials_of(folder: Path, name: str) -> list[TrialLayout]:
    """The trials of a study that have weights and maps."""
    found = [TrialLayout(path) for path in sorted((folder / "results" / EXPERIMENT / f"t_{name}" / "trials").glob("*"))]
    return [trial for trial in found if trial.best.exists() and trial.archive("val").saliency.exists()]


def measure_trial(trial: TrialLayout, name: str) -> dict[str, Any]:
    """Accuracy and the means of all scores of one trial, with their standard errors."""
    config = with_settings(load_experiment(str(trial.config)), {"runtime.n_threads": 1})
    cheap = ScoreSettings(families=CHEAP, n_images=N_CHEAP)
    truth = ScoreSettings(families=("parts",), n_images=N_PARTS)
    means: dict[str, float] = {}
    errors: dict[str, float] = {}
    with Evaluation.open(trial.best, open_data(config.data), config=config) as evaluation:
        for kind, settings in (("cheap", cheap), ("truth", truth)):
            paths = TrialLayout(trial.directory / f"benchmark_{kind}").scores("val")
            table = evaluation.score(trial.archive("val"), paths, settings=settings)
            means |= table.means()
            errors |= table.standard_errors()
    accuracy = float(read_csv(trial.epochs_csv)["val_accuracy"].max())
    return {
        "family": name,
        "trial": trial.directory.name,
        "accuracy": accuracy,
        "means": means,
        "se": errors,
    }


def measure(folder: Path, names: Sequence[str]) -> None:
    """Scores all trials; each that is done has a line in `measured.jsonl`."""
    path = folder / "measured.jsonl"
    done = {(one["study"], one["trial"]) for one in read(folder)}
    for name in names:
        for trial in trials_of(folder, name):
            if (name, trial.directory.name) in done:
                continue
            row = {"study": name, **measure_trial(trial, name)}
            before = path.read_text() if path.exists() else ""
            atomic_write(path, before + json.dumps(row) + "\n")
            print(
                f"{name} {row['trial']}: accuracy {row['accuracy']:.3f}, sd_swap {row['means'][TRUTH]:.3f}", flush=True
            )


def read(folder: Path) -> list[dict[str, Any]]:
    """What was measured so far."""
    path = folder / "measured.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(folder: Path) -> None:
    """Prints the correlation of each score with SD_swap."""
    measured = read(folder)
    rows = [row for row in measured if row["accuracy"] >= LEAST_ACCURACY]
    families = sorted({row["family"] for row in rows})
    counts = {family: sum(row["family"] == family for row in rows) for family in families}
    print(f"{len(measured)} trials, {len(rows)} that learned: {counts}")
    print("score | Spearman with SD_swap, pooled | 95 % | mean within families | undefined")
    for name in SHOWN:
        defined = [row for row in rows if np.isfinite([row["means"].get(name, np.nan), row["means"][TRUTH]]).all()]
        low, high = interval(defined, name)
        within = [correlation([row for row in defined if row["family"] == family], name) for family in families]
        print(
            f"{name} | {correlation(defined, name):+.2f} | {low:+.2f} to {high:+.2f} | {np.nanmean(within):+.2f} "
            f"({', '.join(f'{family} {value:+.2f}' for family, value in zip(families, within, strict=True))}) | "
            f"{len(rows) - len(defined)}"
        )
    for family in families:
        values = np.array([row["means"][TRUTH] for row in rows if row["family"] == family])
        print(f"SD_swap of {family}: {values.min():.3f} to {values.max():.3f}, mean {values.mean():.3f}")


def correlation(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    """Spearman's correlation of a score with SD_swap over trials, positive where the better value predicts it."""
    sign = 1.0 if higher_is_better(f"val/{name}") else -1.0
    scores = np.array([sign * row["means"][name] for row in rows])
    truth = np.array([row["means"][TRUTH] for row in rows])
    if len(rows) < 3 or not np.ptp(scores) or not np.ptp(truth):
        return float("nan")
    return float(stats.spearmanr(scores, truth).statistic)


def interval(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[float, float]:
    """Its 95 % interval over resampled trials."""
    rng = np.random.default_rng(0)
    drawn: NDArray[np.int64] = rng.integers(len(rows), size=(N_RESAMPLES, len(rows)))
    found = [correlation([rows[index] for index in one], name) for one in drawn]
    low, high = np.nanquantile(found, [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["train", "measure", "table"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--studies", default=",".join(FAMILIES), help="such as br_npa,cnn")
    arguments = parser.parse_args()
    names = arguments.studies.split(",")
    if arguments.step == "table":
        table(arguments.folder)
    else:
        {"train": train, "measure": measure}[arguments.step](arguments.folder, names)


if __name__ == "__main__":
    main()
