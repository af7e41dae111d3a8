"""A search from its start to its publication: the plan, the launcher, stopping, the published trial."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from optuna.trial import TrialState

from attnsearch.config.load import LoadedStudy
from attnsearch.errors import SearchStopped, StoreError, TrialInterrupted
from attnsearch.files import atomic_write, remove_stale_temporaries
from attnsearch.search.handle import StudyHandle, only_runner
from attnsearch.search.launchers import Launcher
from attnsearch.search.launchers.local import launcher_of
from attnsearch.search.launchers.local import standing_by as standing_by
from attnsearch.search.patience import N_FAILED_TO_STOP, is_failing
from attnsearch.search.plan import SearchPlan, study_file
from attnsearch.search.publish import publish_study, removable
from attnsearch.search.queue import is_over, reclaim_lost_trials
from attnsearch.search.racing import race
from attnsearch.store.database import checkpoint_wal
from attnsearch.store.retention import remove
from attnsearch.store.study_files import write_classes

logger = logging.getLogger(__name__)

TICK_S = 0.25

Outcome = Literal["finished", "time_limit", "interrupted"]
Tick = Callable[[StudyHandle], None]


@dataclass(frozen=True)
class SearchOutcome:
    """How one run of a search ended; `published` is the manifest, None where nothing could be published."""

    plan: SearchPlan
    outcome: Outcome
    published: Path | None


def run_study(
    loaded: LoadedStudy,
    *,
    root: Path,
    n_workers: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    tick: Tick = lambda _handle: None,
    progress: bool = False,
) -> SearchOutcome:
    """A whole search: checks, trials, a race of the best ones, publication of one, and retention if it is automatic.

    Args:
        root: the results folder.
        n_workers: processes; 0 runs the trials in this process, None means as the study says.
        should_stop: asked several times a second; once true, running trials return to the queue.
        tick: called as often, to show progress.

    Raises:
        AttnSearchError: what stopped the study.
    """
    plan = SearchPlan.check(loaded, root)
    for warning in plan.warnings:
        logger.warning(warning)
    data = plan.open_data(progress=progress)
    handle = plan.open()
    with only_runner(plan.layout):
        atomic_write(plan.layout.study_yaml, study_file(plan.loaded))
        write_classes(plan.layout.classes_csv, plan.tables.class_names)
        remove_stale_temporaries(plan.layout.study_dir)
        launcher = launcher_of(handle, data, n_workers)
        outcome = supervise(handle, launcher, should_stop=should_stop, tick=tick)
        if outcome == "interrupted":
            return SearchOutcome(plan, outcome, None)
        try:
            race(handle, data, check=partial(_raise_if, should_stop))
        except TrialInterrupted:
            return SearchOutcome(plan, "interrupted", None)
        manifest = publish_study(handle, data)
        if plan.study.retention.automatic:
            remove(removable(handle))
        return SearchOutcome(plan, outcome, manifest)


def _raise_if(should_stop: Callable[[], bool]) -> None:
    if should_stop():
        raise TrialInterrupted


def supervise(handle: StudyHandle, launcher: Launcher, *, should_stop: Callable[[], bool], tick: Tick) -> Outcome:
    """Keeps workers running until the budget or the patience is spent, time is up or someone asks to stop.

    Raises:
        AttnSearchError: an error that stops the study; its text is what the worker reported.
        SearchStopped: workers or trials failed one after the other, or all workers left.
    """
    # Trials that a killed search has left return to the queue, also where nothing is left to do.
    reclaim_lost_trials(handle, is_dead=launcher.is_dead)
    if is_over(handle):
        return "finished"
    started_at = time.time()
    deadline = started_at + (handle.loaded.study.time_limit_s or float("inf"))
    try:
        launcher.start(started_at)
        # Asks first: a signal to the whole group has ended the workers too, and they are not to be replaced then.
        while not should_stop() and time.time() < deadline and launcher.is_working():
            tick(handle)
            time.sleep(TICK_S)
        if should_stop():
            return "interrupted"
        if is_over(handle):
            return "finished"
        if time.time() >= deadline:
            return "time_limit"
        raise _explain_end(handle, started_at)
    finally:
        launcher.stop()
        _tidy(handle, launcher)


def _tidy(handle: StudyHandle, launcher: Launcher) -> None:
    """Leaves database and folder as a next start wants them; that start does it where the store refuses now."""
    try:
        reclaim_lost_trials(handle, is_dead=launcher.is_dead)
        handle.remove_resumes([trial.number for trial in handle.trials() if trial.state.is_finished()])
        remove_stale_temporaries(handle.layout.study_dir)
        checkpoint_wal(handle.database.url)
    except StoreError as error:
        logger.warning("the next start cleans up what this one leaves: %s", error)


def _explain_end(handle: StudyHandle, started_at: float) -> SearchStopped:
    """Why all workers have ended though no stop was asked for and trials are left."""
    study, trials = handle.loaded.study, handle.trials()
    if is_failing(trials, since=started_at):
        reasons = [f"trial {t.number}: {t.user_attrs['error']}" for t in trials if t.user_attrs.get("error")]
        failed = f"{N_FAILED_TO_STOP} trials failed in a row ({'; '.join(reasons[-N_FAILED_TO_STOP:])})"
        return SearchStopped(f"study {study.name!r} stopped: {failed}")
    n_ended = len(handle.trials(TrialState.COMPLETE, TrialState.PRUNED))
    return SearchStopped(
        f"study {study.name!r} stopped: all workers ended by themselves after {n_ended} of "
        f"{study.n_trials} trials; see {handle.layout.worker_logs}, then start the search again"
    )
