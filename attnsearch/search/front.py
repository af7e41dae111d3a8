"""The Pareto front of a study, and which setting matters to which objective; imported without torch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState

from attnsearch.search.trials import StudyRows, TrialRow

MIN_TRIALS = 8
"""Complete trials under which importances are noise, and are not shown."""


def front_of(rows: StudyRows) -> list[TrialRow]:
    """The trials that no feasible trial beats in all objectives, best in the first objective first."""
    best = [trial for trial in rows.trials if trial.number in rows.best]
    sign = -1 if next(iter(rows.objectives.values())) == "maximize" else 1
    return sorted(best, key=lambda trial: (sign * trial.values[0], trial.number))


def importances(study: optuna.Study) -> dict[str, Mapping[str, float]]:
    """Objective -> setting -> its share in what tells the best tenth of the trials from the others (PED-ANOVA).

    Shares of one objective add up to 1. Trials of equal value and settings that never varied have none.

    Returns:
        Nothing while fewer than `MIN_TRIALS` trials are complete, or where nothing varied.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    names = {name for trial in complete for name in trial.params}
    if len(complete) < MIN_TRIALS or not names:
        return {}
    keys = study.metric_names or [str(index) for index in range(len(study.directions))]
    return {key: _shares(study, index) for index, key in enumerate(keys)}


def _shares(study: optuna.Study, index: int) -> dict[str, float]:
    """The evaluator takes lower values as the better ones."""
    sign = -1.0 if study.directions[index] == optuna.study.StudyDirection.MAXIMIZE else 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells of few trials, and of itself that it is experimental
        found = get_param_importances(
            study, evaluator=PedAnovaImportanceEvaluator(), target=lambda trial: sign * trial.values[index]
        )
    return dict(found)
