"""A worker: asks for a trial, runs it, tells how it ended, and again. What an error means is decided here."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Literal

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import with_settings
from attnsearch.config.study import StudyConfig
from attnsearch.config.yaml_layers import to_yaml
from attnsearch.data.loader import DataSource
from attnsearch.device import classify_device_error
from attnsearch.errors import (
    AttnSearchError,
    ConfigError,
    LeaseLost,
    ServerUnavailable,
    StoreError,
    TrialError,
    TrialInterrupted,
    UnexpectedError,
)
from attnsearch.files import atomic_write, explain_os_error
from attnsearch.metrics.registry import is_score
from attnsearch.search.context import SearchContext, Worker
from attnsearch.search.handle import StudyHandle
from attnsearch.search.objective import attach_pictures, evaluate_best, list_files, list_scores
from attnsearch.search.space import suggest_settings
from attnsearch.search.study import ENDED_AT, RETURNED, build_sampler, derive_seed, is_failing, n_finished, take_trial
from attnsearch.store.leases import HELD, Lease
from attnsearch.store.retention import remove_resumes
from attnsearch.store.servers import repeated
from attnsearch.training.trainer import fit
from attnsearch.types import TrialResult

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


def return_trial(handle: StudyHandle, trial: FrozenTrial | optuna.Trial, *, stalled: int, reason: str) -> None:
    """Makes the next claim continue a trial from its last epoch; its lease has ended. Needs `handle.store.exclusive`.

    After three attempts in a row without a new epoch the trial fails, but only if other trials have finished epochs
    since the first of them: otherwise the fault may be the machine's.

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


POLL_S = 0.5


@dataclass(frozen=True)
class ClaimedTrial:
    """A trial that this worker owns until its lease runs out."""

    trial: optuna.Trial
    attempt: int


def run_worker(handle: StudyHandle, worker: Worker, data: DataSource, *, started_at: float) -> None:
    """Runs trials until the budget is spent, the study is failing, or someone asks to stop.

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


@repeated
def claim_next(handle: StudyHandle, worker: Worker, *, started_at: float) -> ClaimedTrial | Literal["done", "wait"]:
    """The next trial under a fresh lease; "wait" while running trials may still fill the budget."""
    config = handle.loaded.study
    with handle.store.exclusive():
        trials = handle.trials()
        held = handle.store.leases.held_by(worker.name)
        if held is not None:  # claimed before, but the answer was lost
            return ClaimedTrial(optuna.Trial(handle.study, trials[held.number]._trial_id), held.attempt)
        if n_finished(trials) >= config.n_trials or is_failing(trials, since=started_at):
            return "done"
        chosen = _choose(handle, trials)
        if chosen == "wait":
            return "wait"
        number = len(trials) if chosen is None else chosen.number
        handle.study.sampler = build_sampler(config, seed=derive_seed(config.seed, "sampler", number))
        trial = take_trial(handle.study, chosen)
        attempt = handle.store.leases.claim(trial.number, worker.name, duration_s=config.lease_s)
    return ClaimedTrial(trial, attempt)


def _choose(handle: StudyHandle, trials: Sequence[FrozenTrial]) -> FrozenTrial | Literal["wait"] | None:
    """The waiting trial to run next; None is a new one.

    Trials whose last attempts finished no epoch come last, so that others show whether the fault is theirs, and before
    one is blamed it is tried alone: its neighbours may have filled the device.
    """
    n_trials, n_running = handle.loaded.study.n_trials, sum(trial.state == TrialState.RUNNING for trial in trials)
    n_taken = n_finished(trials) + n_running
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


def run_claim(handle: StudyHandle, worker: Worker, claim: ClaimedTrial, data: DataSource) -> None:
    """Runs one trial to its end, whatever that is.

    Raises:
        AttnSearchError: an error that is not the setting's: config, data, store, device, or an unexpected exception. A
            fixed study has no other setting to try, so it ends with any error of its trial, which the next start
            continues.
    """
    try:
        ended = _run(handle, worker, claim, data)
        _tell(handle, claim, ended)
    except (LeaseLost, UpdateFinishedTrialError):  # the second: the attempt that took over has ended the trial too
        logger.warning(
            "trial %d was taken over by another worker; this attempt (%d) ends", claim.trial.number, claim.attempt
        )
    except TrialInterrupted:
        return_to_queue(handle, claim)
    except Exception as error:
        fault = explain_fault(error, handle)
        if isinstance(fault, TrialError) and not handle.loaded.study.is_fixed:
            _tell_failed(handle, claim, str(fault))
            return
        _give_back_after(handle, claim, fault)
        raise fault from (None if fault is error else error)


def explain_fault(error: Exception, handle: StudyHandle) -> AttnSearchError:
    """What an exception out of a trial means; its type decides what becomes of the trial and of the study.

    `TrialError`: the setting is bad, the trial fails and the study continues. `TransientError`: the trial is returned
    and another worker continues it. Any other: the trial is returned and the study stops until a person acts.
    """
    if isinstance(error, AttnSearchError):
        return error
    if isinstance(error, OSError):
        return explain_os_error(error, handle.layout.study_dir)
    text = " ".join(str(error).split())
    return classify_device_error(error) or UnexpectedError(f"unexpected {type(error).__name__}: {text}")


def _give_back_after(handle: StudyHandle, claim: ClaimedTrial, fault: AttnSearchError) -> None:
    """Returns the trial where the store still takes it; else `reclaim_lost_trials` does, once this worker is gone."""
    if isinstance(fault, ServerUnavailable):
        return
    try:
        return_to_queue(handle, claim, fault=fault)
    except StoreError as error:
        logger.warning("trial %d stays with this worker until the next start: %s", claim.trial.number, error)


def _run(handle: StudyHandle, worker: Worker, claim: ClaimedTrial, data: DataSource) -> TrialResult:
    number, attempt = claim.trial.number, claim.attempt
    config = trial_config(handle, claim.trial)
    layout = handle.layout.trial(number)
    with closing(
        SearchContext(handle, worker, claim.trial, attempt=attempt, seed=config.seed, directory=layout.directory)
    ) as context:
        atomic_write(layout.config, to_yaml(config.model_dump(mode="json")), check=context.check)
        source = data.serving(config.data)
        result = fit(config, context, data=source)
        if result.state == "complete":
            result = evaluate_best(config, result, layout, source, check=context.check)
            list_files(handle, number, attempt)
            list_scores(handle, claim.trial, attempt)
            attach_pictures(handle, claim.trial, source, check=context.check)
        context.flush()
    return result


def trial_config(handle: StudyHandle, trial: optuna.Trial) -> ExperimentConfig:
    """The experiment of one trial; its seed derives from the study's seed and its number, that of a fixed one stays.

    Raises:
        TrialError: the drawn values do not fit together.
    """
    if handle.loaded.study.is_fixed:
        return handle.loaded.experiment
    settings = suggest_settings(trial, handle.loaded.study.space)
    seed = derive_seed(handle.loaded.study.seed, "trial", trial.number)
    try:
        return with_settings(handle.loaded.experiment, {**settings, "seed": seed})
    except ConfigError as error:
        raise TrialError("; ".join(str(error).splitlines())) from error


@repeated
def return_to_queue(handle: StudyHandle, claim: ClaimedTrial, *, fault: AttnSearchError | None = None) -> None:
    """Returns a running trial to WAITING, from where it continues after its last epoch.

    Args:
        fault: what ended the attempt, which then counts; None for a stop that somebody asked for.
    """
    number = claim.trial.number
    with handle.store.exclusive(), suppress(LeaseLost):
        stalled = handle.store.leases.release(number, claim.attempt, stalled=fault is not None)
        if fault is None:
            handle.return_to_waiting(claim.trial)
            logger.info("trial %d returns to the queue", number)
        else:
            return_trial(handle, claim.trial, stalled=stalled, reason=str(fault))


def _tell_failed(handle: StudyHandle, claim: ClaimedTrial, reason: str) -> None:
    with suppress(LeaseLost):
        _tell(handle, claim, _failed(reason))


def _failed(reason: str) -> TrialResult:
    return TrialResult(
        state="failed", best_epoch=0, epochs_run=0, metrics={}, seconds=0.0, images_per_s=0.0, error=reason
    )


@repeated
def _tell(handle: StudyHandle, claim: ClaimedTrial, ended: TrialResult) -> None:
    """The one place where a trial ends: attributes for the dashboard, constraints, state and values."""
    config, trial = handle.loaded.study, claim.trial
    values = objective_values(config, ended)
    if values is None and ended.state == "complete":
        ended = _failed(_undefined(config, ended))
    with handle.store.exclusive():
        if not handle.is_finished(trial):  # else it was told already, and only the answer was lost
            handle.store.leases.check(trial.number, claim.attempt)
            for key, value in attributes(handle, trial.number, ended).items():
                trial.set_user_attr(key, value)
            if ended.state == "complete":
                for name, excess in constraint_values(config, ended.metrics).items():
                    trial.set_constraint(name, excess)
            state = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
            handle.study.tell(trial, values if ended.state == "complete" else None, state=state[ended.state])
        handle.store.leases.release(trial.number, claim.attempt, stalled=False)
    logger.info(
        "trial %d ended %s%s", trial.number, ended.state, f": {ended.error}" if ended.error else f" with {values}"
    )
    if not config.retention.resume:
        remove_resumes([trial.number], handle.layout)


def objective_values(config: StudyConfig, ended: TrialResult) -> list[float] | None:
    """The objectives in the order of the study file, or None where one is missing or not finite."""
    values = [ended.metrics.get(key, math.nan) for key in config.objectives]
    return values if all(math.isfinite(value) for value in values) else None


def _undefined(config: StudyConfig, ended: TrialResult) -> str:
    """Says which objective has no value, and for a score why; one that is undefined counts, see `score_trial`."""
    key = next(key for key in config.objectives if not math.isfinite(ended.metrics.get(key, math.nan)))
    reason = ": the model makes no maps that could be scored" if is_score(key.partition("/")[2]) else ""
    return f"{key} is not a finite number{reason}"


def constraint_values(config: StudyConfig, metrics: Mapping[str, float]) -> dict[str, float]:
    """Constraint name -> how far the best checkpoint lies outside it; <= 0 is feasible."""
    excess = {}
    for key, bound in config.constraints.items():
        value = metrics.get(key, math.nan)
        outside = value - bound.at_most if bound.at_most is not None else (bound.at_least or 0.0) - value
        excess[key] = outside if math.isfinite(outside) else math.inf
    return excess


def attributes(handle: StudyHandle, number: int, ended: TrialResult) -> dict[str, object]:
    """What a person wants to see and sort in the dashboard's table."""
    shown: dict[str, object] = {
        "best_epoch": ended.best_epoch,
        "epochs_run": ended.epochs_run,
        "seconds": round(ended.seconds, 3),
        "images_per_s": round(ended.images_per_s, 1),
        **{key: value for key, value in ended.metrics.items() if math.isfinite(value)},
        "folder": str(handle.layout.trial(number).directory.relative_to(handle.layout.root)),
        ENDED_AT: time.time(),
    }
    return {**shown, "error": ended.error} if ended.error else shown
