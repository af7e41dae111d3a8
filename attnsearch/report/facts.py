"""What a report shows of one study, read from the results folder alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.errors import AttnSearchError
from attnsearch.metrics.registry import leading_metric
from attnsearch.results.study import StudyReader
from attnsearch.results.trial import TrialReader
from attnsearch.search.trials import StudyRows, TrialRow
from attnsearch.store.archive import read_rankings
from attnsearch.store.image_scores import ScoreTable, has_scores
from attnsearch.store.layout import StudyLayout
from attnsearch.store.study_files import read_test_evaluations
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
        epochs: trial -> its epochs, columns `epoch` and `split/metric`.
        importances: objective -> hyperparameter -> fraction.
        archive: index of the best trial's images: test where it is published, else validation; without its arrays.
        retrieval: of the same split, in re-identification; without features where retention removed them.
        floors: what needs no trained model, on the published split, by its own name; in re-identification.
        scores: of the best trial's saliency, by split.
        n_test_evaluations: how often the test split was evaluated.
        errors: what could not be read.
    """

    reader: StudyReader
    rows: StudyRows
    best: TrialRow | None
    config: ExperimentConfig | None
    test: Mapping[str, float]
    epochs: Mapping[int, pd.DataFrame]
    importances: Mapping[str, Mapping[str, float]]
    archive: AttentionArchive | None
    retrieval: Retrieval | None
    floors: Mapping[str, float]
    scores: Mapping[Split, ScoreTable]
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
    def leading(self) -> str:
        """The metric that its trials are compared by first: accuracy, or mAP under the rule of its data."""
        names = {key.removeprefix("val/") for trial in self.rows.trials for key in trial.metrics}
        return leading_metric(names)

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
        epochs=read(lambda: _epochs(study, rows, best), {}),
        importances=read(study.importances, {}),
        archive=read(lambda: None if trial is None else _index(trial), None),
        retrieval=read(lambda: None if trial is None else _retrieval(trial), None),
        floors=read(lambda: {} if trial is None else _floors(trial), {}),
        scores=read(lambda: {} if trial is None else _scores(trial), {}),
        n_test_evaluations=read(lambda: sum(line.split == "test" for line in read_test_evaluations(study.layout)), 0),
        errors=errors,
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


def _retrieval(trial: TrialReader) -> Retrieval | None:
    split = _split(trial)
    if split is None:
        return None
    return read_rankings(trial.archives()[split])


def _floors(trial: TrialReader) -> dict[str, float]:
    return {key.partition("/")[2]: value for key, value in trial.floors().items()}


def _scores(trial: TrialReader) -> dict[Split, ScoreTable]:
    return {split: trial.score_table(split) for split in SPLITS if has_scores(trial.files.scores(split))}
