"""The queue of a study: which trial is next, and how one ends, pauses or returns.

Whatever changes the queue does so under `store.exclusive`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from attnsearch.config.study import StudyConfig
from attnsearch.errors import AttnSearchError, LeaseLost
from attnsearch.search.brackets import (
    BRACKET,
    PROMOTED,
    RUNG_VALUES,
    current_brackets,
    end_paused,
    is_paused,
    is_spent,
    open_brackets,
    pause_at,
    trials_left,
    write_promotion,
    write_rung,
)
from attnsearch.search.context import ClaimedTrial, Worker
from attnsearch.search.halving import Bracket, HalvingTrial, Value
from attnsearch.search.handle import StudyHandle
from attnsearch.search.patience import has_ended_early, is_failing, is_out_of_patience
from attnsearch.search.recovery import MAX_STALLED_ATTEMPTS, is_gone, return_trial, take_back_lost
from attnsearch.search.samplers import sampler_of
from attnsearch.search.slots import has_slot
from attnsearch.search.study import (
    attributes,
    constraint_values,
    derive_seed,
    objective_values,
    take_trial,
    undefined_objective,
)
from attnsearch.store.servers import repeated
from attnsearch.types import HALVES, TrialResult

logger = logging.getLogger(__name__)


@repeated
def claim_next(handle: StudyHandle, worker: Worker) -> ClaimedTrial | Literal["done", "wait"]:
    """The next trial under a fresh lease; "wait" while running trials may still fill the budget, or wake paused ones.

    Trials of lost workers return to the queue first. With halving, paused trials that are surely not among those that
    continue end.
    """
    config = handle.loaded.study
    with handle.store.exclusive():
        take_back_lost(handle, is_gone)
        trials, brackets = _end_decided(handle)
        held = handle.store.leases.held_by(worker.name)
        if held is not None:  # claimed before, but the answer was lost
            return _claimed(optuna.Trial(handle.study, trials[held.number]._trial_id), held.attempt, brackets)
        if is_spent(trials, config) or is_failing(trials, since=handle.started_at):
            return "done"
        has_room = has_slot(handle, worker.name, trials=trials)
        chosen = _choose(handle, trials, brackets) if has_room else "wait"
        if chosen == "wait":
            return "done" if has_ended_early(handle.study, config) else "wait"
        number = len(trials) if chosen is None else chosen.number
        handle.study.sampler = sampler_of(config, seed=derive_seed(config.seed, "sampler", number))
        trial = take_trial(handle.study, chosen) if chosen else _new_trial(handle, trials, brackets)
        attempt = handle.store.leases.claim(trial.number, worker.name, duration_s=config.lease_s)
        return _claimed(trial, attempt, brackets)


def _claimed(trial: optuna.Trial, attempt: int, brackets: Sequence[Bracket]) -> ClaimedTrial:
    """A trial that this worker owns; one that was paused is promoted by this."""
    n_rungs = len(trial.user_attrs.get(RUNG_VALUES, []))
    if n_rungs > trial.user_attrs.get(PROMOTED, 0):
        write_promotion(trial)
    return ClaimedTrial(trial, attempt, pause_at(brackets, trial), n_rungs)


def is_over(handle: StudyHandle) -> bool:
    """Whether the budget is spent, or the patience of the study, with no trial left that has begun."""
    config = handle.loaded.study
    return is_spent(handle.trials(), config) or has_ended_early(handle.study, config)


def has_failed(handle: StudyHandle) -> bool:
    """Whether trials failed one after the other since a person last started the study."""
    return is_failing(handle.trials(), since=handle.started_at)


def _end_decided(handle: StudyHandle) -> tuple[list[FrozenTrial], list[Bracket]]:
    """All trials and brackets, once the paused ones that cannot continue have ended, without their checkpoints."""
    trials = handle.trials()
    brackets = _brackets(handle, trials)
    numbers = [trial.number for bracket in brackets for trial in bracket.decided()[1]]
    if not numbers:
        return trials, brackets
    for number in numbers:
        end_paused(handle.study, trials[number], at=handle.store.now())
    handle.remove_resumes(numbers)
    trials = handle.trials()
    return trials, _brackets(handle, trials)


def _brackets(handle: StudyHandle, trials: Sequence[FrozenTrial]) -> list[Bracket]:
    return current_brackets(handle.study, trials, handle.loaded.study)


def _choose(
    handle: StudyHandle, trials: Sequence[FrozenTrial], brackets: Sequence[Bracket]
) -> FrozenTrial | Literal["wait"] | None:
    """The waiting or paused trial to run next; None asks for a new one.

    Interrupted and enqueued trials come first, then the promotion from the highest rung, then a new trial. Trials whose
    last attempts finished no epoch come last, so that others show whether the cause lies in them.
    """
    n_new, stalled = trials_left(trials, handle.loaded.study), handle.store.leases.stalled()
    waiting = _interrupted(trials, brackets, n_new=n_new)
    first = min(waiting, key=lambda trial: (trial.number in stalled, trial.number), default=None)
    if first is not None and first.number not in stalled:
        return first
    promoted = _promoted(brackets)
    if promoted is not None:
        return trials[promoted.number]
    if n_new > 0 and not _has_patience_ended(handle, brackets):
        return None
    return "wait" if first is None or _must_wait(trials, stalled[first.number]) else first


def _has_patience_ended(handle: StudyHandle, brackets: Sequence[Bracket]) -> bool:
    """Whether no new trials are started though the budget has some; a bracket that has begun is filled."""
    fillable = next((bracket for bracket in brackets if bracket.n_open), None)
    has_begun = fillable is not None and bool(fillable.members)
    return not has_begun and is_out_of_patience(handle.study, handle.loaded.study, handle.database.url)


def _promoted(brackets: Sequence[Bracket]) -> HalvingTrial | None:
    """The trial that continues from the highest rung, of the first bracket and the best there."""
    continuing = [trial for bracket in brackets for trial in bracket.decided()[0]]
    return max(continuing, key=lambda trial: (len(trial.values), -trial.bracket), default=None)


def _interrupted(trials: Sequence[FrozenTrial], brackets: Sequence[Bracket], *, n_new: int) -> list[FrozenTrial]:
    """Trials that wait for no others: interrupted, or enqueued; without brackets also those once paused.

    Args:
        n_new: from `trials_left`; below 0 the budget was lowered, and only those are left that others wait for.
    """
    waiting = [trial for trial in trials if trial.state == TrialState.WAITING and not (brackets and is_paused(trial))]
    if n_new + len(waiting) > 0:
        return waiting
    return [trial for trial in waiting if brackets and BRACKET in trial.user_attrs]


def _must_wait(trials: Sequence[FrozenTrial], n_stalled: int) -> bool:
    """Whether the last attempt before a trial fails must wait until it runs alone; neighbours may fill the device."""
    is_alone = all(trial.state != TrialState.RUNNING for trial in trials)
    return n_stalled >= MAX_STALLED_ATTEMPTS - 1 and not is_alone


def _new_trial(handle: StudyHandle, trials: Sequence[FrozenTrial], brackets: list[Bracket]) -> optuna.Trial:
    """A new running trial; with halving in a bracket, which may be opened for it and is then added to `brackets`."""
    if handle.loaded.study.halving is None:
        return take_trial(handle.study, None)
    if not any(bracket.n_open for bracket in brackets):
        open_brackets(handle.study, handle.loaded, n_left=trials_left(trials, handle.loaded.study))
        brackets += _brackets(handle, trials)[len(brackets) :]
    number = next(bracket.number for bracket in brackets if bracket.n_open)
    return take_trial(handle.study, None, attributes={BRACKET: number})


@repeated
def pause_trial(handle: StudyHandle, claim: ClaimedTrial, reached: TrialResult) -> None:
    """Has a trial wait at its rung, from where a later claim may continue it.

    Raises:
        LeaseLost: another worker has taken it over.
    """
    config, trial, leases = handle.loaded.study, claim.trial, handle.store.leases
    with handle.store.exclusive():
        leases.check(trial.number, claim.attempt)
        for key, value in attributes(handle.layout, trial.number, reached, at=handle.store.now()).items():
            trial.set_user_attr(key, value)
        write_rung(trial, reached.epochs_run, _value_of(config, reached.metrics))
        handle.return_to_waiting(trial)
        leases.release(trial.number, claim.attempt, stalled=False)
    logger.info("trial %d is paused after epoch %d", trial.number, reached.epochs_run)


def _value_of(config: StudyConfig, metrics: Mapping[str, float]) -> Value:
    """What a trial is worth by the metrics of its best epoch so far."""
    objectives = tuple(metrics.get(key, math.nan) for key in config.objectives)
    excess = sum(max(0.0, one) for one in constraint_values(config, metrics).values())
    half_a, half_b = (metrics.get(f"{config.monitor}{half}", math.nan) for half in HALVES)
    return Value(objectives, excess, (half_a, half_b) if math.isfinite(half_a + half_b) else None)


@repeated
def tell_trial(handle: StudyHandle, claim: ClaimedTrial, ended: TrialResult) -> None:
    """The one place where a trial ends: attributes for the dashboard, constraints, state and values."""
    config, trial = handle.loaded.study, claim.trial
    values = objective_values(config, ended)
    if values is None and ended.state == "complete":
        ended = replace(ended, state="failed", error=undefined_objective(config, ended))
    with handle.store.exclusive():
        if not handle.is_finished(trial):  # else it was told already, and only the answer was lost
            handle.store.leases.check(trial.number, claim.attempt)
            for key, value in attributes(handle.layout, trial.number, ended, at=handle.store.now()).items():
                trial.set_user_attr(key, value)
            if ended.state == "complete":
                for name, excess in constraint_values(config, ended.metrics).items():
                    trial.set_constraint(name, excess)
            state = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
            handle.tell(trial, values if ended.state == "complete" else None, state[ended.state])
        handle.store.leases.release(trial.number, claim.attempt, stalled=False)
    outcome = {"complete": f"complete with {values}", "pruned": "pruned", "failed": f"failed: {ended.error}"}
    logger.info("trial %d: %s", trial.number, outcome[ended.state])
    handle.remove_resumes([trial.number])


@repeated
def return_to_queue(handle: StudyHandle, claim: ClaimedTrial, *, error: AttnSearchError | None = None) -> None:
    """Returns a running trial to WAITING, from where it continues after its last epoch.

    Args:
        error: what ended the attempt, which then counts; None for a stop that was asked for.
    """
    number = claim.trial.number
    with handle.store.exclusive(), suppress(LeaseLost):
        stalled = handle.store.leases.release(number, claim.attempt, stalled=error is not None)
        if error is None:
            handle.return_to_waiting(claim.trial)
            logger.info("trial %d returns to the queue", number)
        else:
            return_trial(handle, claim.trial, stalled=stalled, reason=str(error))
