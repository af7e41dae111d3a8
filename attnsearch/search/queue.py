"""The queue of a study: which trial is next, who holds it, and how one returns whose attempt has ended.

Whatever changes the queue does so under `store.exclusive`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from attnsearch.config.study import StudyConfig
from attnsearch.errors import AttnSearchError, LeaseLost
from attnsearch.search.context import Worker
from attnsearch.search.handle import StudyHandle
from attnsearch.search.study import ENDED_AT, RETURNED, build_sampler, derive_seed, take_trial
from attnsearch.search.trials import is_failing
from attnsearch.store.leases import HELD, Lease
from attnsearch.store.servers import repeated

logger = logging.getLogger(__name__)

MAX_STALLED_ATTEMPTS = 3
KILLED = "the worker was killed; often too little memory: lower train.batch_size or raise train.accumulation"


@dataclass(frozen=True)
class ClaimedTrial:
    """A trial that this worker owns until its lease runs out."""

    trial: optuna.Trial
    attempt: int


@repeated
def claim_next(handle: StudyHandle, worker: Worker, *, started_at: float) -> ClaimedTrial | Literal["done", "wait"]:
    """The next trial under a fresh lease; "wait" while running trials may still fill the budget."""
    config = handle.loaded.study
    with handle.store.exclusive():
        trials = handle.trials()
        held = handle.store.leases.held_by(worker.name)
        if held is not None:  # claimed before, but the answer was lost
            return ClaimedTrial(optuna.Trial(handle.study, trials[held.number]._trial_id), held.attempt)
        if n_finished(trials, config) >= config.n_trials or is_failing(trials, since=started_at):
            return "done"
        waiting = _next_waiting(handle, trials)
        if waiting == "wait":
            return "wait"
        number = len(trials) if waiting is None else waiting.number
        handle.study.sampler = build_sampler(config, seed=derive_seed(config.seed, "sampler", number))
        trial = take_trial(handle.study, waiting)
        attempt = handle.store.leases.claim(trial.number, worker.name, duration_s=config.lease_s)
    return ClaimedTrial(trial, attempt)


def n_finished(trials: Sequence[FrozenTrial], config: StudyConfig) -> int:
    """Trials that count against the budget: complete and pruned ones; where settings are repeated, failed ones too."""
    states = {TrialState.COMPLETE, TrialState.PRUNED, *([TrialState.FAIL] if config.repeats else [])}
    return sum(trial.state in states for trial in trials)


def _next_waiting(handle: StudyHandle, trials: Sequence[FrozenTrial]) -> FrozenTrial | Literal["wait"] | None:
    """The waiting trial to run next; None asks for a new one.

    Trials whose last attempts finished no epoch come last, so that others show whether the cause lies in them. The last
    attempt before such a trial fails runs alone: its neighbours may have filled the device.
    """
    config, n_running = handle.loaded.study, sum(trial.state == TrialState.RUNNING for trial in trials)
    n_trials, n_taken = config.n_trials, n_finished(trials, config) + n_running
    waiting = [trial for trial in trials if trial.state == TrialState.WAITING]
    if n_taken >= n_trials:
        return "wait"
    if not waiting:
        return None
    stalled = handle.store.leases.stalled()
    first = min(waiting, key=lambda trial: (trial.number in stalled, trial.number))
    if first.number in stalled and n_taken + len(waiting) < n_trials:
        return None
    needs_device_alone = stalled.get(first.number, 0) >= MAX_STALLED_ATTEMPTS - 1
    return "wait" if needs_device_alone and n_running else first


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


def return_trial(handle: StudyHandle, trial: FrozenTrial | optuna.Trial, *, stalled: int, reason: str) -> None:
    """Makes the next claim continue a trial from its last epoch; its lease has ended. Needs `handle.store.exclusive`.

    After three attempts in a row without a new epoch the trial fails, but only if other trials have finished epochs
    since the first of them: otherwise the cause may be the machine.

    Args:
        stalled: attempts in a row that finished no new epoch, the last one included.
        reason: what ended the last attempt, shown with the trial.
    """
    storage, elsewhere = handle.database.storage, handle.store.leases.n_epochs(without=trial.number)
    before = trial.user_attrs.get(RETURNED, {}).get("epochs_elsewhere", elsewhere) if stalled > 1 else elsewhere
    if stalled >= MAX_STALLED_ATTEMPTS and elsewhere > before:
        _fail(handle, trial, f"{stalled} attempts in a row finished no epoch: {reason}")
        return
    note = {"reason": reason, "attempts": stalled, "epochs_elsewhere": before}
    storage.set_trial_user_attr(trial._trial_id, RETURNED, note)
    handle.return_to_waiting(trial)
    logger.info("trial %d returns to the queue: %s", trial.number, reason)


def _fail(handle: StudyHandle, trial: FrozenTrial | optuna.Trial, error: str) -> None:
    logger.warning("trial %d failed: %s", trial.number, error)
    for key, value in {"error": error, ENDED_AT: time.time()}.items():
        handle.database.storage.set_trial_user_attr(trial._trial_id, key, value)
    handle.study.tell(trial.number, state=TrialState.FAIL)


@repeated
def reclaim_lost_trials(handle: StudyHandle, *, is_dead: Callable[[str], bool]) -> list[int]:
    """Takes back every running trial that no living worker holds.

    Args:
        is_dead: whether the process behind a worker's name is known to be gone; its leases need not run out.

    Returns:
        Numbers of the trials that were taken back.
    """
    with handle.store.exclusive():
        seen = [(trial, handle.store.leases.of_trial(trial.number)) for trial in handle.trials(TrialState.RUNNING)]
        return [
            trial.number
            for trial, lease in seen
            if _is_lost(handle, lease, is_dead) and _take_back(handle, trial, lease)
        ]


def _is_lost(handle: StudyHandle, lease: Lease | None, is_dead: Callable[[str], bool]) -> bool:
    """Whether no living worker holds the trial; ask and claim share a lock, so one without a lease died in between.

    While the server was away nobody could renew a lease, so that one that ran out then may still be alive.
    """
    if lease is None or lease.state != HELD or is_dead(lease.worker):
        return True
    return lease.expires_at < handle.store.now() and not handle.store.was_away_within(handle.loaded.study.lease_s)


def _take_back(handle: StudyHandle, trial: FrozenTrial, seen: Lease | None) -> bool:
    """Whether it was still the attempt that was seen; the lock does not reach a search on another machine."""
    try:
        stalled = handle.store.leases.take_back(trial.number, seen.attempt if seen is not None else None)
    except LeaseLost:
        return False
    return_trial(handle, trial, stalled=stalled, reason=KILLED)
    return True
