"""Which large files of a study may go, and their removal: first a plan that can be shown, then the deletion."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from attnsearch.files import disk_errors
from attnsearch.store.layout import StudyLayout
from attnsearch.store.trial_layout import TrialLayout
from attnsearch.types import SPLITS


@dataclass(frozen=True)
class RemovableFile:
    """A checkpoint or an array."""

    number: int
    path: Path
    bytes: int


def large_files(numbers: Iterable[int], layout: StudyLayout) -> list[RemovableFile]:
    """The checkpoints and arrays of trials, which retention may remove; every trial keeps its CSVs, config and log.

    Returns:
        By trial number, then by name; bytes as they are on the disk now.
    Raises:
        StoreError: a folder cannot be read.
    """
    return [file for number in sorted(numbers) for file in _large_files(number, layout.trial(number))]


def _large_files(number: int, trial: TrialLayout) -> list[RemovableFile]:
    arrays = [path for split in SPLITS for path in trial.archive(split).large]
    with disk_errors(trial.directory):
        paths = sorted({trial.best, *trial.resumes().values(), *arrays, *trial.exported_arrays()})
        return [RemovableFile(number, path, path.stat().st_size) for path in paths if path.is_file()]


def remove(plan: Sequence[RemovableFile]) -> int:
    """Deletes the files of a plan; those that are gone already are passed over.

    Returns:
        Bytes freed.
    Raises:
        StoreError: the disk refuses; the files before that one are gone.
    """
    freed = 0
    for file in plan:
        with disk_errors(file.path):
            if file.path.exists():
                file.path.unlink(missing_ok=True)
                freed += file.bytes
    return freed


def remove_resumes(numbers: Iterable[int], layout: StudyLayout) -> None:
    """Deletes the resume checkpoints of finished trials: they hold several times what the best one does.

    Raises:
        StoreError: the disk refuses.
    """
    for trial in map(layout.trial, numbers):
        with disk_errors(trial.directory):
            for path in trial.resumes().values():
                path.unlink(missing_ok=True)
