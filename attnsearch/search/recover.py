"""Returns trials to WAITING, under their number: those whose worker is gone, and those that a fault interrupted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import optuna
from optuna.trial import FrozenTrial, TrialState

from attnsearch.errors import LeaseLost
from attnsearch.search.session import Session
from attnsearch.search.study import ENDED_AT, RETURNED
from attnsearch.store.leases import HELD, Lease
from attnsearch.store.servers import repeated

logger = logging.getLogger(__name__)

MAX_STALLED_ATTEMPTS = 3
KILLED = "the worker was killed; often too little memory: lower train.batch_size or raise train.accumulation"


@repeated
def recover(session: Session, *, is_dead: Callable[[str], bool]) -> list[int]:
    """Takes back every running trial that no living worker holds.

    Args:
        is_dead: whether the process behind a worker's name is known to be gone; its leases need not run out.

    Returns:
        Numbers of the trials that were taken back.
    """
    with session.exclusive():
        seen = [(trial, session.leases.of_trial(trial.number)) for trial in session.trials(TrialState.RUNNING)]
        return [
            trial.number
            for trial, lease in seen
            if _is_lost(session, lease, is_dead) and _take_back(session, trial, lease)
        ]


def _is_lost(session: Session, lease: Lease | None, is_dead: Callable[[str], bool]) -> bool:
    """Whether no living worker holds the trial; ask and claim share a lock, so one without a lease died in between.

    While the server was away nobody could renew a lease, so that one that ran out then may still be alive.
    """
    if lease is None or lease.state != HELD or is_dead(lease.worker):
        return True
    return lease.expires_at < time.time() and not session.database.was_away_within(session.loaded.study.lease_s)


def _take_back(session: Session, trial: FrozenTrial, seen: Lease | None) -> bool:
    """Whether it was still the attempt that was seen; the lock does not reach a search on another machine."""
    try:
        stalled = session.leases.take_back(trial.number, seen.attempt if seen is not None else None)
    except LeaseLost:
        return False
    return_trial(session, trial, stalled=stalled, reason=KILLED)
    return True


def return_trial(session: Session, trial: FrozenTrial | optuna.Trial, *, stalled: int, reason: str) -> None:
    """Makes the next claim continue a trial from its last epoch; its lease has ended. Needs `session.exclusive`.

    After three attempts in a row without a new epoch the trial fails, but only if other trials have finished epochs
    since the first of them: otherwise the fault may be the machine's.

    Args:
        stalled: attempts in a row that finished no new epoch, the last one included.
        reason: what ended the last attempt, shown with the trial.
    """
    storage, elsewhere = session.database.storage, session.leases.n_epochs(without=trial.number)
    before = trial.user_attrs.get(RETURNED, {}).get("epochs_elsewhere", elsewhere) if stalled > 1 else elsewhere
    if stalled >= MAX_STALLED_ATTEMPTS and elsewhere > before:
        _fail(session, trial, f"{stalled} attempts in a row finished no epoch: {reason}")
        return
    note = {"reason": reason, "attempts": stalled, "epochs_elsewhere": before}
    storage.set_trial_user_attr(trial._trial_id, RETURNED, note)
    session.return_to_waiting(trial)
    logger.info("trial %d goes back to waiting: %s", trial.number, reason)


def _fail(session: Session, trial: FrozenTrial | optuna.Trial, error: str) -> None:
    logger.warning("trial %d failed: %s", trial.number, error)
    for key, value in {"error": error, ENDED_AT: time.time()}.items():
        session.database.storage.set_trial_user_attr(trial._trial_id, key, value)
    session.study.tell(trial.number, state=TrialState.FAIL)
