"""The log of test evaluations: a line for each evaluation of a trial on images that no search sees."""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass

from attnsearch.files import atomic_write, disk_errors, locked
from attnsearch.store.damage import content_errors
from attnsearch.store.layout import StudyLayout
from attnsearch.types import Split

_LOG_TIMEOUT_S = 60


@dataclass(frozen=True)
class LoggedEvaluation:
    """One time that a trial was evaluated on images which search and training never see; `time` is ISO 8601, UTC."""

    time: str
    trial: int
    epoch: int
    split: str


def log_test_evaluation(layout: StudyLayout, number: int, epoch: int, split: Split) -> None:
    """Adds a line to the log of test evaluations; done before the split is opened, so that none goes unseen.

    Raises:
        StoreError: the disk refuses, or another process never ends its line.
    """
    path = layout.test_evaluations
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with locked(layout.test_evaluations_lock, timeout_s=_LOG_TIMEOUT_S):
        with disk_errors(path):
            before = path.read_text(encoding="utf-8") if path.exists() else "time,trial,epoch,split\n"
        atomic_write(path, f"{before}{now},{number},{epoch},{split}\n")


def read_test_evaluations(layout: StudyLayout) -> list[LoggedEvaluation]:
    """What `log_test_evaluation` wrote, in that order.

    Raises:
        StoreError: the file is damaged.
    """
    path = layout.test_evaluations
    if not path.is_file():
        return []
    with content_errors(path, "restore it from an `attnsearch export`"):
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
        return [LoggedEvaluation(row["time"], int(row["trial"]), int(row["epoch"]), row["split"]) for row in rows]
