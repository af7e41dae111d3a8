"""Which large files of a study may go, and their removal: first a plan that can be shown, then the deletion."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from attnsearch.files import disk_errors
from attnsearch.store.layout import StudyLayout, TrialLayout
from attnsearch.types import SPLITS


@dataclass(frozen=True)
class RemovableFile:
    """A file that no rule keeps."""

    number: int
    path: Path
    bytes: int


def plan_removal(
    numbers: Iterable[int], *, best_numbers: Collection[int], unfinished_numbers: Collection[int], layout: StudyLayout
) -> list[RemovableFile]:
    """The checkpoints and maps that retention would remove; touches nothing.

    Every trial keeps its CSVs, config and log; the best and the unfinished ones keep everything.

    Args:
        numbers: all trials of the study.
        best_numbers: trials whose weights and maps stay, the published ones among them.
        unfinished_numbers: trials that run, wait, or wait to be resumed.
    Returns:
        By trial number, then by name; bytes as they are on the disk now.
    Raises:
        StoreError: a folder cannot be read.
    """
    staying = set(best_numbers) | set(unfinished_numbers)
    return [file for number in sorted(set(numbers) - staying) for file in _large_files(number, layout.trial(number))]


def _large_files(number: int, trial: TrialLayout) -> Iterator[RemovableFile]:
    arrays = [path for split in SPLITS for path in trial.archive(split).arrays.values()]
    with disk_errors(trial.directory):
        candidates = sorted([trial.best, *trial.resumes().values(), *arrays])
        for path in candidates:
            if path.is_file():
                yield RemovableFile(number, path, path.stat().st_size)


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
