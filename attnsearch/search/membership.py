"""What all processes of a study share, wherever they run: its results folder, data, versions, and its last start.

A search writes it into the study; a worker compares it before its first trial.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attnsearch
from attnsearch.config.evaluation import VERSION
from attnsearch.data import DataTables
from attnsearch.data.tables import tables_digest
from attnsearch.errors import ConfigError, StoreError
from attnsearch.files import atomic_write, disk_errors
from attnsearch.processes import ProcessName
from attnsearch.search.handle import StudyHandle
from attnsearch.search.plan import SearchPlan, study_file
from attnsearch.search.study import STARTED_AT, changes
from attnsearch.store.layout import StudyLayout
from attnsearch.store.study_files import write_classes
from attnsearch.store.urls import network_file_system, sqlite_path
from attnsearch.training.state import resumable_epoch

TOKEN, COMMON = "attnsearch_token", "attnsearch_common"
"""Attributes of a study: what the file `.token` of its folder holds, and what its workers compare."""
FOLDER_WAIT_S = 60.0
CHECKPOINT_WAIT_S = 90.0
"""How long a network file system may show an old state of a folder, and of a file that is written again and again."""
_LOOK_EVERY_S = 1.0


def seconds_left(handle: StudyHandle) -> float | None:
    """Until the time limit of the study, from its last start, negative afterwards; None without a limit."""
    limit_s = handle.loaded.study.time_limit_s
    return None if limit_s is None else handle.started_at + limit_s - handle.store.now()


def begin_study(plan: SearchPlan) -> StudyHandle:
    """The study of a plan, which a person starts: made where it is missing, with the files that workers need.

    Raises:
        ConfigError: it exists with other settings.
        StoreError: folder or database cannot be written, the files of the study lie in another results folder, or
            another machine has it in an SQLite file.
    """
    handle = plan.open()
    with _closed_after_errors(handle):
        begin(handle, plan.tables)
    atomic_write(plan.layout.study_yaml, study_file(plan.loaded))
    write_classes(plan.layout.classes_csv, plan.tables.class_names)
    plan.tables.write_split(plan.layout.study_dir)
    return handle


def join_study(plan: SearchPlan) -> StudyHandle:
    """The study of a plan, which was begun before, for one of its workers; nothing is made.

    Raises:
        ConfigError: it exists with other settings, or with other data or another package than here.
        StoreError: there is none, its files are not in this results folder, or its database cannot be used.
    """
    handle = plan.join()
    with _closed_after_errors(handle):
        require_member(handle, plan.tables)
    return handle


@contextmanager
def _closed_after_errors(handle: StudyHandle) -> Iterator[None]:
    """A server counts the connections that nobody closes."""
    try:
        yield
    except BaseException:
        handle.database.close()
        raise


def begin(handle: StudyHandle, tables: DataTables) -> None:
    """Marks a study and its folder for the workers that take part in it from now on.

    Raises:
        StoreError: the files of the study lie in another results folder, or another machine has it in an SQLite file.
    """
    require_one_machine(handle)
    with handle.store.exclusive():
        token = handle.study.user_attrs.get(TOKEN)
        if token is None:
            token = secrets.token_hex(16)
            atomic_write(handle.layout.token, token + "\n")  # first: a study with a token always had its file
            handle.study.set_user_attr(TOKEN, token)
        handle.study.set_user_attr(COMMON, _common(tables))
        handle.study.set_user_attr(STARTED_AT, handle.store.now())
    require_folder(handle)


def require_member(handle: StudyHandle, tables: DataTables) -> None:
    """Checks that this process may take part in a study that was begun.

    Raises:
        ConfigError: the package, the scores or the images are not those of the study; the difference is printed.
        StoreError: the files of the study lie in another results folder, or another machine has it in an SQLite file.
    """
    require_one_machine(handle)
    require_folder(handle)
    stored, own = handle.study.user_attrs.get(COMMON), _common(tables)
    if stored is not None and stored != own:
        raise ConfigError(_describe_difference(handle, stored, own))


def _common(tables: DataTables) -> dict[str, Any]:
    return {"attnsearch": attnsearch.__version__, "version of the scores": VERSION, "images": tables_digest(tables)}


def _describe_difference(handle: StudyHandle, stored: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    lines = [f"  {key}: there {old!r}, here {new!r}" for key, old, new in changes(dict(stored), dict(own))]
    head = f"study {handle.loaded.study.name!r} was started with another package or other images; install or copy those"
    return "\n".join([f"{head}, or start it again with `attnsearch search`", *lines])


def require_folder(handle: StudyHandle, *, wait_s: float | None = None) -> None:
    """Checks that the results folder is the one that the study was begun in.

    Args:
        wait_s: how long to look again; None is `FOLDER_WAIT_S` where several machines may take part.
    Raises:
        StoreError: it is another one.
    """
    token = handle.study.user_attrs.get(TOKEN)
    is_file = sqlite_path(handle.database.url) is not None
    deadline = time.monotonic() + ((0.0 if is_file else FOLDER_WAIT_S) if wait_s is None else wait_s)
    while token is not None and _stored_token(handle.layout) != token:
        if time.monotonic() >= deadline:
            raise StoreError(
                f"{handle.layout.study_dir} is not the folder of study {handle.loaded.study.name!r} (its .token is "
                "missing or another one): all machines of a study need one shared results folder, name it with "
                "--results, or choose another name="
            )
        time.sleep(_LOOK_EVERY_S)


def _stored_token(layout: StudyLayout) -> str | None:
    with disk_errors(layout.token):
        try:
            return layout.token.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None


def await_checkpoint(handle: StudyHandle, number: int, should_stop: Callable[[], bool]) -> None:
    """Waits for the checkpoint of a trial that another machine has begun, which a network file system may show late.

    The database may know one epoch more than the disk.

    Raises:
        StoreError: it does not come; the trial would begin again at its first epoch.
    """
    lease = handle.store.leases.of_trial(number)
    needed = 0 if lease is None or sqlite_path(handle.database.url) is not None else lease.epoch - 1
    deadline = time.monotonic() + CHECKPOINT_WAIT_S
    while needed > 0 and resumable_epoch(handle.layout.trial(number)) < needed and not should_stop():
        if time.monotonic() >= deadline:
            raise StoreError(
                f"{handle.layout.trial(number).directory} has no checkpoint of trial {number} from epoch {needed} on, "
                "which another worker has written: check that this folder is the shared one and its disk is whole"
            )
        time.sleep(_LOOK_EVERY_S)


def require_one_machine(handle: StudyHandle) -> None:
    """Checks that no other machine has a study in an SQLite file, whose locks end at the machine.

    Raises:
        StoreError: a worker of another host holds a trial.
    """
    path = sqlite_path(handle.database.url)
    if path is None or network_file_system(path) is None:
        return
    now, own = handle.store.now(), ProcessName.of_this_process()
    for lease in handle.store.leases.held():
        process = ProcessName.of_worker(lease.worker)
        if process is not None and process.boot != own.boot and lease.expires_at > now:
            raise StoreError(
                f"{path}: {lease.worker.partition(':')[0]} runs trials of this study, and SQLite cannot coordinate "
                "several machines; give all of them a postgresql:// storage"
            )
