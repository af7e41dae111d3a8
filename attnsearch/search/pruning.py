"""Prunes trials of a study where Optuna cannot: with several objectives, or with an objective that is not the monitor.

Optuna refuses reports with several objectives, and judges them by the direction of the objective where there is one.
The monitored curve of each trial is kept in a user attribute, and so is what the pruner notes of the trial; any Optuna
pruner is asked on a single-objective study in memory that is rebuilt from those.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from attnsearch.types import Direction

CURVE = "monitor_curve"
NOTES = "pruner_notes"


def write_curve(trial: optuna.Trial, curve: dict[int, float]) -> None:
    """Keeps a curve (step from 0 -> value) with its trial."""
    trial.set_user_attr(CURVE, json.dumps(curve))


def read_curve(trial: FrozenTrial) -> dict[int, float]:
    """The curve that a trial keeps; empty before its first epoch."""
    return {int(step): float(value) for step, value in json.loads(trial.user_attrs.get(CURVE, "{}")).items()}


def should_prune(
    trials: Sequence[FrozenTrial], trial: optuna.Trial, *, pruner: optuna.pruners.BasePruner, direction: Direction
) -> bool:
    """What `pruner` says of a running trial, judged by the curves of all trials; keeps its notes with the trial."""
    shadow = optuna.create_study(direction=direction)
    storage, asked_id = shadow._storage, None
    for other in trials:
        if read_curve(other) and other.state not in (TrialState.WAITING, TrialState.FAIL):
            shadow_id = storage.create_new_trial(shadow._study_id, template_trial=_shadow_trial(other))
            asked_id = shadow_id if other.number == trial.number else asked_id
    if asked_id is None:
        return False
    asked = storage.get_trial(asked_id)
    verdict = pruner.prune(shadow, asked)
    notes = storage.get_trial(asked_id).system_attrs
    if notes != asked.system_attrs:
        trial.set_user_attr(NOTES, json.dumps(notes))
    return verdict


def _shadow_trial(trial: FrozenTrial) -> FrozenTrial:
    curve = read_curve(trial)
    return optuna.create_trial(
        state=trial.state,
        value=curve[max(curve)] if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) else None,
        intermediate_values=curve,
        system_attrs=json.loads(trial.user_attrs.get(NOTES, "{}")),
    )
