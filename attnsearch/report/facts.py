"""What a report says of each study, read from the results folder alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import load_stored_experiment
from attnsearch.errors import AttnSearchError
from attnsearch.explorer.archives import Archives
from attnsearch.results.reader import Results
from attnsearch.search.pareto import importances
from attnsearch.search.trials import StudyRows, TrialRow, find_in
from attnsearch.store.archive import read_archive
from attnsearch.store.damage import database_content_errors
from attnsearch.store.epochs import read_split_scores
from attnsearch.store.image_scores import ScoreTable, has_scores, read_scores
from attnsearch.store.layout import StudyLayout, TrialLayout
from attnsearch.store.trial_store import read_test_evaluations
from attnsearch.types import SPLITS, AttentionArchive, Split

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
MAX_CURVES = 60
"""Trials whose learning curves are drawn beside that of the chosen one."""


@dataclass(frozen=True, eq=False)
class StudyFacts:
    """One study or plain run.

    Attributes:
        chosen: the best trial, on a front its first one; None while none is complete.
        config: of the chosen trial.
        test: scores of the chosen trial on the test split, where it was published.
        epochs: trial -> its epochs, columns `epoch` and `split/metric`.
        importances: objective -> setting -> share.
        archive: index of the chosen trial's images: test where it is published, else validation; without its arrays.
        scores: of the chosen trial's saliency, by split.
        n_looks: how often the test split was opened.
        faults: what could not be read.
    """

    layout: StudyLayout
    rows: StudyRows
    chosen: TrialRow | None
    config: ExperimentConfig | None
    test: Mapping[str, float]
    epochs: Mapping[int, pd.DataFrame]
    importances: Mapping[str, Mapping[str, float]]
    archive: AttentionArchive | None
    scores: Mapping[Split, ScoreTable]
    n_looks: int
    faults: Sequence[str]

    @property
    def name(self) -> str:
        return self.layout.study

    @property
    def title(self) -> str:
        """With its experiment, as the command line takes it."""
        return f"{self.layout.experiment}/{self.layout.study}"

    @property
    def is_run(self) -> bool:
        """Whether it is a run of `attnsearch train`, without a search."""
        return not self.layout.study_yaml.is_file()

    def states(self) -> dict[str, int]:
        """State -> number of trials, in the order of a trial's life."""
        found = [trial.state for trial in self.rows.trials]
        return {state: found.count(state) for state in dict.fromkeys(sorted(found))}


def read_facts(library: Results, layout: StudyLayout) -> StudyFacts | str:
    """The facts of a study, or one line that says why it cannot be read."""
    try:
        return _facts(library, layout)
    except AttnSearchError as error:
        return f"{layout.experiment}/{layout.study}: {error}"


def _facts(library: Results, layout: StudyLayout) -> StudyFacts:
    rows = library.rows(layout)
    chosen = next((trial for trial in rows.trials if trial.number == (rows.best or (None,))[0]), None)
    faults: list[str] = []

    def found(read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except AttnSearchError as error:
            faults.append(str(error))
            return otherwise

    files = None if chosen is None else layout.trial(chosen.number)
    return StudyFacts(
        layout=layout,
        rows=rows,
        chosen=chosen,
        config=found(lambda: None if files is None else load_stored_experiment(files.config), None),
        test=found(lambda: {} if chosen is None else _test_scores(layout, chosen), {}),
        epochs=found(lambda: _epochs(library, layout, rows, chosen), {}),
        importances=found(lambda: _importances(library, layout) if layout.study_yaml.is_file() else {}, {}),
        archive=found(lambda: None if chosen is None else _index(layout, chosen.number), None),
        scores=found(lambda: {} if files is None else _scores(files), {}),
        n_looks=found(lambda: sum(line.split == "test" for line in read_test_evaluations(layout)), 0),
        faults=faults,
    )


def _epochs(library: Results, layout: StudyLayout, rows: StudyRows, chosen: TrialRow | None) -> dict[int, pd.DataFrame]:
    numbers = [trial.number for trial in rows.trials][:MAX_CURVES]
    if chosen is not None and chosen.number not in numbers:
        numbers.append(chosen.number)
    return library.epochs(layout, numbers)


def _importances(library: Results, layout: StudyLayout) -> dict[str, Mapping[str, float]]:
    url = library.url(layout)
    with database_content_errors(url):
        return importances(find_in(library.storage(url), url, layout.study))


def _index(layout: StudyLayout, number: int) -> AttentionArchive | None:
    known = Archives().of_trial(layout, number)
    splits: tuple[Split, ...] = ("test", "val")
    paths = next((known[split] for split in splits if split in known), None)
    return None if paths is None else read_archive(paths, index_only=True)


def _scores(files: TrialLayout) -> dict[Split, ScoreTable]:
    return {split: read_scores(files.scores(split)) for split in SPLITS if has_scores(files.scores(split))}


def _test_scores(layout: StudyLayout, chosen: TrialRow) -> dict[str, float]:
    """Of the flat file, or of the trial's place on the front."""
    candidates = (layout.published(chosen.kept_epoch), layout.pareto(chosen.number, chosen.kept_epoch))
    path = next((one.model_csv("test") for one in candidates if one.model_csv("test").is_file()), None)
    if path is None:
        return {}
    return read_split_scores(path)
