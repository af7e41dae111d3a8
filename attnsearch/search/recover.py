"""Returns trials whose worker is gone to WAITING, under their number; gives up on those that kill every worker."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from optuna.trial import FrozenTrial, TrialState

from attnsearch.errors import LeaseLost
from attnsearch.search.session import Session
from attnsearch.search.study import ENDED_AT
from attnsearch.store.leases import HELD, Lease

logger = logging.getLogger(__name__)

MAX_STALLED_ATTEMPTS = 3
KILLED_REPEATEDLY = (
    f"killed repeatedly: {MAX_STALLED_ATTEMPTS} attempts in a row finished no epoch; "
    "often too little memory: lower train.batch_size or raise train.accumulation"
)


def recover(session: Session, *, is_dead: Callable[[str], bool]) -> list[int]:
    """Takes back every running trial that no living worker holds.

    Args:
        is_dead: whether the process behind a worker's name is known to be gone; its leases need not run out.

    Returns:
        Numbers of the trials that were taken back.
    """
    with session.exclusive():
        seen = [(trial, session.leases.of_trial(trial.number)) for trial in session.trials(TrialState.RUNNING)]
        return [trial.number for trial, lease in seen if _is_lost(lease, is_dead) and _take_back(session, trial, lease)]


def _is_lost(lease: Lease | None, is_dead: Callable[[str], bool]) -> bool:
    """Whether no living worker holds the trial; ask and claim share a lock, so one without a lease died in between."""
    return lease is None or lease.state != HELD or lease.expires_at < time.time() or is_dead(lease.worker)


def _take_back(session: Session, trial: FrozenTrial, seen: Lease | None) -> bool:
    """Whether it was still the attempt that was seen; the lock does not reach a search on another machine."""
    try:
        stalled = session.leases.take_back(trial.number, seen.attempt if seen is not None else None)
    except LeaseLost:
        return False
    if stalled < MAX_STALLED_ATTEMPTS:
        logger.info("trial %d lost its worker and goes back to waiting", trial.number)
        session.return_to_waiting(trial)
        return True
    logger.warning("trial %d failed: %s", trial.number, KILLED_REPEATEDLY)
    storage = session.database.storage
    for key, value in {"error": KILLED_REPEATEDLY, ENDED_AT: time.time()}.items():
        storage.set_trial_user_attr(trial._trial_id, key, value)
    session.study.tell(trial.number, state=TrialState.FAIL)
    return True
