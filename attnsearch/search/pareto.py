"""The Pareto front of a study, and which setting matters to which objective; imported without torch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import optuna
from optuna.trial import TrialState

from attnsearch.metrics.registry import higher_is_better
from attnsearch.search.trials import StudyRows, TrialRow
from attnsearch.store.image_scores import ScoreTable

if TYPE_CHECKING:
    from attnsearch.metrics.statistics import WinnerCheck

MIN_TRIALS = 8
"""Complete trials under which importances are noise, and are not shown."""


def front_of(rows: StudyRows) -> list[TrialRow]:
    """The trials that no feasible trial beats in all objectives, best in the first objective first."""
    best = [trial for trial in rows.trials if trial.number in rows.best]
    sign = -1 if next(iter(rows.objectives.values())) == "maximize" else 1
    return sorted(best, key=lambda trial: (sign * trial.values[0], trial.number))


@dataclass(frozen=True)
class Reliability:
    """How far the order of some trials in one score can be trusted.

    Attributes:
        alpha: Krippendorff's alpha of the order, with images as raters.
        winner: whether random halves of the images name the same best trial.
        n_undefined: scores among those of all trials and images that are undefined.
        second_fill: Spearman's correlation of the trials' relevance gain under two fills; NaN where one was measured.
    """

    n_trials: int
    n_images: int
    alpha: float
    winner: WinnerCheck
    second_fill: float
    n_undefined: int


def reliability(tables: Sequence[ScoreTable], metric: str) -> Reliability | str | None:
    """The reliability of the order of some trials, from their scores of single images on validation.

    Args:
        metric: by its own name, such as `relevance_gain`.
    Returns:
        None with fewer than two trials or without this metric; a sentence where they were not scored alike.
    """
    import numpy as np

    from attnsearch.metrics.statistics import krippendorff_alpha, split_half_winner

    if len(tables) < 2 or any(metric not in table.values for table in tables):
        return None
    keys = {(table.about["version"], str(table.about["settings"]), table.about["images"]) for table in tables}
    if len(keys) > 1:
        return "the trials were scored with different settings; score all of them alike with `attnsearch faithfulness`"
    values = np.stack([table.values[metric] for table in tables])
    return Reliability(
        n_trials=values.shape[0],
        n_images=values.shape[1],
        alpha=krippendorff_alpha(values),
        winner=split_half_winner(values, higher_is_better=higher_is_better(f"val/{metric}")),
        second_fill=_under_two_fills(tables),
        n_undefined=int(np.isnan(values).sum()),
    )


def _under_two_fills(tables: Sequence[ScoreTable]) -> float:
    import numpy as np

    from attnsearch.metrics.statistics import rank_correlation

    second = next((name for name in tables[0].values if name.startswith("relevance_gain_")), None)
    if second is None or len(tables) < 3:
        return float("nan")
    means = [table.means() for table in tables]
    gains = [np.array([[of_trial[name] for of_trial in means]]) for name in ("relevance_gain", second)]  # (1, n) each
    return float(rank_correlation(*gains)[0])


def importances(study: optuna.Study) -> dict[str, Mapping[str, float]]:
    """Objective -> setting -> its fraction of what separates the best tenth of the trials from the others (PED-ANOVA).

    Fractions of one objective add up to 1. Trials of equal value and settings that never varied have none.

    Returns:
        Nothing while fewer than `MIN_TRIALS` trials are complete, or where nothing varied.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    names = {name for trial in complete for name in trial.params}
    if len(complete) < MIN_TRIALS or not names:
        return {}
    keys = study.metric_names or [str(index) for index in range(len(study.directions))]
    return {key: _fractions(study, index) for index, key in enumerate(keys)}


def _fractions(study: optuna.Study, index: int) -> dict[str, float]:
    """The evaluator takes lower values as the better ones."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances  # imports scikit-learn and pandas

    sign = -1.0 if study.directions[index] == optuna.study.StudyDirection.MAXIMIZE else 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is experimental, and that there are few trials
        found = get_param_importances(
            study, evaluator=PedAnovaImportanceEvaluator(), target=lambda trial: sign * trial.values[index]
        )
    return dict(found)
