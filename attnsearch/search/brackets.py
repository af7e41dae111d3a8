"""Halving in a study: what Optuna's trials keep of it, and which of them continue, wait or end.

Optuna has no paused state. A paused trial is WAITING at a rung that it was not promoted from; so it survives its
worker, and Optuna's own readers show it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from attnsearch.config.load import LoadedStudy
from attnsearch.config.study import StudyConfig
from attnsearch.search.halving import (
    BRACKET_TRIALS,
    Bracket,
    HalvingTrial,
    Rung,
    Status,
    Value,
    bracket_sizes,
    first_rung,
    n_finishing,
    rungs_of,
    settled_rungs,
)
from attnsearch.search.study import ENDED_AT, IMPORTED_FROM, OF_TRIAL

BRACKETS = "brackets"
"""The user attribute of a study with the brackets that have been opened, in order: trials and rungs of each."""
BRACKET, RUNG_VALUES, RUNG, PROMOTED, PAUSED = "bracket", "rung_values", "rung", "promoted", "paused"
"""User attributes of a trial: its bracket, from 1; epoch, values and broken constraints at each rung; the last rung
that it reached and the last one that it was promoted from, from 1; for people, whether it waits at a rung. A trial
without a bracket is trained to its end."""


@dataclass(frozen=True)
class OpenedBracket:
    """A bracket as a study keeps it, with the epochs of a trial that is trained to its end."""

    n_trials: int
    epochs: int
    rungs: tuple[Rung, ...]

    def as_attribute(self) -> dict[str, Any]:
        """For JSON."""
        rungs = [{"epoch": rung.epoch, "n_continue": rung.n_continue} for rung in self.rungs]
        return {"n_trials": self.n_trials, "epochs": self.epochs, "rungs": rungs}

    def filled(self, number: int, trials: tuple[HalvingTrial, ...], *, n_left: int) -> Bracket:
        """The bracket with its trials, of which at most `n_left` more are started."""
        n_started = sum(not trial.is_dropped_out for trial in trials)
        n_trials = n_started + min(max(0, self.n_trials - n_started), n_left)
        members = [trial for trial in trials if not trial.is_dropped_out]
        rungs = settled_rungs(self.rungs, members, n_trials=n_trials, epochs=self.epochs)
        return Bracket(number, n_trials, rungs, trials)


def is_paused(trial: FrozenTrial) -> bool:
    """Whether a trial waits at a rung; one that waits elsewhere was interrupted, or has not begun."""
    attributes = trial.user_attrs
    return trial.state == TrialState.WAITING and len(attributes.get(RUNG_VALUES, [])) > attributes.get(PROMOTED, 0)


def opened_brackets(attributes: Mapping[str, Any]) -> tuple[OpenedBracket, ...]:
    """The brackets that the user attributes of a study hold.

    Raises:
        ValueError: what is stored are no brackets.
    """
    stored = attributes.get(BRACKETS, [])
    try:
        return tuple(_opened(one) for one in stored)
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{BRACKETS} must be what a search has written, got {stored!r}") from error


def _opened(stored: Mapping[str, Any]) -> OpenedBracket:
    rungs = tuple(Rung(int(rung["epoch"]), int(rung["n_continue"])) for rung in stored["rungs"])
    return OpenedBracket(int(stored["n_trials"]), int(stored["epochs"]), rungs)


def brackets_of(study: optuna.Study, trials: Sequence[FrozenTrial], *, n_left: int = sys.maxsize) -> list[Bracket]:
    """The brackets of a study with their trials.

    Args:
        n_left: trials that may still be started; a budget that was lowered leaves places of a bracket empty.
    Raises:
        ValueError: an attribute of the study or of a trial is damaged.
    """
    brackets, members = [], [halving_trial(study, trial) for trial in trials if BRACKET in trial.user_attrs]
    for number, opened in enumerate(opened_brackets(study.user_attrs), start=1):
        own = tuple(trial for trial in members if trial.bracket == number)
        brackets.append(opened.filled(number, own, n_left=n_left))
        n_left -= brackets[-1].n_open
    return brackets


def is_counted(state: str, *, is_compared: bool, is_repetition: bool, is_imported: bool) -> bool:
    """Whether a trial counts against the budget: complete and pruned ones, but none that another study has run.

    Failed ones count too where they repeat a trial, and where they had been compared with others at a rung.

    Args:
        state: in lower case.
    """
    has_place = state == "fail" and (is_compared or is_repetition)
    return not is_imported and (state in ("complete", "pruned") or has_place)


def n_finished(trials: Iterable[FrozenTrial]) -> int:
    """Trials that count against the budget."""
    return sum(
        is_counted(
            trial.state.name.lower(),
            is_compared=RUNG_VALUES in trial.user_attrs,
            is_repetition=OF_TRIAL in trial.params,
            is_imported=IMPORTED_FROM in trial.user_attrs,
        )
        for trial in trials
    )


def is_spent(trials: Sequence[FrozenTrial], config: StudyConfig) -> bool:
    """Whether no trial is started or continued any more.

    A budget that was lowered leaves places of a bracket empty, but the trials that have one wait for each other.
    """
    is_awaited = config.halving is not None and any(
        BRACKET in trial.user_attrs and not trial.state.is_finished() for trial in trials
    )
    return n_finished(trials) >= config.n_trials and not is_awaited


def trials_left(trials: Sequence[FrozenTrial], config: StudyConfig) -> int:
    """Trials that may still be started; negative where the budget was lowered."""
    n_begun = sum(trial.state in (TrialState.RUNNING, TrialState.WAITING) for trial in trials)
    return config.n_trials - n_finished(trials) - n_begun


def current_brackets(study: optuna.Study, trials: Sequence[FrozenTrial], config: StudyConfig) -> list[Bracket]:
    """The brackets that a study has opened, within its budget of today; none without halving."""
    if config.halving is None:
        return []
    return brackets_of(study, trials, n_left=max(0, trials_left(trials, config)))


def all_brackets(study: optuna.Study, trials: Sequence[FrozenTrial], loaded: LoadedStudy) -> list[Bracket]:
    """As `current_brackets`, with those that are still to be opened."""
    if loaded.study.halving is None:
        return []
    current = current_brackets(study, trials, loaded.study)
    n_new = trials_left(trials, loaded.study) - sum(bracket.n_open for bracket in current)
    planned = enumerate(planned_brackets(loaded, n_left=max(0, n_new)), start=len(current) + 1)
    return [*current, *(Bracket(number, one.n_trials, one.rungs, ()) for number, one in planned)]


def open_brackets(study: optuna.Study, loaded: LoadedStudy, *, n_left: int) -> None:
    """Opens brackets for so many trials that none has a place for. Needs the lock of the study."""
    opened = [*opened_brackets(study.user_attrs), *planned_brackets(loaded, n_left=n_left)]
    study.set_user_attr(BRACKETS, [one.as_attribute() for one in opened])


def planned_brackets(loaded: LoadedStudy, *, n_left: int) -> list[OpenedBracket]:
    """The brackets that are opened for so many trials."""
    pruner, epochs = loaded.study.halving, loaded.experiment.train.epochs
    assert pruner is not None
    has_several = len(loaded.study.objectives) > 1
    size = pruner.bracket_trials or (None if has_several else BRACKET_TRIALS)
    first = pruner.first_epochs or first_rung(epochs, warmup_epochs=_longest_warmup(loaded))
    planned = []
    for n_trials in bracket_sizes(n_left, size=size):
        n_finish = pruner.n_finish or n_finishing(n_trials, has_several=has_several)
        rungs = rungs_of(n_trials, epochs, first=first, n_finish=n_finish)
        planned.append(OpenedBracket(n_trials, epochs, rungs))
    return planned


def check_halving(loaded: LoadedStudy) -> list[str]:
    """A warning where halving would pause no trial of a study."""
    if loaded.study.halving is None:
        return []
    planned = planned_brackets(loaded, n_left=max(0, loaded.study.n_trials - len(loaded.study.enqueue)))
    if not planned or any(one.rungs for one in planned):
        return []
    sizes, epochs = "/".join(str(one.n_trials) for one in planned), loaded.experiment.train.epochs
    return [
        f"pruner halving pauses no trial: the first rung lies behind the last of {epochs} epochs, or all trials of a "
        f"bracket ({sizes}) finish; lower pruner.first_epochs or pruner.n_finish, or write pruner: null"
    ]


def _longest_warmup(loaded: LoadedStudy) -> float:
    """Epochs of the warm-up of any trial."""
    searched = loaded.study.space.get("train.schedule.warmup_epochs")
    own = loaded.experiment.train.schedule.warmup_epochs
    return own if searched is None else max(float(limit or 0) for limit in searched.limits())


def halving_trial(study: optuna.Study, trial: FrozenTrial) -> HalvingTrial:
    """What halving knows of a trial, its values turned so that larger is better; of bracket 0 if it is in none."""
    signs = [1.0 if direction == StudyDirection.MAXIMIZE else -1.0 for direction in study.directions]
    reached = [*trial.user_attrs.get(RUNG_VALUES, [])]
    if trial.state == TrialState.COMPLETE:
        excess = sum(max(0.0, excess) for excess in trial.constraints.values())
        reached.append({"values": trial.values, "excess": excess})
    values = tuple(_value(one, signs) for one in reached)
    is_complete = trial.state == TrialState.COMPLETE
    return HalvingTrial(
        number=trial.number,
        bracket=int(trial.user_attrs.get(BRACKET, 0)),
        status=_status(trial),
        values=values[:-1] if is_complete else values,
        final=values[-1] if is_complete else None,
    )


def _value(stored: Mapping[str, Any], signs: Sequence[float]) -> Value:
    objectives = tuple(_signed(value, sign) for value, sign in zip(stored["values"], signs, strict=True))
    halves = stored.get("halves")
    return Value(objectives, float(stored["excess"]), None if halves is None else (float(halves[0]), float(halves[1])))


def _signed(value: float | None, sign: float) -> float:
    """A value of which larger is better; an undefined one is the worst."""
    return -math.inf if value is None else sign * float(value)


def _status(trial: FrozenTrial) -> Status:
    if is_paused(trial):
        return "paused"
    names: dict[TrialState, Status] = {
        TrialState.RUNNING: "running",
        TrialState.WAITING: "waiting",
        TrialState.COMPLETE: "complete",
        TrialState.PRUNED: "pruned",
        TrialState.FAIL: "failed",
    }
    return names[trial.state]


def pause_at(brackets: Sequence[Bracket], trial: optuna.Trial) -> int | None:
    """The epoch at which the next leg of a trial ends, from 1; None where it is trained to its end."""
    number, n_reached = trial.user_attrs.get(BRACKET), len(trial.user_attrs.get(RUNG_VALUES, []))
    rungs = next((bracket.rungs for bracket in brackets if bracket.number == number), ())
    return rungs[n_reached].epoch if n_reached < len(rungs) else None


def write_rung(trial: optuna.Trial, epoch: int, value: Value) -> None:
    """Keeps what a running trial is worth at a rung; once it waits, it is paused there. Again it changes nothing.

    Args:
        value: with the objectives as they are, NaN where one is undefined.
    """
    reached = [*trial.user_attrs.get(RUNG_VALUES, [])]
    if not reached or reached[-1]["epoch"] < epoch:
        known = [one if math.isfinite(one) else None for one in value.objectives]
        halves = {} if value.halves is None else {"halves": list(value.halves)}
        excess = min(value.excess, sys.float_info.max)
        trial.set_user_attr(RUNG_VALUES, [*reached, {"epoch": epoch, "values": known, "excess": excess, **halves}])
        reached = trial.user_attrs[RUNG_VALUES]
    trial.set_user_attr(RUNG, len(reached))
    trial.set_user_attr(PAUSED, True)


def write_promotion(trial: optuna.Trial) -> None:
    """Keeps that a trial, which runs by now, was promoted from its last rung."""
    trial.set_user_attr(PROMOTED, len(trial.user_attrs[RUNG_VALUES]))
    trial.set_user_attr(PAUSED, False)


def end_paused(study: optuna.Study, trial: FrozenTrial, *, at: float) -> None:
    """Ends a paused trial as Optuna would one that its pruner ends. Needs the lock of the study.

    Args:
        at: now, UTC seconds since 1970 by the clock of the store.
    """
    storage = study._storage
    storage.set_trial_user_attr(trial._trial_id, ENDED_AT, at)
    storage.set_trial_user_attr(trial._trial_id, PAUSED, False)
    last = max(trial.intermediate_values, default=None)
    values = None if last is None else [trial.intermediate_values[last]]
    storage.set_trial_state_values(trial._trial_id, TrialState.PRUNED, values)
