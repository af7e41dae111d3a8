"""A search from its start to its publication: the plan, the launcher, stopping, the published trial."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from attnsearch.config.load import LoadedStudy
from attnsearch.data.loader import DataSource
from attnsearch.errors import StoreError, TrialInterrupted
from attnsearch.files import remove_stale_temporaries
from attnsearch.search.conclusion import conclude, explain_end
from attnsearch.search.handle import StudyHandle, only_runner
from attnsearch.search.launchers import Launcher
from attnsearch.search.launchers.local import launcher_of
from attnsearch.search.launchers.local import standing_by as standing_by
from attnsearch.search.launchers.process import worker_name
from attnsearch.search.membership import begin_study, join_study
from attnsearch.search.plan import SearchPlan
from attnsearch.search.queue import is_over
from attnsearch.search.recovery import reclaim_lost_trials
from attnsearch.store.database import checkpoint_wal

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
    join: bool = False,
) -> SearchOutcome:
    """A whole search: checks, trials, a race of the best ones, publication of one, and retention if it is automatic.

    Args:
        root: the results folder.
        n_workers: processes; 0 runs the trials in this process, None means as the study says.
        should_stop: asked several times a second; once true, running trials return to the queue.
        tick: called as often, to show progress.
        join: whether this machine takes part in a study that another one has begun.

    Raises:
        AttnSearchError: what stopped the study.
    """
    plan, data = checked(loaded, root)
    if join:
        overrides, handle = plan.machine_overrides(), join_study(plan)
        launcher = launcher_of(handle, data, n_workers, overrides=overrides)
        return run_to_end(plan, handle, data, launcher, should_stop=should_stop, tick=tick)
    with only_runner(plan.layout):
        handle = begin_study(plan)
        launcher = launcher_of(handle, data, n_workers)
        return run_to_end(plan, handle, data, launcher, should_stop=should_stop, tick=tick)


def create_study_only(loaded: LoadedStudy, *, root: Path) -> SearchPlan:
    """Checks and begins a study without running a trial, for workers that are started one by one.

    Raises:
        AttnSearchError: a check of the start.
    """
    plan, _ = checked(loaded, root)
    begin_study(plan).database.close()
    return plan


def checked(loaded: LoadedStudy, root: Path) -> tuple[SearchPlan, DataSource]:
    """The plan of a study after all checks of a start, and its data."""
    plan = SearchPlan.check(loaded, root)
    for warning in plan.warnings:
        logger.warning(warning)
    return plan, plan.open_data()


def run_to_end(
    plan: SearchPlan,
    handle: StudyHandle,
    data: DataSource,
    launcher: Launcher,
    *,
    should_stop: Callable[[], bool],
    tick: Tick,
) -> SearchOutcome:
    """The trials of a study that was opened, then what ends it."""
    remove_stale_temporaries(plan.layout.study_dir)
    outcome = supervise(handle, launcher, should_stop=should_stop, tick=tick)
    if outcome == "interrupted":
        return SearchOutcome(plan, outcome, None)
    try:
        return SearchOutcome(plan, outcome, conclude(handle, data, holder=worker_name(), should_stop=should_stop))
    except TrialInterrupted:
        return SearchOutcome(plan, "interrupted", None)


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
    deadline = time.monotonic() + (handle.loaded.study.time_limit_s or float("inf"))
    try:
        launcher.start()
        # Asks first: a signal to the whole group has ended the workers too, and they are not to be replaced then.
        while not should_stop() and time.monotonic() < deadline and launcher.is_working():
            tick(handle)
            time.sleep(TICK_S)
        if should_stop():
            return "interrupted"
        if is_over(handle):
            return "finished"
        if time.monotonic() >= deadline:
            return "time_limit"
        raise explain_end(handle)
    finally:
        launcher.stop()
        _tidy(handle, launcher)


def _tidy(handle: StudyHandle, launcher: Launcher) -> None:
    """Leaves database and folder as a next start wants them; that start does it where the store refuses now."""
    try:
        reclaim_lost_trials(handle, is_dead=launcher.is_dead)
        handle.remove_leftovers()
        checkpoint_wal(handle.database.url)
    except StoreError as error:
        logger.warning("the next start cleans up what this one leaves: %s", error)
