"""A worker: claims a trial, runs it, records its end or returns it to the queue, and repeats this.

What an error means for the trial and for the study is decided here, in `explain_error`.
"""

from __future__ import annotations

import logging
from contextlib import closing, suppress
from dataclasses import replace

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from attnsearch.config.yaml_layers import to_yaml
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
from attnsearch.files import atomic_write, explain_os_error
from attnsearch.search.context import ClaimedTrial, SearchContext, Worker
from attnsearch.search.handle import StudyHandle
from attnsearch.search.launchers.orders import fit_together, spread_over
from attnsearch.search.objective import (
    IMAGES_AT_RUNGS,
    attach_images,
    evaluate_best,
    list_files,
    list_scores,
)
from attnsearch.search.queue import claim_next, pause_trial, return_to_queue
from attnsearch.search.space import trial_experiment
from attnsearch.search.study import (
    attributes,
    chooses_by_scores,
    constraint_values,
    objective_values,
    undefined_objective,
)
from attnsearch.store.servers import repeated
from attnsearch.types import TrialResult

logger = logging.getLogger(__name__)

POLL_S = 0.5


def run_worker(handle: StudyHandle, worker: Worker, data: DataSource, *, started_at: float) -> None:
    """Runs trials until the budget is spent, the study is failing, or a stop is asked for.

    Args:
        data: opened from the study's experiment; a trial that needs another one opens its own.
        started_at: UTC seconds since 1970; failures before it do not count towards "three in a row".

    Raises:
        AttnSearchError: an error that is not the setting's; the trial is returned first. A `TransientError` may pass,
            and another worker may continue; after any other the study cannot.
    """
    while not worker.stop.is_set() and not worker.is_orphan():
        claim = claim_next(handle, worker, started_at=started_at)
        if claim == "done":
            return
        if claim == "wait":
            worker.stop.wait(POLL_S)
        else:
            run_claim(handle, worker, claim, data)


def run_claim(handle: StudyHandle, worker: Worker, claim: ClaimedTrial, data: DataSource) -> None:
    """Runs one trial to its end, whatever that is, or to the rung where it pauses.

    Raises:
        AttnSearchError: an error that is not the setting's: config, data, store, device, or an unexpected exception. A
            fixed study has no other setting to try, so it ends with any error of its trial, which the next start
            continues.
    """
    try:
        ended = _run(handle, worker, claim, data)
        if ended.state == "paused":
            pause_trial(handle, claim, ended)
        else:
            _tell(handle, claim, ended)
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


def _run(handle: StudyHandle, worker: Worker, claim: ClaimedTrial, data: DataSource) -> TrialResult:
    number, attempt = claim.trial.number, claim.attempt
    config = trial_experiment(claim.trial, handle.loaded)
    layout = handle.layout.trial(number)
    with closing(SearchContext(handle, worker, claim, seed=config.seed)) as context:
        atomic_write(layout.config, to_yaml(config.model_dump(mode="json")), check=context.check)
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


@repeated
def _tell(handle: StudyHandle, claim: ClaimedTrial, ended: TrialResult) -> None:
    """The one place where a trial ends: attributes for the dashboard, constraints, state and values."""
    config, trial = handle.loaded.study, claim.trial
    values = objective_values(config, ended)
    if values is None and ended.state == "complete":
        ended = replace(ended, state="failed", error=undefined_objective(config, ended))
    with handle.store.exclusive():
        if not handle.is_finished(trial):  # else it was told already, and only the answer was lost
            handle.store.leases.check(trial.number, claim.attempt)
            for key, value in attributes(handle.layout, trial.number, ended).items():
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


def _tell_failed(handle: StudyHandle, claim: ClaimedTrial, reason: str) -> None:
    with suppress(LeaseLost, UpdateFinishedTrialError):
        _tell(handle, claim, _failed(reason))


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
