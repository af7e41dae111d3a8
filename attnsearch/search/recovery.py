"""What becomes of a trial whose worker is lost or had to give up: it returns to the queue, or fails at last.

Every worker looks for lost ones before it claims a trial, so that a study needs no supervisor.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import optuna
from optuna.trial import FrozenTrial, TrialState

from attnsearch.errors import LeaseLost
from attnsearch.processes import ProcessName
from attnsearch.search.handle import StudyHandle
from attnsearch.search.study import ENDED_AT, RETURNED
from attnsearch.store.leases import HELD, Lease
from attnsearch.store.servers import repeated

logger = logging.getLogger(__name__)

MAX_STALLED_ATTEMPTS = 3
KILLED = "the worker was killed; often too little memory: lower train.batch_size or raise train.accumulation"


@repeated
def reclaim_lost_trials(handle: StudyHandle, *, is_dead: Callable[[str], bool]) -> list[int]:
    """Takes back every running trial that no living worker holds.

    Args:
        is_dead: whether the process behind a worker's name is known to be gone; its leases need not run out.

    Returns:
        Numbers of the trials that were taken back.
    """
    with handle.store.exclusive():
        return take_back_lost(handle, is_dead)


def is_gone(worker: str) -> bool:
    """Whether the process of a worker, by its name in the leases, is known to have ended."""
    process = ProcessName.of_worker(worker)
    return process is not None and process.is_gone


def take_back_lost(handle: StudyHandle, is_dead: Callable[[str], bool]) -> list[int]:
    """As `reclaim_lost_trials`; needs `handle.store.exclusive`."""
    running = handle.trials(TrialState.RUNNING)
    leases = {lease.number: lease for lease in handle.store.leases.held()} if running else {}
    seen = [(trial, leases.get(trial.number)) for trial in running]
    return [
        trial.number for trial, lease in seen if is_lost(handle, lease, is_dead) and _take_back(handle, trial, lease)
    ]


def is_lost(handle: StudyHandle, lease: Lease | None, is_dead: Callable[[str], bool]) -> bool:
    """Whether no living worker holds the trial of a lease; None is that of a trial which nobody holds.

    Ask and claim share a lock, so the worker of a running trial without a lease died in between. While the server was
    away nobody could renew a lease, so that one that ran out then may still be alive.
    """
    if lease is None or lease.state != HELD or is_dead(lease.worker):
        return True
    return lease.expires_at < handle.store.now() and not handle.store.was_away_within(handle.loaded.study.lease_s)


def _take_back(handle: StudyHandle, trial: FrozenTrial, seen: Lease | None) -> bool:
    """Whether it was still the attempt that was seen."""
    try:
        stalled = handle.store.leases.take_back(trial.number, seen.attempt if seen is not None else None)
    except LeaseLost:
        return False
    return_trial(handle, trial, stalled=stalled, reason=KILLED)
    return True


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
    for key, value in {"error": error, ENDED_AT: handle.store.now()}.items():
        handle.database.storage.set_trial_user_attr(trial._trial_id, key, value)
    handle.study.tell(trial.number, state=TrialState.FAIL)
