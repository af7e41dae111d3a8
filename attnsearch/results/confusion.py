"""Which classes a trial confuses, as tables in its folder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from attnsearch.errors import ConfigError
from attnsearch.results.checkpoints import open_evaluation
from attnsearch.results.reader import find_study
from attnsearch.results.study import StudyReader
from attnsearch.results.trial import TrialReader
from attnsearch.store.archive import read_archive
from attnsearch.store.study_files import read_manifest
from attnsearch.types import Split

if TYPE_CHECKING:
    from attnsearch.evaluation.confusion import ConfusionReport, MapRow, QueryRow

QUERIES = "query_embed.weight"
"""INTR's class queries, in its checkpoint."""


@dataclass(frozen=True)
class TrialConfusion:
    """A confusion report with the trial that it is of, and the files that hold it."""

    trial: TrialReader
    split: Split
    report: ConfusionReport
    maps: tuple[MapRow, ...]
    queries: tuple[QueryRow, ...]
    files: tuple[Path, ...]


def write_confusion(
    name: str,
    number: int | None,
    split: Split,
    *,
    overrides: Iterable[str],
    root: Path,
    storage: str | None = None,
) -> TrialConfusion:
    """Classifies a split with a trial's best checkpoint, and writes its tables into the trial's folder.

    Args:
        number: of the trial; None is the published one, or the best.
        storage: as `load_results`.
    Raises:
        ConfigError: no such study or trial, or one without a checkpoint.
        DataError: the data set cannot be used or has no such split.
        StoreError: the disk refuses.
    """
    from attnsearch.evaluation.confusion import describe_maps, similar_queries, write_report  # imports torch

    study = find_study(name, root, storage=storage)
    trial = _default_trial(study) if number is None else study.trial(number)
    with open_evaluation(trial.checkpoint, split, overrides, trial=trial) as evaluation:
        report = evaluation.confusion(split)
        queries = evaluation.checkpoint.state.get(QUERIES)
        similar = () if queries is None else similar_queries(queries, evaluation.class_names)
    archive = trial.files.archive(split)
    maps = describe_maps(read_archive(archive)) if archive.images.exists() and archive.maps.exists() else ()
    files = write_report(trial.files, split, report, maps=maps, queries=similar)
    return TrialConfusion(trial, split, report, maps, similar, files)


def _default_trial(study: StudyReader) -> TrialReader:
    """The published trial, or the best one."""
    manifest = read_manifest(study.layout)
    if manifest is not None:
        return study.trial(int(manifest["sets"][0]["trial"]))
    if study.is_plain_run:
        raise ConfigError(f"run {study.layout.study!r} has not ended; start it again, or name the trial with --trial 0")
    return study.best
