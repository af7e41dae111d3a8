"""Tables about trials for people: scored trials of any studies compared, and the classes that one trial confuses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.errors import ConfigError
from attnsearch.evaluation.compare import (
    Comparison,
    ScoredTrial,
    check_comparable,
    compare,
    is_of_queries,
    joined,
    metrics_of,
    write_comparison,
)
from attnsearch.metrics.registry import is_raw
from attnsearch.results.checkpoints import find_published, open_evaluation, require_task
from attnsearch.results.full_scores import ScoringTarget, target_of
from attnsearch.results.reader import experiments_in, find_study, studies_of
from attnsearch.results.selection import MIN_ALPHA
from attnsearch.results.study import StudyReader
from attnsearch.results.trial import TrialReader
from attnsearch.store.archive import read_archive
from attnsearch.store.retrieval import has_retrieval
from attnsearch.types import Split

if TYPE_CHECKING:
    from attnsearch.evaluation.confusion import ConfusionReport, MapRow, QueryRow

QUERIES = "query_embed.weight"
"""INTR's class queries, in its checkpoint."""


@dataclass(frozen=True)
class SavedComparison:
    """A comparison, what should be known to read it, and the files that hold it."""

    comparison: Comparison
    notes: tuple[str, ...]
    files: tuple[Path, ...]


def compare_sources(sources: Sequence[str], metrics: Sequence[str], *, name: str | None, root: Path) -> SavedComparison:
    """Compares the trials that the sources name, and writes `compare_<name>.csv`, its pairs and a figure.

    Args:
        sources: `STUDY` is its published trial; `STUDY:1,2` are the trials 1 and 2, on validation; an experiment is all
            of its studies that are scored.
        metrics: empty for all that every trial has.
        name: None is `comparison_name` of the trials.
    Raises:
        ConfigError: an unknown source or metric, or scores that were measured differently.
        StoreError: scores cannot be read, or the disk refuses.
    """
    at_least = 2 if len(sources) == 1 else 1
    targets = [target for source in sources for target in _targets(source, root, at_least)]
    targets = list({(target.layout.study_dir, target.number, target.split): target for target in targets}.values())
    notes: list[str] = []
    parts: list[Comparison] = []
    for entries, names in _tables(targets, metrics):
        try:
            notes += check_comparable(entries)
        except ConfigError as error:
            if metrics or not parts:
                raise
            notes.append(str(error))  # nobody asked for these, and there are others
            continue
        parts.append(compare(entries, metrics_of(entries, names)))
    comparison = joined(parts)
    files = write_comparison(comparison, entries, targets[0].layout.shared, name)
    return SavedComparison(comparison, (*notes, *_raw_notes(comparison), *_order_notes(comparison)), tuple(files))


def _tables(
    targets: Sequence[ScoringTarget], metrics: Sequence[str]
) -> Iterator[tuple[list[ScoredTrial], Sequence[str]]]:
    """The trials with scores of their queries, then with those of their saliency, and the metrics asked for in each.

    Where no metric is named, those that all trials have are taken.
    """
    labels = [_label(target, targets) for target in targets]
    trials = [(target.trial, target.split) for target in targets]
    for of_queries in _kinds(targets, metrics):
        tables = [trial.query_table(split) if of_queries else trial.score_table(split) for trial, split in trials]
        entries = [ScoredTrial(label, table) for label, table in zip(labels, tables, strict=True)]
        yield entries, [metric for metric in metrics if is_of_queries(metric) == of_queries]


def _kinds(targets: Sequence[ScoringTarget], metrics: Sequence[str]) -> list[bool]:
    """Whether scores of queries (True), of saliency (False) or both are compared."""
    if metrics:
        return sorted({is_of_queries(metric) for metric in metrics}, reverse=True)
    are_ranked = all(has_retrieval(target.trial.archives().get(target.split)) for target in targets)
    are_scored = all(target.trial.has_scores(target.split) for target in targets)
    return [True] * are_ranked + [False] * (are_scored or not are_ranked)


def _targets(source: str, root: Path, at_least: int) -> Iterable[ScoringTarget]:
    """Studies of an experiment that are not scored are left out, unless fewer than `at_least` remain."""
    study, _, numbers = source.rpartition(":")
    if not study:
        studies = [reader for reader in _experiment(source, root) if reader.layout.published_json.exists()]
        targets = [target_of(reader, None) for reader in studies]
        scored = [target for target in targets if target.trial.has_scores(target.split)]
        return scored if len(scored) >= at_least else targets or [target_of(find_study(source, root), None)]
    if not all(part.isdecimal() for part in numbers.split(",")):
        raise ConfigError(f"trials are written STUDY:7 or STUDY:1,2,3, got {source!r}")
    reader = find_study(study, root)
    return [target_of(reader, int(part)) for part in numbers.split(",")]


def _experiment(source: str, root: Path) -> list[StudyReader]:
    """The studies of an experiment, by its name or folder; empty where the source is something else."""
    for folder in (root / source, Path(source)):
        for experiment in experiments_in(folder).values():
            if experiment.directory == folder.absolute():
                return [StudyReader(layout) for layout in studies_of(experiment)]
    return []


def _label(target: ScoringTarget, others: Sequence[ScoringTarget]) -> str:
    """The name of its study, and more where that does not tell the trials apart."""
    trial, study = target.trial, target.layout.study
    same_name = [other for other in others if other.layout.study == study]
    label = study
    if len({other.layout.experiment for other in same_name}) > 1:
        label = trial.study.name
    if len({other.number for other in same_name}) > 1:
        label = f"{label}:{trial.number}"
    return label


def _raw_notes(comparison: Comparison) -> list[str]:
    """A line if raw areas are compared, which measure the models as much as their maps."""
    raw = [metric for metric in comparison.alphas if is_raw(metric)]
    if not raw:
        return []
    return [
        f"{', '.join(raw)}: raw, so a fragile model makes them small whatever its map; compare models by their gains"
    ]


def _order_notes(comparison: Comparison) -> list[str]:
    weak = [metric for metric, alpha in comparison.alphas.items() if alpha < MIN_ALPHA]
    if not weak:
        return []
    return [f"images disagree on the order in {', '.join(weak)} (alpha below {MIN_ALPHA}): do not call a winner there"]


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
        ConfigError: no such study or trial, one without a checkpoint, or one that predicts no classes.
        DataError: the data set cannot be used or has no such split.
        StoreError: the disk refuses.
    """
    from attnsearch.evaluation.confusion import describe_maps, similar_queries, write_report  # imports torch

    trial = find_published(name, number, root, storage)

    def settle(config: ExperimentConfig) -> ExperimentConfig:
        return require_task("classification", config, trial.name)

    with open_evaluation(trial, split, overrides, settle=settle) as evaluation:
        report = evaluation.confusion(split)
        queries = evaluation.checkpoint.state.get(QUERIES)
        similar = () if queries is None else similar_queries(queries, evaluation.class_names)
    archive = trial.files.archive(split)
    maps = describe_maps(read_archive(archive)) if archive.images.exists() and archive.maps.exists() else ()
    files = write_report(trial.files, split, report, maps=maps, queries=similar)
    return TrialConfusion(trial, split, report, maps, similar, files)
