"""How far a search has come after each complete trial: the best value, or the volume of the front. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import optuna

from attnsearch.search.study import BOUNDS, Bounds
from attnsearch.search.trials import StudyRows, TrialRow, rows_of

N_BOUNDING = 10
"""Complete trials whose worst and best values bound the volume."""


@dataclass(frozen=True)
class History:
    """One number for each complete trial of a study, in the order in which they ended.

    Attributes:
        measure: the one objective, whose best value so far is given; or `hypervolume`, of the front of several.
        n_bounding: trials whose worst and best values are 0 and 1 of each objective of the volume; 0 with one.
    """

    measure: str
    trials: tuple[int, ...]
    values: tuple[float, ...]
    n_bounding: int = 0


def history_of(rows: StudyRows) -> History | None:
    """The history of a study; None while no feasible trial is complete.

    A trial that violates a constraint repeats the number before it, NaN where there is none. The volume may exceed 1:
    later trials can be better than the first ones in an objective, and worse than all of them adds nothing.
    """
    ended = _complete(rows.trials)
    if not any(trial.is_feasible for trial in ended):
        return None
    numbers = tuple(trial.number for trial in ended)
    if len(rows.objectives) == 1:
        ((key, direction),) = rows.objectives.items()
        return History(key, numbers, _best_so_far(ended, direction))
    directions = list(rows.objectives.values())
    n_bounding = N_BOUNDING if rows.bounds else min(N_BOUNDING, sum(trial.is_feasible for trial in ended))
    bounds = rows.bounds or _bounds_of(ended, directions)
    return History("hypervolume", numbers, _volumes(ended, bounds, directions), n_bounding)


def freeze_bounds(study: optuna.Study, url: str) -> None:
    """Keeps the bounds of the volume with a study of several objectives, once its first trials are complete.

    What is measured again later then changes the bounds of no number. Needs the lock of the study.

    Args:
        url: of its database, for messages.
    """
    if len(study.directions) > 1 and BOUNDS not in study.user_attrs:
        rows = rows_of(study, url)
        ended = _complete(rows.trials)
        if sum(trial.is_feasible for trial in ended) >= N_BOUNDING:
            study.set_user_attr(BOUNDS, _bounds_of(ended, list(rows.objectives.values())))


def _complete(trials: Sequence[TrialRow]) -> list[TrialRow]:
    return in_order([trial for trial in trials if trial.state == "complete"])


def in_order(trials: Sequence[TrialRow]) -> list[TrialRow]:
    """Finished trials in the order in which they ended."""
    return sorted(trials, key=lambda trial: (trial.ended is None, trial.ended, trial.number))


def _best_so_far(ended: Sequence[TrialRow], direction: str) -> tuple[float, ...]:
    sign = 1.0 if direction == "maximize" else -1.0
    best, values = -math.inf, []
    for trial in ended:
        best = max(best, sign * trial.values[0]) if trial.is_feasible else best
        values.append(sign * best if math.isfinite(best) else math.nan)
    return tuple(values)


def _bounds_of(ended: Sequence[TrialRow], directions: Sequence[str]) -> Bounds:
    """Of each objective the worst and the best value of the first feasible trials."""
    first = [trial.values for trial in ended if trial.is_feasible][:N_BOUNDING]
    columns = zip(directions, zip(*first, strict=True), strict=True)
    return tuple(
        (min(values), max(values)) if direction == "maximize" else (max(values), min(values))
        for direction, values in columns
    )


def _volumes(ended: Sequence[TrialRow], bounds: Bounds, directions: Sequence[str]) -> tuple[float, ...]:
    """The volume of the front after each trial, in units of the bounds.

    An objective in which the first trials are all equal counts as 1 there, so that the others still tell.
    """
    from attnsearch.metrics.statistics import added_volume, non_dominated

    signs = [1.0 if direction == "maximize" else -1.0 for direction in directions]
    signed = list(zip(signs, bounds, strict=True))
    width = np.array([best - worst or sign for sign, (worst, best) in signed])
    origin = np.array([worst - (sign if worst == best else 0.0) for sign, (worst, best) in signed])
    front, volume, values = np.empty((0, len(bounds))), 0.0, []
    for trial in ended:
        if trial.is_feasible:
            point = (np.array(trial.values) - origin) / width
            volume += max(0.0, added_volume(point, front))
            front = non_dominated(np.vstack([front, point]))
        values.append(volume)
    return tuple(values)
