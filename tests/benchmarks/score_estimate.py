"""Two checks of the scores: does the search's cheap estimate rank trials like the full measure, and do they make sense?

    attnsearch search loupe_pareto --profile demo n_trials=12
    python tests/benchmarks/score_estimate.py results/demo loupe_pareto

Estimate: 32 images, 16 steps, as in a search. Full: all archived validation images, a step per cell up to 196, three
random orders. Printed is Spearman's correlation of the trials for each score. Sense: on each trial, the true masks of
the planted parts, taken as maps, must score better than the model's own map, and random maps worse; scores are listed
where that fails.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from scipy import stats

from attnsearch.config.evaluation import ScoreSettings, full_score_settings
from attnsearch.config.load import load_experiment, with_settings
from attnsearch.data.loader import open_data
from attnsearch.evaluation.evaluation import Evaluation
from attnsearch.metrics.registry import score_metrics
from attnsearch.store.archive import read_archive
from attnsearch.store.layout import ExperimentLayout, StudyLayout, TrialLayout

TRUTH, RANDOM = "parts", "random"
LEVELS = ("masked_score", "random_deletion")
"""Properties of the model and the fill, which no map can change."""


def settings_of(arguments: argparse.Namespace, n_archived: int) -> tuple[ScoreSettings, ScoreSettings]:
    """The estimate's settings and the full ones."""
    shared = {"families": full_score_settings("classification").families, "second_fill": None}
    estimate = ScoreSettings(n_images=min(arguments.images, n_archived), n_steps=arguments.steps)
    n_full = min(arguments.full_images or n_archived, n_archived)
    full = full_score_settings("classification").model_copy(update={**shared, "n_images": n_full})
    return estimate.model_copy(update=shared), full


def score(trial: TrialLayout, settings: ScoreSettings, folder: Path) -> dict[str, float]:
    """The means of one trial; its files go to `folder`."""
    config = with_settings(load_experiment(str(trial.config)), {"runtime.n_threads": 1})
    scores = TrialLayout(folder).scores("val")
    with Evaluation.open(trial.best, open_data(config.data), config=config) as evaluation:
        return evaluation.score(trial.archive("val"), scores, settings=settings).means()


def correlations(estimates: Sequence[Mapping[str, float]], full: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Score -> Spearman's correlation over trials; NaN where one side does not vary."""
    found = {}
    for name in full[0]:
        pairs = [(one[name], other[name]) for one, other in zip(estimates, full, strict=True)]
        defined = [pair for pair in pairs if not any(map(math.isnan, pair))]
        columns = list(zip(*defined, strict=True))
        varies = len(defined) > 2 and all(len(set(column)) > 1 for column in columns)
        found[name] = float(stats.spearmanr(*columns).statistic) if varies else math.nan
    return found


def senseless(trial: TrialLayout, settings: ScoreSettings, own: Mapping[str, float]) -> list[str]:
    """Scores in which the true masks are not better than the model's map, or random maps not worse."""
    config = with_settings(load_experiment(str(trial.config)), {"runtime.n_threads": 1})
    names = (TRUTH, RANDOM)
    with Evaluation.open(trial.best, open_data(config.data), config=config) as evaluation:
        tables = evaluation.baselines(trial.archive("val"), names, settings=settings)
    truth, random = (tables[name].means() for name in names)
    wrong = []
    for name, direction in ((metric.name, metric.better) for metric in score_metrics()):
        if name not in own or name in LEVELS or any(math.isnan(one[name]) for one in (own, truth, random)):
            continue
        sign = 1.0 if direction == "maximize" else -1.0
        levels = [sign * one[name] for one in (random, own, truth)]
        if not levels[0] < levels[1] < levels[2]:
            wrong.append(f"{name} (random {random[name]:.3f}, model {own[name]:.3f}, parts {truth[name]:.3f})")
    return wrong


def scored_trials(layout: StudyLayout, n_trials: int) -> list[TrialLayout]:
    """The first trials that still have their weights and maps."""
    folders = sorted((layout.study_dir / "trials").iterdir())
    trials = [TrialLayout(folder) for folder in folders]
    return [trial for trial in trials if trial.best.exists() and trial.archive("val").saliency.exists()][:n_trials]


def main() -> None:
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path, help="such as results/demo")
    parser.add_argument("study")
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--images", type=int, default=32, help="of the estimate")
    parser.add_argument("--steps", type=int, default=16, help="of the estimate")
    parser.add_argument("--full-images", type=int, help="of the full measure; by default all that are archived")
    arguments = parser.parse_args()
    trials = scored_trials(ExperimentLayout.at(arguments.experiment).study(arguments.study), arguments.trials)
    estimates, full, wrong = [], [], []
    for trial in trials:
        n_archived = len(read_archive(trial.archive("val"), index_only=True).image_ids)
        settings = settings_of(arguments, n_archived)
        with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
            estimates.append(score(trial, settings[0], Path(first)))
            full.append(score(trial, settings[1], Path(second)))
        wrong.append(senseless(trial, settings[0], estimates[-1]))
        print(f"trial {trial.directory.name}: not as they should be: {'; '.join(wrong[-1]) or 'none'}", flush=True)
    print(f"estimate against full measure, {len(trials)} trials, Spearman")
    for name, value in correlations(estimates, full).items():
        print(f"  {name}: {value:.3f}")


if __name__ == "__main__":
    main()
