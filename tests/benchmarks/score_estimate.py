"""Is the estimate of a search right: against other images, in its intervals, in bf16, and as the first stage of a race?

    python tests/benchmarks/part_truth.py train build/truth
    python tests/benchmarks/score_estimate.py measure build/truth/results/truth t_loupe t_cnn t_br_npa
    python tests/benchmarks/score_estimate.py table build/truth/results/truth t_loupe t_cnn t_br_npa

`measure` scores each trial twice on all archived validation images, at the seven points of a search and in 16 even
steps, and keeps what was measured of each image in the folder of the trial. `table` compares, for relevance gain and
decision gain: the estimate on the 128 images of a search with the even steps on the *other* images (Spearman over
trials, pooled and within each family); how often the interval of 32 images covers the gain of all; and how often a
race, replayed on random orders of the images and random studies of 24 trials, has the winner of all images.
`precision` repeats the estimate of some trials in bf16.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from attnsearch.config.evaluation import DEFAULT_N_IMAGES, ScoreSettings
from attnsearch.config.load import load_experiment, with_settings
from attnsearch.data.loader import open_data
from attnsearch.evaluation.evaluation import Evaluation
from attnsearch.evaluation.score_archive import scored_ids
from attnsearch.files import atomic_path
from attnsearch.metrics.gains import TERMS, influence_values
from attnsearch.metrics.racing import contenders
from attnsearch.metrics.statistics import mean_interval
from attnsearch.store.archive import read_archive
from attnsearch.store.layout import ExperimentLayout
from attnsearch.store.trial_layout import TrialLayout

GAINS = ("relevance_gain", "decision_gain")
EVEN_STEPS = 16
OLD_FORWARDS = 32 * 47
"""Of a trial in version 2: 32 images, three orders of 16 steps."""
N_TRIALS, N_RESAMPLES = 24, 1000
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Measured:
    """One trial: for each gain the differences of areas and the drops (N,) of all images, and the even ones.

    Attributes:
        is_first: (N,) whether a search scores the image.
    """

    study: str
    short: dict[str, tuple[Floats, Floats]]
    even: dict[str, tuple[Floats, Floats]]
    is_first: NDArray[np.bool_]

    @property
    def family(self) -> str:
        return self.study.removeprefix("t_")

    def values(self, gain: str, images: NDArray[np.int64] | slice = slice(None)) -> Floats:
        """The influence values of some images at the seven points; NaN where the gain is undefined."""
        areas, drops = self.short[gain]
        return influence_values(areas[images], drops[images])

    def is_alive(self) -> bool:
        return bool(np.isfinite(self.values("relevance_gain")).all())


def trials_of(experiment: ExperimentLayout, study: str) -> list[TrialLayout]:
    """The trials that still have their weights and maps."""
    folders = sorted((experiment.study(study).study_dir / "trials").iterdir())
    trials = [TrialLayout(folder) for folder in folders]
    return [trial for trial in trials if trial.best.exists() and trial.archive("val").saliency.exists()]


def _kept(trial: TrialLayout) -> Path:
    return trial.directory / "score_estimate.npz"


def measure(trial: TrialLayout) -> None:
    """Scores all archived images at both sets of points, and keeps the terms of the gains."""
    config = with_settings(load_experiment(str(trial.config)), {"runtime.n_threads": 1})
    with Evaluation.open(trial.best, open_data(config.data), config=config) as evaluation:
        archived = read_archive(trial.archive("val"))
        first = scored_ids(archived, evaluation.table("val"), DEFAULT_N_IMAGES)
        shared = {"families": ("faithfulness",), "n_images": len(archived.image_ids)}
        columns: dict[str, NDArray[np.generic]] = {}
        for kind, n_steps in (("short", None), ("even", EVEN_STEPS)):
            paths = TrialLayout(trial.directory / f"estimate_{kind}").scores("val")
            table = evaluation.score(
                trial.archive("val"), paths, settings=ScoreSettings.model_validate({**shared, "n_steps": n_steps})
            )
            columns |= {f"{kind}/{name}": column for name, column in table.terms.items()}
        columns["is_first"] = np.isin(table.image_ids, first)
    with atomic_path(_kept(trial)) as temporary, temporary.open("wb") as file:
        np.savez(file, **columns)


def read(trial: TrialLayout, study: str) -> Measured:
    """What `measure` has kept."""
    kept = np.load(_kept(trial), allow_pickle=False)

    def terms(kind: str) -> dict[str, tuple[Floats, Floats]]:
        columns = {gain: [kept[f"{kind}/{gain}.{term}"] for term in TERMS] for gain in GAINS}
        return {gain: (area, untouched - filled) for gain, (area, untouched, filled) in columns.items()}

    return Measured(study, terms("short"), terms("even"), kept["is_first"])


def report(trials: Sequence[Measured]) -> None:
    """Prints all comparisons."""
    alive = [trial for trial in trials if trial.is_alive()]
    families = sorted({trial.family for trial in alive})
    counts = {family: sum(trial.family == family for trial in alive) for family in families}
    n_images, n_first = len(alive[0].is_first), int(alive[0].is_first.sum())
    print(f"{len(trials)} trials, {len(alive)} with a defined gain: {counts}")
    print(
        f"forward passes of a trial: {12 * n_first} on {n_first} images, version 2: {OLD_FORWARDS}, ratio "
        f"{12 * n_first / OLD_FORWARDS:.2f}; compared with the other {n_images - n_first} images"
    )
    for gain in GAINS:
        first = [trial.values(gain, np.flatnonzero(trial.is_first)) for trial in alive]
        estimates = np.array([values.mean() for values in first])
        errors = np.array([values.std(ddof=1) / np.sqrt(n_first) for values in first])
        full = np.array([influence_values(*(x[~t.is_first] for x in t.even[gain])).mean() for t in alive])
        within = {
            family: stats.spearmanr(*(x[[t.family == family for t in alive]] for x in (estimates, full))).statistic
            for family in families
        }
        pooled = stats.spearmanr(estimates, full).statistic
        print(
            f"{gain}: Spearman {pooled:.3f} pooled, "
            f"{', '.join(f'{family} {value:.3f}' for family, value in within.items())}; standard error "
            f"{errors.mean():.4f} in the mean, standard deviation of the trials {full.std(ddof=1):.4f}"
        )
        print(f"{gain}: intervals of 32 images cover the gain of all in {coverage(alive, gain):.3f}")
        for n_all in (320, n_images):
            same, share, n_raised = replay(alive, gain, n_all)
            print(
                f"{gain}: race, 128 of {n_all} images first: winner of all images in {same:.3f} of {N_RESAMPLES} "
                f"studies of {min(N_TRIALS, len(alive))} trials, {share:.2f} of its forwards, {n_raised:.1f} raised"
            )


def coverage(trials: Sequence[Measured], gain: str) -> float:
    """How often the 95 % interval of 32 images holds the gain of all images."""
    rng, covered = np.random.default_rng(1), []
    for trial in trials:
        truth, n_images = trial.values(gain).mean(), len(trial.is_first)
        for _ in range(200):
            interval = mean_interval(trial.values(gain, rng.choice(n_images, 32)))
            covered.append(interval.low <= truth <= interval.high)
    return float(np.mean(covered))


def replay(trials: Sequence[Measured], gain: str, n_all: int) -> tuple[float, float, float]:
    """The fraction of studies with the winner of all images, of the forward passes, and the mean number raised."""
    rng, same, shares, raised = np.random.default_rng(2), [], [], []
    n_images = len(trials[0].is_first)
    for _ in range(N_RESAMPLES):
        chosen = rng.choice(len(trials), min(N_TRIALS, len(trials)), replace=False)
        order = rng.permutation(n_images)[:n_all]
        values = np.array([trials[one].values(gain, order) for one in chosen])
        first = np.array([trials[one].values(gain, order[:DEFAULT_N_IMAGES]) for one in chosen])
        is_in = contenders(first[None], np.zeros((0, len(chosen))))
        winner = int(np.nan_to_num(values.mean(axis=1)).argmax())
        kept = np.flatnonzero(is_in)
        same.append(kept[np.nan_to_num(values[kept].mean(axis=1)).argmax()] == winner)
        n_raised = len(kept) if len(kept) > 1 else 0
        raised.append(n_raised)
        shares.append((len(chosen) * DEFAULT_N_IMAGES + n_raised * (n_all - DEFAULT_N_IMAGES)) / (len(chosen) * n_all))
    return float(np.mean(same)), float(np.mean(shares)), float(np.mean(raised))


def precision(trials: Sequence[TrialLayout]) -> None:
    """Prints how far bf16 moves the gains, in standard errors, and the time of both."""
    for trial in trials:
        config = with_settings(load_experiment(str(trial.config)), {"runtime.n_threads": 1})
        tables, seconds = {}, {}
        with Evaluation.open(trial.best, open_data(config.data), config=config) as evaluation:
            for arithmetic in ("fp32", "bf16"):
                settings = ScoreSettings.model_validate({"families": ("faithfulness",), "precision": arithmetic})
                paths = TrialLayout(trial.directory / f"precision_{arithmetic}").scores("val")
                start = time.process_time()
                tables[arithmetic] = evaluation.score(trial.archive("val"), paths, settings=settings)
                seconds[arithmetic] = time.process_time() - start
        moved = {
            gain: abs(tables["bf16"].means()[gain] - tables["fp32"].means()[gain])
            / tables["fp32"].standard_errors()[gain]
            for gain in GAINS
        }
        print(trial.directory, moved, {name: round(value, 2) for name, value in seconds.items()}, flush=True)


def _each(experiment: ExperimentLayout, studies: Sequence[str]) -> Iterator[tuple[str, TrialLayout]]:
    for study in studies:
        for trial in trials_of(experiment, study):
            yield study, trial


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["measure", "table", "precision"])
    parser.add_argument("experiment", type=Path, help="such as results/demo")
    parser.add_argument("studies", nargs="+")
    arguments = parser.parse_args()
    experiment = ExperimentLayout.at(arguments.experiment)
    found = list(_each(experiment, arguments.studies))
    if arguments.step == "measure":
        for study, trial in found:
            if not _kept(trial).exists():
                measure(trial)
                print(study, trial.directory.name, flush=True)
    elif arguments.step == "precision":
        precision([trial for _, trial in found[:: max(1, len(found) // 6)]])
    else:
        report([read(trial, study) for study, trial in found if _kept(trial).exists()])


if __name__ == "__main__":
    main()
