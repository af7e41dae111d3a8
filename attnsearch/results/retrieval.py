"""Ranked galleries of one trial or checkpoint, measured and written as tables, features and ranks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnsearch.config.base import digest_of
from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import with_overrides, with_settings
from attnsearch.evaluation.ranking import Reranking, RetrievalReport, write_tables
from attnsearch.results.checkpoints import open_evaluation, require_task, train_again
from attnsearch.results.trial import TrialReader
from attnsearch.store.names import name_problem
from attnsearch.store.retrieval import has_ranks, write_retrieval
from attnsearch.store.trial_layout import ArchivePaths, TrialLayout
from attnsearch.types import Distance, Split

if TYPE_CHECKING:
    from attnsearch.evaluation.evaluation import Evaluation


@dataclass(frozen=True)
class RankingChoice:
    """How galleries are ranked; None and False leave it as the run has it.

    Attributes:
        flip: embeddings are means of those of the image and its mirror image.
        reranking: settings of `Reranking`, after which galleries are also re-ranked.
    """

    distance: Distance | None = None
    flip: bool = False
    reranking: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class SavedRetrieval:
    """A retrieval report with what it is of, and the files that hold it.

    Attributes:
        name: of the trial, or of the checkpoint's file.
        ending: of the names of the files: the split, and what differs from the run.
    """

    name: str
    ending: str
    report: RetrievalReport
    files: tuple[Path, ...]


def write_retrieval_report(
    source: TrialReader | Path, split: Split, choice: RankingChoice, overrides: Iterable[str]
) -> SavedRetrieval:
    """Ranks the galleries of a split with a best checkpoint, and writes tables, features and ranks.

    They lie in the folder of the trial; those of a checkpoint file in a folder of its name beside it. Features and
    ranks that the run has archived stay as they are; where one of them was removed, both are written there again.

    Raises:
        ConfigError: no such trial, one without a checkpoint, or one that predicts classes.
        DataError: the data set cannot be used or has no such split.
        UsageError: no query has a match, or re-ranking needs more memory than is free.
        StoreError: the disk refuses.
    """
    name = source.name if isinstance(source, TrialReader) else str(source)

    def settle(config: ExperimentConfig) -> ExperimentConfig:
        require_task("reid", config, name)
        asked = {"task.distance": choice.distance, "task.flip_average": choice.flip or None}
        return with_settings(config, {key: value for key, value in asked.items() if value is not None})

    reranking = None if choice.reranking is None else Reranking(**choice.reranking)
    with open_evaluation(source, split, overrides, settle=settle) as evaluation:
        ending = "_".join([split, *_differences(evaluation)])
        report = evaluation.retrieval(split, reranking=reranking)
    files = source.files if isinstance(source, TrialReader) else TrialLayout(source.with_suffix(""))
    archived = _archived(source, split) if ending == split else None
    exported = archived or ArchivePaths.of(files.directory, f"_{ending}")
    if archived is None or not has_ranks(archived):
        write_retrieval(exported, report.retrieval)
    tables = write_tables(files, ending, report)
    return SavedRetrieval(name, ending, report, (*tables, exported.retrieval, exported.features, exported.ranks))


def rank_again(trial: TrialReader, split: Split) -> str:
    """The command that ranks the galleries of a split with the best checkpoint, and writes features and ranks."""
    return f"attnsearch retrieval {trial.study.name} --trial {trial.number} --split {split}"


def how_to_rank_again(trial: TrialReader, split: Split) -> str:
    """The command that brings removed features and ranks of a split back, and what it does."""
    if trial.files.best.is_file():
        return f"`{rank_again(trial, split)}` writes them again with the best checkpoint"
    return f"`{train_again(trial)}` trains the trial again, whose checkpoint was removed, too"


def _archived(source: TrialReader | Path, split: Split) -> ArchivePaths | None:
    """The archive of a split that the run has; None where there is none."""
    return source.archives().get(split) if isinstance(source, TrialReader) else None


def _differences(evaluation: Evaluation) -> list[str]:
    """What the names of files tell of an evaluation whose data or settings are not those of the run.

    Another data set, by its name and that of its folder; the distance; `flip`; for all else a digest of the settings.
    """
    from attnsearch.evaluation.base import is_trained_on  # imports torch

    trained, data = evaluation.checkpoint.config, evaluation.config.data
    before, after = trained.identity(), evaluation.config.identity()
    names = []
    if data.name != trained.data.name:
        names.append(data.name)
        as_named = [f"data.name={data.name}"]
        if not data.drawn_by:
            names.append(_folder_name(evaluation))
            as_named.append(f"data.root={json.dumps(str(evaluation.data.tables.root))}")
        before["data"] = with_overrides(trained, as_named).identity()["data"]
    elif not is_trained_on(evaluation.checkpoint, evaluation.data.tables):
        names.append(_folder_name(evaluation))
    was, is_now = before.pop("task"), after.pop("task")
    if is_now["distance"] != was["distance"]:
        names.append(is_now["distance"])
    if is_now["flip_average"] and not was["flip_average"]:
        names.append("flip")
    others: list[dict[str, Any]] = [{**task, "distance": None, "flip_average": None} for task in (was, is_now)]
    if (before, others[0]) != (after, others[1]):
        names.append(digest_of([after, others[1]])[:8])
    return names


def _folder_name(evaluation: Evaluation) -> str:
    """The name of the data set's folder, or of the data set where a file cannot be named so."""
    folder = evaluation.data.tables.root.name
    return evaluation.config.data.name if name_problem(folder) else folder
