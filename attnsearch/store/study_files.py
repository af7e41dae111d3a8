"""The small files in the folder of a study: class names, the manifest of what is published, the test evaluations."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from attnsearch.files import atomic_write, disk_errors, locked
from attnsearch.store.damage import Content, content_errors, read_json
from attnsearch.store.layout import StudyLayout
from attnsearch.types import Split

MANIFEST_FORMAT = 1
_MANIFEST_FIX = "delete it; the next `attnsearch search` publishes the study again"
_LOG_TIMEOUT_S = 60


def write_classes(path: Path, names: Sequence[str]) -> None:
    """Writes `label,class_name`, labels from 0.

    Raises:
        StoreError: the disk refuses.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("label", "class_name"), *enumerate(names)])
    atomic_write(path, text.getvalue())


def _below(path: str) -> str:
    """A path that stays in the experiment's folder."""
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise ValueError(f"must lie in the experiment's folder, got {path!r}")
    return path


Relative = Annotated[str, AfterValidator(_below)]


class _PublishedSet(Content):
    trial: int = Field(ge=0)
    epoch: int = Field(ge=0)
    folder: Relative


class _Manifest(Content):
    sets: list[_PublishedSet] = Field(min_length=1)
    files: list[Relative]


def read_manifest(layout: StudyLayout) -> dict[str, Any] | None:
    """What is published of a study: `study`, `sets` and `files`; None if nothing is, or if a publication was cut off.

    Raises:
        StoreError: the file is damaged, or of another format.
    """
    if not layout.published_json.exists():
        return None
    return read_json(layout.published_json, _Manifest, version=MANIFEST_FORMAT, fix=_MANIFEST_FIX).model_dump()


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
