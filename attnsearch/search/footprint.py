"""What a trial takes on the disk: its files, and its rows in the database, by trials that are copied into it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import optuna

from attnsearch.files import bytes_below
from attnsearch.search.handle import StudyHandle
from attnsearch.search.study import attributes
from attnsearch.store.database import checkpoint_wal
from attnsearch.store.image_scores import has_scores, read_scores
from attnsearch.types import EpochRecord, TrialResult

N_COPIES = 8
"""Trials that are copied into the database, whose pages one alone does not fill."""
MAX_COPIED_EPOCHS = 100


@dataclass(frozen=True)
class Sizes:
    """Bytes of the files of a short trial.

    Attributes:
        arrays, index: of the archive of validation, what retention may remove and what stays.
        scores: tables and curves; `journal` is what goes after the search.
        per_epoch: of the files that grow by the epoch.
        fixed: of the other ones, images for the dashboard included.
        published, thumbnails: of the publication.
        database: rows of a trial of all its epochs.
    """

    weights: int
    resume: int
    arrays: int
    index: int
    scores: int
    journal: int
    per_epoch: float
    fixed: int
    published: int
    thumbnails: int
    database: int


def sizes_of(handle: StudyHandle, last: Sequence[EpochRecord], result: TrialResult, published: Sequence[Path]) -> Sizes:
    """Measures the one trial of a study.

    Args:
        last: the records of its last epoch.
        published: the files of its publication.
    """
    layout = handle.layout.trial(0)
    scores, archive = layout.scores("val"), layout.archive("val")
    return Sizes(
        weights=_bytes_of([layout.best]),
        resume=_bytes_of(layout.resumes().values()),
        arrays=_bytes_of(archive.large),
        index=_bytes_of(set(archive.all) - set(archive.large)),
        scores=_bytes_of([scores.table, scores.curves, scores.about]),
        journal=_bytes_of([scores.journal]),
        per_epoch=_bytes_of([layout.epochs_csv, layout.log]) / max(1, result.epochs_run),
        fixed=bytes_below(handle.layout.artifacts),
        published=_bytes_of(published),
        thumbnails=bytes_below(handle.layout.thumbnails),
        database=_database_bytes(handle, last, result),
    )


def _bytes_of(paths: Iterable[Path]) -> int:
    """Of the files that exist."""
    return sum(path.stat().st_size for path in paths if path.is_file())


def _database_bytes(handle: StudyHandle, last: Sequence[EpochRecord], result: TrialResult) -> int:
    n_all = handle.loaded.experiment.train.epochs
    n_epochs, before = min(MAX_COPIED_EPOCHS, n_all), _database_size(handle)
    for _ in range(N_COPIES):
        _copy(handle, last, result, n_epochs)
    return round((_database_size(handle) - before) / N_COPIES * n_all / n_epochs)


def _database_size(handle: StudyHandle) -> int:
    checkpoint_wal(handle.database.url)
    return handle.layout.database.stat().st_size


def _copy(handle: StudyHandle, last: Sequence[EpochRecord], result: TrialResult, n_epochs: int) -> None:
    """Adds a complete trial of so many epochs, each with the values of the last one."""
    number, store, scores = len(handle.trials()), handle.store, handle.layout.trial(0).scores("val")
    values = attributes(handle.layout, number, result, at=store.now())
    reports = dict.fromkeys(range(n_epochs), 0.5)
    handle.study.add_trial(optuna.create_trial(value=0.5, user_attrs=values, intermediate_values=reports))
    records = [replace(record, epoch=epoch) for epoch in range(1, n_epochs + 1) for record in last]
    store.write_epochs(number, records, attempt=None)
    store.write_artifacts(number, store.read_artifacts([0])[0], attempt=None)
    if has_scores(scores):
        store.write_scores(number, read_scores(scores), attempt=None)
