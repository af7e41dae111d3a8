"""Runs a study: checks everything before the first trial, keeps workers alive and stops cleanly."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from attnsearch.config.load import LoadedStudy, resolved_study, with_settings
from attnsearch.data import DataTables, build_tables
from attnsearch.data.loader import DataSource, open_data
from attnsearch.device import worker_gpus
from attnsearch.errors import ConfigError, SearchStopped, StoreError
from attnsearch.files import atomic_write, make_folder, remove_stale_temporaries
from attnsearch.search.checkpoints import resolve_checkpoints_of
from attnsearch.search.checks import check_models, check_scores
from attnsearch.search.handle import StudyHandle, layout_of, only_runner, open_session, storage_url
from attnsearch.search.launchers.local import WorkerPool, is_dead
from attnsearch.search.publish import publish_study, removable
from attnsearch.search.space import extreme_experiments, needed_cache_px
from attnsearch.search.storage import open_database
from attnsearch.search.study import (
    N_FAILED_TO_STOP,
    check_unchanged,
    create_study,
    is_failing,
    n_finished,
)
from attnsearch.search.trials import find_stored
from attnsearch.search.worker import reclaim_lost_trials
from attnsearch.store.archive import write_classes
from attnsearch.store.database import checkpoint_wal
from attnsearch.store.inspection import inspect_database
from attnsearch.store.layout import StudyLayout
from attnsearch.store.retention import remove, remove_resumes
from attnsearch.store.servers import wait_for_server
from attnsearch.store.urls import redact
from attnsearch.training.checks import check_start

logger = logging.getLogger(__name__)

TICK_S = 0.25

Outcome = Literal["finished", "time_limit", "interrupted"]
Tick = Callable[[StudyHandle], None]


@dataclass(frozen=True)
class Prepared:
    """A study that passed all checks, with its data open."""

    session: StudyHandle
    data: DataSource


@dataclass(frozen=True)
class SearchOutcome:
    """How one run of a search ended; `published` is the manifest, None where nothing could be published."""

    outcome: Outcome
    published: Path | None


def check_study(loaded: LoadedStudy, layout: StudyLayout, url: str) -> DataTables:
    """Checks a study against database, data, models, device and metrics; writes nothing.

    Raises:
        ConfigError: a corner of the space does not work, a study that a checkpoint is taken from is missing or has no
            complete trial, or the study exists with other settings.
        DataError: the data set cannot be used, or not with the teacher or the backbone that the runs start from.
        StoreError: the database is foreign, corrupt or newer.
    """
    wait_for_server(url, patience_s=loaded.study.storage_patience_s)
    loaded = resolve_checkpoints_of(loaded, root=layout.root)
    is_new = inspect_database(url) != "ours"
    corners = extreme_experiments(loaded)
    tables = build_tables(loaded.experiment.data)
    needed = [*loaded.study.objectives, loaded.study.monitor, *loaded.study.constraints]
    for _, experiment in corners:
        check_start(experiment, tables)
    check_models(corners, n_classes=len(tables.class_names), metrics=needed)
    check_scores(loaded, tables)
    stored = None if is_new else find_stored(url, loaded.study.name)
    if stored is not None:
        check_unchanged(stored, settle(loaded), val_hash=tables.val_hash, class_names=tables.class_names)
    elif layout.trial(0).directory.exists():
        raise ConfigError(
            f"{layout.study_dir} holds trials that this database does not know (of a plain `train`, or of another "
            "storage); choose another name=, or move the folder away"
        )
    return tables


def settle(loaded: LoadedStudy) -> LoadedStudy:
    """The study with the one setting that the whole space decides: the side of the cached pictures."""
    return replace(loaded, experiment=with_settings(loaded.experiment, {"data.cache_px": needed_cache_px(loaded)}))


def prepare(loaded: LoadedStudy, *, root: Path, progress: bool = False) -> Prepared:
    """Checks a study, decodes its pictures, then creates or re-opens it in the database.

    Nothing but the cache is written before everything has passed, and no file of the study: another search may run it.

    Raises:
        ConfigError, DataError, StoreError: as `check_study`; also a results folder that cannot be written.
    """
    layout = layout_of(loaded, root=root)
    url = storage_url(loaded, layout)
    loaded = resolve_checkpoints_of(loaded, root=root)
    tables = check_study(loaded, layout, url)
    loaded = settle(loaded)
    data = open_data(loaded.experiment.data, progress=progress)
    make_folder(layout.study_dir)
    database = open_database(url, create=True, patience_s=loaded.study.storage_patience_s)
    create_study(database, loaded, val_hash=tables.val_hash, class_names=tables.class_names)
    database.close()
    return Prepared(open_session(loaded, layout, url), data)


def run_study(
    loaded: LoadedStudy,
    *,
    root: Path,
    n_workers: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    tick: Tick = lambda _session: None,
    progress: bool = False,
) -> SearchOutcome:
    """A whole search: checks, trials, publication of the best one, and retention if it is automatic.

    Args:
        root: the results folder.
        n_workers: processes; None means as the study says.
        should_stop: asked several times a second; once true, running trials go back to waiting.
        tick: called as often, to show progress.

    Raises:
        AttnSearchError: what stopped the study.
    """
    prepared = prepare(loaded, root=root, progress=progress)
    session = prepared.session
    with only_runner(session.layout):
        _write_study(session.layout, session.loaded, prepared.data.tables)
        workers = n_workers or default_workers(session)
        outcome = supervise(session, n_workers=workers, should_stop=should_stop, tick=tick)
        if outcome == "interrupted":
            return SearchOutcome(outcome, None)
        manifest = publish_study(session, prepared.data)
        if session.loaded.study.retention.automatic:
            remove(removable(session))
        return SearchOutcome(outcome, manifest)


def _write_study(layout: StudyLayout, loaded: LoadedStudy, tables: DataTables) -> None:
    atomic_write(layout.study_yaml, study_file(loaded))
    write_classes(layout.classes_csv, tables.class_names)
    remove_stale_temporaries(layout.study_dir)


def study_file(loaded: LoadedStudy) -> str:
    """The resolved study as YAML; user name and password of its storage stay out, names of $VARIABLES stay."""
    storage = loaded.study.storage
    shown = redact(storage) if storage else None
    return resolved_study(replace(loaded, study=loaded.study.model_copy(update={"storage": shown})))


def supervise(session: StudyHandle, *, n_workers: int, should_stop: Callable[[], bool], tick: Tick) -> Outcome:
    """Keeps workers running until the budget is spent, time is up or someone asks to stop.

    Raises:
        AttnSearchError: a fault that stops the study; its text is what the worker reported.
        SearchStopped: workers or trials failed one after the other, or all workers left.
    """
    reclaim_lost_trials(
        session, is_dead=is_dead
    )  # trials that a killed search has left, also where nothing is to be done any more
    if _is_done(session):
        return "finished"
    started_at = time.time()
    deadline = started_at + (session.loaded.study.time_limit_s or float("inf"))
    crew = WorkerPool(session, n_workers=n_workers, started_at=started_at)
    try:
        crew.start()
        # Asked before the crew is looked after: a signal to the whole group ended the workers, which stay ended then.
        while not should_stop() and time.time() < deadline and crew.is_working():
            tick(session)
            time.sleep(TICK_S)
        if should_stop():
            return "interrupted"
        if _is_done(session):
            return "finished"
        if time.time() >= deadline:
            return "time_limit"
        raise _explain_end(session, started_at)
    finally:
        crew.stop()
        _tidy(session)


def _is_done(session: StudyHandle) -> bool:
    return n_finished(session.trials()) >= session.loaded.study.n_trials


def _tidy(session: StudyHandle) -> None:
    """Leaves database and folder as a next start wants them; that start does it where the store refuses now."""
    try:
        reclaim_lost_trials(session, is_dead=is_dead)
        if not session.loaded.study.retention.resume:
            remove_resumes([t.number for t in session.trials() if t.state.is_finished()], session.layout)
        remove_stale_temporaries(session.layout.study_dir)
        checkpoint_wal(session.database.url)
    except StoreError as error:
        logger.warning("the next start cleans up what this one leaves: %s", error)


def _explain_end(session: StudyHandle, started_at: float) -> SearchStopped:
    """Why all workers have ended though nobody asked them to and trials are left."""
    study, trials = session.loaded.study, session.trials()
    if is_failing(trials, since=started_at):
        reasons = [f"trial {t.number}: {t.user_attrs['error']}" for t in trials if t.user_attrs.get("error")]
        failed = f"{N_FAILED_TO_STOP} trials failed in a row ({'; '.join(reasons)})"
        return SearchStopped(f"study {study.name!r} stopped: {failed}")
    return SearchStopped(
        f"study {study.name!r} stopped: all workers ended by themselves after {n_finished(trials)} of "
        f"{study.n_trials} trials; see {session.layout.study_dir / 'worker*.log'}, then start the search again"
    )


def default_workers(session: StudyHandle) -> int:
    """One worker per GPU, or one on a machine without."""
    return session.loaded.study.n_workers or max(1, len(worker_gpus(session.loaded.experiment.runtime.device)))
