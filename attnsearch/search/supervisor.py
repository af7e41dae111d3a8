"""Runs a study: checks everything before the first trial, keeps workers alive and stops cleanly."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from filelock import FileLock

from attnsearch.config.load import LoadedStudy, resolved_study, with_settings
from attnsearch.data import DataTables, build_tables
from attnsearch.data.loader import DataSource, open_data
from attnsearch.device import worker_gpus
from attnsearch.errors import AttnSearchError, ConfigError, StoreError
from attnsearch.search.checkpoints import resolve_checkpoints_of
from attnsearch.search.preflight import check_models
from attnsearch.search.processes import WorkerProcess, ask_to_stop, end, is_dead, kill, signals_held, start_worker
from attnsearch.search.publish import publish_study, removable
from attnsearch.search.recover import recover
from attnsearch.search.score_checks import check_scores
from attnsearch.search.session import Session, layout_of, only_runner, open_session, storage_url
from attnsearch.search.space import corner_experiments, needed_cache_px
from attnsearch.search.storage import open_database
from attnsearch.search.study import (
    N_FAILED_TO_STOP,
    create_study,
    find_study,
    is_failing,
    n_finished,
    refuse_changes,
)
from attnsearch.search.trials import read_storage
from attnsearch.store.classes import write_classes
from attnsearch.store.database import checkpoint_wal
from attnsearch.store.files import atomic_write, make_folder, remove_stale_temporaries
from attnsearch.store.inspection import inspect_database
from attnsearch.store.layout import StudyLayout
from attnsearch.store.retention import remove
from attnsearch.store.urls import redact_literals
from attnsearch.training.sources import check_sources

logger = logging.getLogger(__name__)

TICK_S = 0.25
RECOVER_EVERY_S = 5.0
STOP_GRACE_S = 60.0
MAX_DEATHS_AT_START = 3
START_S = 20.0
MISUSED = 2  # exit code of a fault in what the user wrote
STOPPED = 130  # exit code of a worker that someone asked to stop; the study is not over

Outcome = Literal["finished", "time_limit", "interrupted"]
Tick = Callable[[Session], None]


@dataclass(frozen=True)
class Prepared:
    """A study that passed all checks, with its data open."""

    session: Session
    data: DataSource


@dataclass(frozen=True)
class Ended:
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
    loaded = resolve_checkpoints_of(loaded, root=layout.root)
    is_new = inspect_database(url) == "absent"
    corners = corner_experiments(loaded)
    tables = build_tables(loaded.experiment.data)
    needed = [*loaded.study.objectives, loaded.study.monitor, *loaded.study.constraints]
    for _, experiment in corners:
        check_sources(experiment, tables)
    check_models(corners, n_classes=len(tables.class_names), metrics=needed)
    check_scores(loaded, tables)
    stored = None if is_new else find_study(read_storage(url), loaded.study.name)
    if stored is not None:
        refuse_changes(stored, settle(loaded), val_hash=tables.val_hash, class_names=tables.class_names)
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
    with FileLock(layout.experiment_dir / "create.lock"):
        database = open_database(url, create=True)
        create_study(database, loaded, val_hash=tables.val_hash, class_names=tables.class_names)
        database.engine.dispose()
    return Prepared(open_session(loaded, layout, url), data)


def run_study(
    loaded: LoadedStudy,
    *,
    root: Path,
    n_workers: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    tick: Tick = lambda _session: None,
    progress: bool = False,
) -> Ended:
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
            return Ended(outcome, None)
        manifest = publish_study(session, prepared.data)
        if session.loaded.study.retention.automatic:
            remove(removable(session))
        return Ended(outcome, manifest)


def _write_study(layout: StudyLayout, loaded: LoadedStudy, tables: DataTables) -> None:
    atomic_write(layout.study_yaml, study_file(loaded))
    write_classes(layout.classes_csv, tables.class_names)
    remove_stale_temporaries(layout.study_dir)


def study_file(loaded: LoadedStudy) -> str:
    """The resolved study as YAML; a password in its storage stays out, the name of a $VARIABLE is none."""
    storage = loaded.study.storage
    shown = redact_literals(storage) if storage else None
    return resolved_study(replace(loaded, study=loaded.study.model_copy(update={"storage": shown})))


def supervise(session: Session, *, n_workers: int, should_stop: Callable[[], bool], tick: Tick) -> Outcome:
    """Keeps workers running until the budget is spent, time is up or someone asks to stop.

    Raises:
        AttnSearchError: a fault that stops the study; its text is what the worker reported.
    """
    recover(session, is_dead=is_dead)  # trials that a killed search has left, also where nothing is to be done any more
    if n_finished(session.trials()) >= session.loaded.study.n_trials:
        return "finished"
    started_at = time.time()
    deadline = started_at + (session.loaded.study.time_limit_s or float("inf"))
    crew = Crew(session, n_workers=n_workers, started_at=started_at)
    try:
        crew.start()
        # Asked before the crew is looked after: a signal to the whole group ended the workers, which stay ended then.
        while not should_stop() and time.time() < deadline and crew.is_working():
            tick(session)
            time.sleep(TICK_S)
        if should_stop():
            return "interrupted"
        if n_finished(session.trials()) >= session.loaded.study.n_trials:
            return "finished"
        if time.time() >= deadline:
            return "time_limit"
        _refuse_failing(session, started_at)
        return "interrupted"
    finally:
        crew.stop()
        recover(session, is_dead=is_dead)
        remove_stale_temporaries(session.layout.study_dir)
        checkpoint_wal(session.database.url)


def _refuse_failing(session: Session, started_at: float) -> None:
    trials = session.trials()
    if n_finished(trials) < session.loaded.study.n_trials and is_failing(trials, since=started_at):
        reasons = "; ".join(
            f"trial {t.number}: {t.user_attrs.get('error')}" for t in trials if t.user_attrs.get("error")
        )
        raise StoreError(
            f"study {session.loaded.study.name!r} stopped: {N_FAILED_TO_STOP} trials failed in a row ({reasons})"
        )


@dataclass
class Crew:
    """The workers of a study: restarts those that a signal ended, and takes back the trials of those that it killed.

    Nothing runs before `start`; from then on `stop` ends all that was started, wherever a fault or a signal came.
    """

    session: Session
    n_workers: int
    started_at: float

    def __post_init__(self) -> None:
        self._gpus = worker_gpus(self.session.loaded.experiment.runtime.device)
        self._workers: dict[int, WorkerProcess] = {}
        self._recovered_at = time.monotonic()
        self._deaths_at_start = 0

    def start(self) -> None:
        """Starts all workers."""
        for index in range(self.n_workers):
            self._start(index)

    def _start(self, index: int) -> None:
        with signals_held():  # a process that was started is always known to `stop`
            self._workers[index] = start_worker(
                self.session.layout,
                self.session.database.url,
                index,
                n_workers=self.n_workers,
                gpus=self._gpus,
                n_threads=self.session.loaded.experiment.runtime.n_threads,
                started_at=self.started_at,
            )

    def is_working(self) -> bool:
        """Whether any worker still has, or may get, something to do; brings dead ones back."""
        died = []
        for worker, code in [(worker, worker.poll()) for worker in self._workers.values()]:
            if code is not None and (code < 0 or code == STOPPED):
                died.append(worker)
            elif code:
                raise _fault_of(worker, code)
        if died or time.monotonic() - self._recovered_at > RECOVER_EVERY_S:
            recover(self.session, is_dead=is_dead)
            self._recovered_at = time.monotonic()
        for worker in died:
            self._replace(worker)
        return any(worker.poll() is None for worker in self._workers.values())

    def _replace(self, worker: WorkerProcess) -> None:
        self._deaths_at_start = self._deaths_at_start + 1 if time.monotonic() - worker.started_at < START_S else 0
        if self._deaths_at_start > MAX_DEATHS_AT_START * self.n_workers:
            raise StoreError(f"{worker.log.name}: workers die as soon as they start ({_end_of(worker)}); see this log")
        logger.warning("worker %d ended (%s) and is started again", worker.index, _end_of(worker))
        worker.close()
        self._start(worker.index)

    def stop(self) -> None:
        """Ends all workers: kindly first, by force after a grace period or a second signal."""
        try:
            for worker in self._workers.values():
                ask_to_stop(worker)
            deadline = time.monotonic() + STOP_GRACE_S
            while any(worker.poll() is None for worker in self._workers.values()) and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:
            with signals_held():
                for worker in self._workers.values():
                    kill(worker)
            for worker in self._workers.values():
                end(worker)


def _end_of(worker: WorkerProcess) -> str:
    """What ended a worker before the study was over."""
    code = worker.poll() or 0
    return "asked to stop" if code == STOPPED else f"signal {-code}"


def _fault_of(worker: WorkerProcess, code: int) -> AttnSearchError:
    """The error that a worker reported, as a kind with the same exit code."""
    words = worker.last_words() or f"{worker.log.name}: a worker ended with code {code}; see this log"
    return ConfigError(words) if code == MISUSED else StoreError(words)


def default_workers(session: Session) -> int:
    """One worker per GPU, or one on a machine without."""
    return session.loaded.study.n_workers or max(1, len(worker_gpus(session.loaded.experiment.runtime.device)))
