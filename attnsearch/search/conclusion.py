"""How a study ends, once, by the first process that finds its budget spent: a race, publication, retention."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from optuna.trial import TrialState

from attnsearch.data.loader import DataSource
from attnsearch.errors import LeaseLost, SearchStopped, StoreError, TrialInterrupted
from attnsearch.search.floors import measure_missing_floors
from attnsearch.search.handle import StudyHandle
from attnsearch.search.patience import N_FAILED_TO_STOP
from attnsearch.search.publish import publish_study, removable
from attnsearch.search.queue import has_failed
from attnsearch.search.racing import race
from attnsearch.search.recovery import is_gone, is_lost
from attnsearch.store.leases import HELD, PUBLICATION
from attnsearch.store.retention import remove

logger = logging.getLogger(__name__)

_RENEWALS_PER_LEASE = 4


def conclude(
    handle: StudyHandle, data: DataSource, *, holder: str, should_stop: Callable[[], bool] = lambda: False
) -> Path | None:
    """Races and publishes the best trials, and removes files if retention is automatic, unless another process does.

    Args:
        holder: the name of this process in the leases.
        should_stop: asked again and again; once true, the race ends.
    Returns:
        The manifest; None where nothing could be published, or where another process publishes.
    Raises:
        TrialInterrupted: `should_stop` was true.
    """
    with _publication(handle, holder) as check:
        if check is None:
            logger.info("another process publishes study %s", handle.loaded.study.name)
            return None

        def check_both() -> None:
            if should_stop():
                raise TrialInterrupted
            check()

        handle.remove_leftovers()
        try:
            race(handle, data, check=check_both)
            manifest = publish_study(handle, data, check=check)
            measure_missing_floors(handle, data, check=check_both)
            if handle.loaded.study.retention.automatic:
                remove(removable(handle))
        except LeaseLost:
            logger.warning("the publication was taken over by another process")
            return None
        return manifest


@contextmanager
def _publication(handle: StudyHandle, holder: str) -> Iterator[Callable[[], None] | None]:
    """Holds the lease of the publication during the block; yields what checks it, None where another process has it."""
    leases, duration_s = handle.store.leases, handle.loaded.study.lease_s
    with handle.store.exclusive():
        lease = leases.of_trial(PUBLICATION)
        if lease is not None and lease.state == HELD and not is_lost(handle, lease, is_gone):
            attempt = None
        else:
            attempt = leases.claim(PUBLICATION, holder, duration_s=duration_s)
    if attempt is None:
        yield None
        return
    with _renewed(handle, attempt, duration_s):
        try:
            yield lambda: leases.check(PUBLICATION, attempt)
        finally:
            with suppress(LeaseLost):
                leases.release(PUBLICATION, attempt, stalled=False)


@contextmanager
def _renewed(handle: StudyHandle, attempt: int, duration_s: float) -> Iterator[None]:
    """Renews the lease of the publication in the background; one that is lost is found by the next check."""
    is_over = threading.Event()

    def renew() -> None:
        while not is_over.wait(duration_s / _RENEWALS_PER_LEASE):
            with suppress(LeaseLost, StoreError):
                handle.store.leases.renew(PUBLICATION, attempt, duration_s=duration_s)

    thread = threading.Thread(target=renew, name="attnsearch-publication", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def explain_end(handle: StudyHandle) -> SearchStopped:
    """Why all workers have ended though no stop was asked for and trials are left."""
    study, trials = handle.loaded.study, handle.trials()
    if has_failed(handle):
        reasons = [f"trial {t.number}: {t.user_attrs['error']}" for t in trials if t.user_attrs.get("error")]
        failed = f"{N_FAILED_TO_STOP} trials failed in a row ({'; '.join(reasons[-N_FAILED_TO_STOP:])})"
        return SearchStopped(f"study {study.name!r} stopped: {failed}; `attnsearch search` starts it again")
    n_ended = len(handle.trials(TrialState.COMPLETE, TrialState.PRUNED))
    return SearchStopped(
        f"study {study.name!r} stopped: all workers ended by themselves after {n_ended} of "
        f"{study.n_trials} trials; see {handle.layout.worker_log('*')}, then start the search again"
    )
