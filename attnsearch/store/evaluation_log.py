"""The count of test evaluations: each time that a trial was measured on images which search and training never see.

It is kept in the database, which all machines of a study share; a table of it lies in the study's folder.
"""

from __future__ import annotations

import csv
import platform
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import Connection, func, insert, select

from attnsearch.files import atomic_write, csv_text
from attnsearch.processes import ProcessName
from attnsearch.store.inspection import content_errors
from attnsearch.store.layout import StudyLayout
from attnsearch.store.tables import evaluations_table
from attnsearch.types import Split

COLUMNS = ("time", "trial", "epoch", "split", "worker")


@dataclass(frozen=True)
class LoggedEvaluation:
    """One evaluation: `time` is ISO 8601, UTC; `worker` is empty for one of version 0.1."""

    time: str
    trial: int
    epoch: int
    split: str
    worker: str = ""


class EvaluationLog(Protocol):
    """The part of a `TrialStore` that counts test evaluations."""

    def exclusive(self) -> AbstractContextManager[object]:
        """The lock of the study."""

    def log_evaluations(self, new: Sequence[LoggedEvaluation]) -> None:
        """Adds evaluations. Needs the lock of the study."""

    def read_evaluations(self) -> list[LoggedEvaluation]:
        """All of the study, in the order in which they were added."""


def insert_evaluations(connection: Connection, study_uuid: str, new: Sequence[LoggedEvaluation]) -> None:
    """Adds evaluations behind those that the study has."""
    table = evaluations_table
    count = select(func.count()).select_from(table).where(table.c.study == study_uuid)
    first = int(connection.execute(count).scalar_one()) + 1
    rows = [{"study": study_uuid, "n": n, **vars(one)} for n, one in enumerate(new, first)]
    if rows:
        connection.execute(insert(table), rows)


def select_evaluations(connection: Connection, study_uuid: str) -> list[LoggedEvaluation]:
    """Those of a study, in their order."""
    table = evaluations_table
    query = select(*(table.c[name] for name in COLUMNS)).where(table.c.study == study_uuid).order_by(table.c.n)
    return [LoggedEvaluation(**row._asdict()) for row in connection.execute(query)]


def log_test_evaluation(store: EvaluationLog, layout: StudyLayout, number: int, epoch: int, split: Split) -> None:
    """Counts a test evaluation, before the split is opened, so that none goes unseen.

    Those that version 0.1 wrote into the table alone are counted too.

    Raises:
        StoreError: the database or the disk refuses.
    """
    with store.exclusive():
        before = [] if store.read_evaluations() else read_test_evaluations(layout)
        store.log_evaluations([*before, new_evaluation(number, epoch, split)])
        write_evaluations(layout, store.read_evaluations())


def new_evaluation(number: int, epoch: int, split: Split) -> LoggedEvaluation:
    """An evaluation that this process begins now."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return LoggedEvaluation(now, number, epoch, split, f"{platform.node()}:{ProcessName.of_this_process()}")


def write_evaluations(layout: StudyLayout, evaluations: Sequence[LoggedEvaluation]) -> None:
    """Writes the table of the study's folder.

    Raises:
        StoreError: the disk refuses.
    """
    rows = [[getattr(one, name) for name in COLUMNS] for one in evaluations]
    atomic_write(layout.test_evaluations, csv_text([COLUMNS, *rows]))


def read_test_evaluations(layout: StudyLayout) -> list[LoggedEvaluation]:
    """Those in the table of the study's folder, in their order.

    Raises:
        StoreError: the file is damaged.
    """
    path = layout.test_evaluations
    if not path.is_file():
        return []
    with content_errors(path, "restore it from an `attnsearch export`"):
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
        return [
            LoggedEvaluation(row["time"], int(row["trial"]), int(row["epoch"]), row["split"], row.get("worker") or "")
            for row in rows
        ]
