"""A worker: claims a trial, runs it, records its end or returns it to the queue, and repeats this.

What an error means for the trial and for the study is decided here, in `explain_error`.
"""

from __future__ import annotations

import logging
import random
import time
from contextlib import closing, suppress

from optuna.exceptions import UpdateFinishedTrialError

from attnsearch.data.loader import DataSource
from attnsearch.device import classify_device_error
from attnsearch.errors import (
    AttnSearchError,
    LeaseLost,
    ServerUnavailable,
    StoreError,
    TrialError,
    TrialInterrupted,
    UnexpectedError,
    UsageError,
)
from attnsearch.files import explain_os_error
from attnsearch.search.context import ClaimedTrial, SearchContext, Worker
from attnsearch.search.handle import StudyHandle
from attnsearch.search.launchers.orders import fit_together, spread_over
from attnsearch.search.logs import TrialLog
from attnsearch.search.membership import await_checkpoint
from attnsearch.search.objective import (
    IMAGES_AT_RUNGS,
    attach_images,
    evaluate_best,
    list_files,
    list_scores,
)
from attnsearch.search.queue import claim_next, pause_trial, return_to_queue, tell_trial
from attnsearch.search.space import trial_experiment
from attnsearch.search.study import (
    chooses_by_scores,
)
from attnsearch.types import TrialResult

logger = logging.getLogger(__name__)

LONGEST_PAUSE_S, SHORTEST_PAUSE_S, _PART_OF_WAIT = 10.0, 0.5, 0.05
"""Between two looks of a worker that waits for others; in between a part of the time that it has waited."""
CLAIM_EVERY_S = 5.0
"""How long after a claim that found nothing to do the next one follows, though no trial began or ended."""


def run_worker(handle: StudyHandle, worker: Worker, data: DataSource, *, until_idle: bool = False) -> None:
    """Runs trials until the budget is spent, the study is failing, or a stop is asked for.

    Args:
        data: opened from the study's experiment; a trial that needs another one opens its own.
        until_idle: whether it ends as soon as it would have to wait for the trials of other workers.

    Raises:
        AttnSearchError: an error that is not the setting's; the trial is returned first. A `TransientError` may pass,
            and another worker may continue; after any other the study cannot.
    """
    idle_since: float | None = None
    while not worker.stop.is_set() and not worker.is_orphan():
        claim = claim_next(handle, worker)
        if claim == "done" or (claim == "wait" and until_idle):
            return
        if claim == "wait":
            idle_since = idle_since or time.monotonic()
            wait_for_others(handle, worker, idle_since=idle_since)
        else:
            idle_since = None
            run_claim(handle, worker, claim, data)


def wait_for_others(handle: StudyHandle, worker: Worker, *, idle_since: float) -> None:
    """Returns once another worker has begun or ended a trial, or may be lost, or this one was asked to stop.

    It looks without the lock of the study, and the less often the longer it has waited.

    Args:
        idle_since: when this worker had nothing to do any more, in seconds of `time.monotonic`.
    """
    claimed_at, seen = time.monotonic(), handle.store.leases.n_changes()
    while not worker.stop.is_set() and not worker.is_orphan():
        pause_s = _PART_OF_WAIT * (time.monotonic() - idle_since)
        worker.stop.wait(min(LONGEST_PAUSE_S, max(SHORTEST_PAUSE_S, pause_s)) * random.uniform(0.8, 1.2))
        if time.monotonic() - claimed_at > CLAIM_EVERY_S or handle.store.leases.n_changes() != seen:
            return


def run_claim(handle: StudyHandle, worker: Worker, claim: ClaimedTrial, data: DataSource) -> None:
    """Runs one trial to its end, whatever that is, or to the rung where it pauses.

    Raises:
        AttnSearchError: an error that is not the setting's: config, data, store, device, or an unexpected exception. A
            fixed study has no other setting to try, so it ends with any error of its trial, which the next start
            continues.
    """
    with closing(TrialLog(handle, claim.trial)) as log:
        _run_logged(handle, worker, claim, data, log)


def _run_logged(handle: StudyHandle, worker: Worker, claim: ClaimedTrial, data: DataSource, log: TrialLog) -> None:
    """As `run_claim`; what the log hears of the end is read from the database once this has returned."""
    try:
        ended = _run(handle, worker, claim, data, log)
        if ended.state == "paused":
            pause_trial(handle, claim, ended)
        else:
            tell_trial(handle, claim, ended)
    except (LeaseLost, UpdateFinishedTrialError):  # the second: the attempt that took over has ended the trial too
        logger.warning(
            "trial %d was taken over by another worker; this attempt (%d) ends", claim.trial.number, claim.attempt
        )
    except TrialInterrupted:
        return_to_queue(handle, claim)
    except Exception as error:
        explained = explain_error(error, handle)
        if isinstance(explained, TrialError) and not handle.loaded.study.is_fixed:
            _tell_failed(handle, claim, str(explained))
            return
        _return_after(handle, claim, explained)
        raise explained from (None if explained is error else error)


def explain_error(error: Exception, handle: StudyHandle) -> AttnSearchError:
    """What an exception out of a trial means; its type decides what becomes of the trial and of the study.

    `TrialError`: the setting is bad, the trial fails and the study continues. `TransientError`: the trial is returned
    and another worker continues it. Any other: the trial is returned and the study stops until someone acts. A
    `UsageError` is of a user's call; within a trial it is unexpected.
    """
    if isinstance(error, AttnSearchError) and not isinstance(error, UsageError):
        return error
    if isinstance(error, OSError):
        return explain_os_error(error, handle.layout.study_dir)
    text = " ".join(str(error).split())
    return classify_device_error(error) or UnexpectedError(f"unexpected {type(error).__name__}: {text}")


def _run(handle: StudyHandle, worker: Worker, claim: ClaimedTrial, data: DataSource, log: TrialLog) -> TrialResult:
    number, attempt = claim.trial.number, claim.attempt
    config = trial_experiment(claim.trial, handle.loaded)
    layout = handle.layout.trial(number)
    with closing(SearchContext(handle, worker, claim, seed=config.seed, log=log)) as context:
        await_checkpoint(handle, number, worker.stop.is_set)
        context.begin(config)
        source = data.serving(config.data)
        spread = spread_over(worker.ranks, config, layout)
        result = fit_together(config, context, data=source, ranks=worker.ranks)
        if result.state == "complete":
            result = evaluate_best(config, result, context, source, spread=spread)
            list_files(handle, number, attempt)
            list_scores(handle, claim.trial, attempt)
            attach_images(handle, claim.trial, source, check=context.check)
        elif result.state == "paused" and chooses_by_scores(handle.loaded.study):
            few = IMAGES_AT_RUNGS[min(claim.n_rungs, 1)]
            result = evaluate_best(config, result, context, source, spread=spread, n_images=few)
        context.flush()
    return result


def _tell_failed(handle: StudyHandle, claim: ClaimedTrial, reason: str) -> None:
    with suppress(LeaseLost, UpdateFinishedTrialError):
        tell_trial(handle, claim, _failed(reason))


def _failed(reason: str) -> TrialResult:
    return TrialResult(
        state="failed", best_epoch=0, epochs_run=0, metrics={}, seconds=0.0, images_per_s=0.0, error=reason
    )


def _return_after(handle: StudyHandle, claim: ClaimedTrial, error: AttnSearchError) -> None:
    """Returns the trial where the store still takes it; else `reclaim_lost_trials` does, once this worker is gone."""
    if isinstance(error, ServerUnavailable):
        return
    try:
        return_to_queue(handle, claim, error=error)
    except StoreError as refusal:
        logger.warning("trial %d stays with this worker until the next start: %s", claim.trial.number, refusal)
