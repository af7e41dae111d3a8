"""What a report shows of one study, read from the results folder alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.errors import AttnSearchError
from attnsearch.metrics.registry import leading_metric
from attnsearch.results.checkpoints import train_again
from attnsearch.results.retrieval import rank_again
from attnsearch.results.selection import Selection
from attnsearch.results.study import StudyReader
from attnsearch.results.trial import TrialReader
from attnsearch.search.trials import StudyRows, TrialRow
from attnsearch.store.archive import read_rankings
from attnsearch.store.evaluation_log import read_test_evaluations
from attnsearch.store.image_scores import ScoreTable, has_scores
from attnsearch.store.layout import StudyLayout
from attnsearch.types import SPLITS, AttentionArchive, Retrieval, Split

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
MAX_CURVES = 60
"""Trials whose learning curves are drawn, apart from the best one."""


@dataclass(frozen=True, eq=False)
class StudyFacts:
    """What a report shows of one study.

    Attributes:
        rows: all trials at one moment.
        best: the best trial, None while none is complete.
        config: of the best trial.
        test: metrics of the best trial on the test split, where it was published.
        value_errors: trial -> objective that is a score of maps -> standard error of its value.
        epochs: trial -> its epochs, columns `epoch` and `split/metric`.
        importances: objective -> hyperparameter -> fraction.
        archive: index of the best trial's images: test where it is published, else validation; without its arrays.
        retrieval: of the same split, in re-identification; without features and ranks where one of them was removed.
        floors: what needs no trained model, on the published split, by its own name; in re-identification.
        scores: of the best trial's saliency, by split.
        selection: what the choice of the best trials flatters, and how far the search came.
        n_test_evaluations: how often the test split was evaluated.
        errors: what could not be read.
    """

    reader: StudyReader
    rows: StudyRows
    best: TrialRow | None
    config: ExperimentConfig | None
    test: Mapping[str, float]
    value_errors: Mapping[int, Mapping[str, float]]
    epochs: Mapping[int, pd.DataFrame]
    importances: Mapping[str, Mapping[str, float]]
    archive: AttentionArchive | None
    retrieval: Retrieval | None
    floors: Mapping[str, float]
    scores: Mapping[Split, ScoreTable]
    selection: Selection | None
    n_test_evaluations: int
    errors: Sequence[str]

    @property
    def layout(self) -> StudyLayout:
        return self.reader.layout

    @property
    def best_trial(self) -> TrialReader | None:
        """The reader of the best trial."""
        return None if self.best is None else self.reader.trial(self.best.number)

    @property
    def name(self) -> str:
        return self.layout.study

    @property
    def is_retrieval(self) -> bool:
        """Whether its task is re-identification; without the settings of a best trial, galleries and metrics tell."""
        if self.config is None:
            return self.retrieval is not None or self.leading != "accuracy"
        return self.config.task.name == "reid"

    @property
    def leading(self) -> str:
        """The metric that its trials are compared by first: accuracy, or mAP under the rule of its data.

        While no trial has measured any, the objectives of the study tell.
        """
        keys = {key for trial in self.rows.trials for key in trial.metrics} | self.rows.objectives.keys()
        return leading_metric({key.removeprefix("val/") for key in keys})

    def states(self) -> dict[str, int]:
        """State -> number of trials, by name of the state."""
        return dict(sorted(Counter(trial.state for trial in self.rows.trials).items()))


def read_facts(study: StudyReader) -> StudyFacts:
    """The facts of a study; what cannot be read apart from its trials is empty, with the reason in `errors`.

    Raises:
        ConfigError, StoreError: its trials cannot be read.
    """
    rows, best = study.rows, study.best_row()
    trial = None if best is None else study.trial(best.number)
    errors: list[str] = []

    def read(value: Callable[[], T], otherwise: T) -> T:
        try:
            return value()
        except AttnSearchError as error:
            errors.append(str(error))
            return otherwise

    return StudyFacts(
        reader=study,
        rows=rows,
        best=best,
        config=read(lambda: None if trial is None else trial.config, None),
        test=read(lambda: {} if trial is None else trial.test_metrics(), {}),
        value_errors=read(study.value_errors, {}),
        epochs=read(lambda: _epochs(study, rows, best), {}),
        importances=read(study.importances, {}),
        archive=read(lambda: None if trial is None else _index(trial), None),
        retrieval=read(lambda: _retrieval(trial), None) or read(lambda: _retrieval(trial, queries_only=True), None),
        floors=read(lambda: {} if trial is None else _floors(trial), {}),
        scores=read(lambda: {} if trial is None else _scores(trial), {}),
        selection=read(study.selection, None),
        n_test_evaluations=read(lambda: sum(line.split == "test" for line in read_test_evaluations(study.layout)), 0),
        errors=list(dict.fromkeys(errors)),
    )


def _epochs(study: StudyReader, rows: StudyRows, best: TrialRow | None) -> dict[int, pd.DataFrame]:
    numbers = [trial.number for trial in rows.trials][:MAX_CURVES]
    if best is not None and best.number not in numbers:
        numbers.append(best.number)
    return study.epochs_of(numbers)


def _split(trial: TrialReader) -> Split | None:
    """The split that is shown: test where the trial is published, else validation; None without an archive."""
    archives = trial.archives()
    splits: tuple[Split, ...] = ("test", "val")
    return next((split for split in splits if split in archives), None)


def _index(trial: TrialReader) -> AttentionArchive | None:
    split = _split(trial)
    return None if split is None else trial.archive(split, index_only=True)


def _retrieval(trial: TrialReader | None, *, queries_only: bool = False) -> Retrieval | None:
    """The galleries of the split that is shown, as `read_rankings`: maps may be missing."""
    split = None if trial is None else _split(trial)
    if trial is None or split is None:
        return None
    return read_rankings(trial.archives()[split], queries_only=queries_only)


def _floors(trial: TrialReader) -> dict[str, float]:
    return {key.partition("/")[2]: value for key, value in trial.floors().items()}


def _scores(trial: TrialReader) -> dict[Split, ScoreTable]:
    return {split: trial.score_table(split) for split in SPLITS if has_scores(trial.files.scores(split))}


def commands(facts: StudyFacts) -> list[tuple[str, str]]:
    """What is repeated, and the command that repeats it beside a folder `results` that holds this experiment."""
    trial, study = facts.best_trial, facts.reader.name
    if trial is None:
        return []
    number, train = trial.number, ("its best trial", train_again(trial))
    if facts.reader.is_plain_run:
        lines = [train]
    else:
        evaluate = f"attnsearch evaluate {study} --trial {number} --split"
        lines = [
            ("the search", f"attnsearch search {replace(facts.layout, root=Path('results')).study_yaml}"),
            train,
            ("val metrics", f"{evaluate} val"),
        ]
        lines += [("test metrics", f"{evaluate} test")] if facts.test else []
    if facts.archive is not None:
        split = facts.archive.split
        chosen = "--kind ranks" if facts.is_retrieval else "--per-class 1"
        lines.append(("images", f"attnsearch visualize {study}:{number} --split {split} {chosen}"))
        if facts.is_retrieval:
            lines.append(("ranked galleries", rank_again(trial, split)))
    return [(f"{facts.name}: {what}", command) for what, command in lines]
