"""Prunes trials of a study with several objectives, where Optuna itself refuses to report.

The monitored curve of each trial is kept in a user attribute; any Optuna pruner is asked on a single-objective study in
memory that is rebuilt from those curves.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from attnsearch.types import Direction

CURVE = "monitor_curve"


def write_curve(trial: optuna.Trial, curve: dict[int, float]) -> None:
    """Keeps a curve (step from 0 -> value) with its trial."""
    trial.set_user_attr(CURVE, json.dumps(curve))


def read_curve(trial: FrozenTrial) -> dict[int, float]:
    """The curve that a trial keeps; empty before its first epoch."""
    return {int(step): float(value) for step, value in json.loads(trial.user_attrs.get(CURVE, "{}")).items()}


def should_prune(
    trials: Sequence[FrozenTrial], number: int, *, pruner: optuna.pruners.BasePruner, direction: Direction
) -> bool:
    """What `pruner` says of trial `number`, judged by the curves of all trials."""
    shadow = optuna.create_study(direction=direction)
    asked: FrozenTrial | None = None
    for trial in trials:
        curve = read_curve(trial)
        if not curve or trial.state in (TrialState.WAITING, TrialState.FAIL):
            continue
        state = TrialState.RUNNING if trial.number == number else trial.state
        frozen = _shadow_trial(trial.number, curve, state)
        shadow._storage.create_new_trial(shadow._study_id, template_trial=frozen)
        asked = frozen if trial.number == number else asked
    return asked is not None and pruner.prune(shadow, asked)


def _shadow_trial(number: int, curve: dict[int, float], state: TrialState) -> FrozenTrial:
    value = curve[max(curve)] if state in (TrialState.COMPLETE, TrialState.PRUNED) else None
    trial = optuna.create_trial(state=state, value=value, intermediate_values=curve)
    trial.number = number
    return trial
