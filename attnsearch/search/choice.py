"""Which trials of a study are the best: by the scores of all archived images where a race has measured them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from attnsearch.config.study import StudyConfig
from attnsearch.metrics.racing import is_on_front

RACE = "race"
"""The user attribute of a study that holds its `Race`; Optuna's own values are final once a trial has ended."""


@dataclass(frozen=True)
class Race:
    """What the trials that may be the best scored on more images than a search measures of each trial.

    Attributes:
        n_images: that were scored of each of these trials.
        n_complete: trials that were complete; with others the ties do not count.
        scores: number of a trial -> `split/metric` -> value.
        ties: numbers of the trials that are not surely beaten, the chosen one first.
    """

    n_images: int
    n_complete: int
    scores: Mapping[int, Mapping[str, float]]
    ties: tuple[int, ...]

    def as_attribute(self) -> dict[str, Any]:
        """For JSON, whose keys are texts."""
        return {**asdict(self), "scores": {str(number): dict(values) for number, values in self.scores.items()}}


def stored_race(study: optuna.Study) -> Race | None:
    """The race of a study; None before one.

    Raises:
        ValueError: what is stored is no race.
    """
    stored = study.user_attrs.get(RACE)
    if stored is None:
        return None
    try:
        scores = {
            int(number): {str(key): float(value) for key, value in values.items()}
            for number, values in stored["scores"].items()
        }
        ties = tuple(map(int, stored["ties"]))
        return Race(int(stored["n_images"]), int(stored["n_complete"]), scores, ties)
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{RACE} must be what a race has written, got {stored!r}") from error


def refined(study: optuna.Study, trials: list[FrozenTrial], race: Race | None) -> list[FrozenTrial]:
    """The trials, those of a race with its scores in their values and attributes."""
    if race is None:
        return trials
    names = study.metric_names or []
    return [
        _refined(trial, race.scores[trial.number], names) if trial.number in race.scores else trial for trial in trials
    ]


def _refined(trial: FrozenTrial, scores: Mapping[str, float], names: list[str]) -> FrozenTrial:
    changed = copy.copy(trial)
    changed.user_attrs = {**trial.user_attrs, **scores}
    changed.values = [scores.get(name, value) for name, value in zip(names, trial.values, strict=True)]
    return changed


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether all constraints of a trial hold (value <= 0)."""
    return all(value <= 0 for value in trial.constraints.values())


def _feasible(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The trials among which the best is chosen."""
    return [trial for trial in trials if trial.state == TrialState.COMPLETE and is_feasible(trial)]


def current_ties(study: optuna.Study) -> tuple[int, ...]:
    """The trials that are not surely beaten, the chosen one first; none where trials ended after the race."""
    race = stored_race(study)
    return () if race is None else ties_of(study.get_trials(deepcopy=False), race)


def ties_of(trials: Iterable[FrozenTrial], race: Race | None) -> tuple[int, ...]:
    """As `current_ties`, of trials and a race that were read already."""
    if race is None:
        return ()
    n_complete = sum(trial.state == TrialState.COMPLETE for trial in trials)
    return race.ties if race.n_complete == n_complete else ()


def best_feasible(study: optuna.Study) -> list[FrozenTrial]:
    """The best trial, or the Pareto front by number; empty while no feasible trial is complete."""
    race = stored_race(study)
    return best_of(study, refined(study, study.get_trials(deepcopy=False), race), race)


def best_of(study: optuna.Study, trials: Sequence[FrozenTrial], race: Race | None) -> list[FrozenTrial]:
    """As `best_feasible`, of trials that were read already, with refined scores."""
    feasible = _feasible(trials)
    if not feasible:
        return []
    signed = _signed(study, feasible)
    if len(study.directions) > 1:
        on_front = is_on_front(np.array(signed).T)
        return [trial for trial, is_best in zip(feasible, on_front, strict=True) if is_best]
    by_number = {trial.number: trial for trial in feasible}
    chosen = next((by_number[number] for number in ties_of(trials, race) if number in by_number), None)
    return [chosen or min(zip(signed, feasible, strict=True), key=lambda one: (-one[0][0], one[1].number))[1]]


def _signed(study: optuna.Study, trials: Iterable[FrozenTrial]) -> list[list[float]]:
    """The values of trials, larger is better."""
    signs = [1 if direction == StudyDirection.MAXIMIZE else -1 for direction in study.directions]
    return [[sign * value for sign, value in zip(signs, trial.values, strict=True)] for trial in trials]


def best_trials(study: optuna.Study, config: StudyConfig, *, k: int) -> list[FrozenTrial]:
    """The best k feasible trials: by the one objective, or the whole Pareto front and then the rest, by the monitor."""
    race = stored_race(study)
    trials = refined(study, study.get_trials(deepcopy=False), race)
    feasible, best = _feasible(trials), {trial.number for trial in best_of(study, trials, race)}
    if len(study.directions) == 1:
        measured = zip(feasible, _signed(study, feasible), strict=True)
        ranked = sorted(measured, key=lambda one: (one[0].number not in best, -one[1][0], one[0].number))
        return [trial for trial, _ in ranked][:k]
    sign = -1 if config.monitor_direction == "maximize" else 1
    ordered = sorted(feasible, key=lambda one: (one.number not in best, sign * _monitor(one, config), one.number))
    return ordered[: max(k, len(best))]


def _monitor(trial: FrozenTrial, config: StudyConfig) -> float:
    return float(trial.user_attrs.get(config.monitor, float("nan")))
