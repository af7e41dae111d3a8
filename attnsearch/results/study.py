"""One study of a results folder: its trials, epochs, best trials and comparisons."""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import load_stored_settings, load_stored_study
from attnsearch.config.study import StudyConfig
from attnsearch.errors import ConfigError, StoreError
from attnsearch.files import settled_stamp
from attnsearch.results.databases import is_plain_run
from attnsearch.results.progress import UNFINISHED, StudyProgress, StudySummary, progress_of, summary_of_study
from attnsearch.results.selection import Selection, selection_of
from attnsearch.results.shared import SharedReads
from attnsearch.results.trial import TrialReader
from attnsearch.results.uncertainty import ErrorsOf, value_errors
from attnsearch.search.pareto import Reliability, front_of, importances, reliability
from attnsearch.search.trials import StudyRows, TrialRow
from attnsearch.store.inspection import database_content_errors
from attnsearch.store.layout import StudyLayout
from attnsearch.store.retention import RemovableFile
from attnsearch.store.study_files import Confirmation, read_confirmation, read_manifest
from attnsearch.types import SPLITS, BestEpochs

if TYPE_CHECKING:
    import pandas as pd

MAX_COMPARED = 8
"""Trials that `compare` takes where none is named: each pair is tested, and corrected for all of them."""


@dataclass(frozen=True, repr=False)
class StudyReader:
    """One study, read from its folder and its database; nothing is written.

    A run of `attnsearch train` is a study of one trial.

    Attributes:
        layout: where its files lie.
    """

    layout: StudyLayout
    shared: SharedReads = field(default_factory=SharedReads, compare=False)

    def __repr__(self) -> str:
        row = self.summary()
        best = "" if row.best is None else f", best trial {row.best}: {row.best_text}"
        return f"<study {self.name}: {row.error or f'{row.state}, {row.n_done} of {row.n_trials} trials{best}'}>"

    def _repr_html_(self) -> str:
        table = self.trials.to_html(max_rows=20, max_cols=12, float_format="{:.4g}".format)
        return f"<p>{escape(repr(self)[1:-1])}</p>{table}"

    @property
    def name(self) -> str:
        """`EXPERIMENT/STUDY`, as the command line takes it."""
        return f"{self.layout.experiment}/{self.layout.study}"

    @property
    def is_plain_run(self) -> bool:
        """Whether it was written by a `train` of before, without a database."""
        return is_plain_run(self.layout)

    @property
    def settings(self) -> StudyConfig:
        """The settings of the search, which name no model.

        Raises:
            ConfigError: they are missing or broken.
        """
        path = self.layout.study_yaml
        return self.shared.settings.get(path, settled_stamp(path), lambda: load_stored_settings(path))

    @property
    def experiment(self) -> ExperimentConfig:
        """The settings that every trial starts from.

        Raises:
            ConfigError: they are missing or broken, or name a part that no plugin here has registered.
        """
        return load_stored_study(self.layout.study_yaml).experiment

    @property
    def rows(self) -> StudyRows:
        """All that the database holds of the study at this moment.

        Raises:
            ConfigError, StoreError: the study cannot be read.
        """
        return self.shared.databases.rows(self.layout)

    @property
    def trials(self) -> pd.DataFrame:
        """A row per trial, index `trial`.

        Returns:
            Columns `state`, `is_best`, `is_feasible`; a column per hyperparameter by its dotted key; a column per
            `split/metric` at the best epoch, the objectives first, those of test where the trial is published;
            `split/score_se`, `_low` and `_high`: standard error and 95 % interval of the mean score over images;
            `best_epoch`, `epochs_run`, `seconds`, `error`, `rung`, `place`, `n_at_rung`, `imported_from`. `.attrs`:
            `objectives`.
        Raises:
            ConfigError, StoreError: the study cannot be read.
        """
        import pandas as pd

        rows = self.rows
        records = [self._record(row, rows) for row in rows.trials]
        columns = dict.fromkeys(key for group in zip(*records, strict=True) for cells in group for key in cells)
        index = pd.Index([row.number for row in rows.trials], name="trial", dtype="int64")
        frame = pd.DataFrame([dict(ChainMap(*groups)) for groups in records], index=index, columns=list(columns))
        frame.attrs["objectives"] = dict(rows.objectives)
        return frame

    def _record(self, row: TrialRow, rows: StudyRows) -> tuple[dict[str, Any], ...]:
        """The cells of one trial, by groups of columns; the first of two values counts.

        A study of version 0.1 lists the sparsity of the saliency among its scores only, not among the metrics.
        """
        trial = self.trial(row.number)
        return (
            {"state": row.state, "is_best": row.number in rows.best, "is_feasible": row.is_feasible},
            dict(row.params),
            dict(zip(rows.objectives, row.values, strict=False)),
            dict(row.metrics),
            {f"test/{name}": value for name, value in trial.test_metrics().items()},
            trial.score_summary(),
            {"best_epoch": row.best_epoch, "epochs_run": row.epochs_run, "seconds": row.seconds, "error": row.error},
            {} if row.standing is None else row.standing.cells,
            {"imported_from": row.imported_from} if row.imported_from else {},
        )

    @property
    def epochs(self) -> pd.DataFrame:
        """The epochs of all trials: columns `trial`, `epoch` from 1 and `split/metric`, NaN = not measured.

        Raises:
            ConfigError, StoreError: the study cannot be read.
        """
        return self.shared.databases.epochs(self.layout)

    @property
    def scores(self) -> pd.DataFrame:
        """All scorings of saliency on record: a row per trial, split and metric.

        Returns:
            Columns `trial`, `split`, `metric`, `value` (mean, NaN = undefined), `n_images`, `n_undefined`, `version` of
            the metrics, `settings` (JSON) and `digest` of both: rows of different ones must not be compared.
        Raises:
            ConfigError, StoreError: the study cannot be read.
        """
        return self.shared.databases.scores(self.layout)

    def epochs_of(self, numbers: Collection[int]) -> dict[int, pd.DataFrame]:
        """Trial -> its epochs, columns `epoch` and those `split/metric` that it measured; none for a trial without."""
        frame = self.shared.databases.epochs(self.layout, numbers)
        return {int(str(number)): rows.dropna(axis=1, how="all") for number, rows in frame.groupby("trial")}

    def best_epochs(self, numbers: Collection[int], metrics: Sequence[str], *, is_higher: bool) -> BestEpochs:
        """The epochs of some trials that are best in a metric, of those where all of the metrics are defined."""
        return self.shared.databases.best_epochs(self.layout, numbers, metrics, is_higher=is_higher)

    def trial(self, number: int) -> TrialReader:
        """One trial; whether there is one of this number is seen when it is read."""
        return TrialReader(self, number)

    def existing_trial(self, number: int) -> TrialReader:
        """As `trial`, of a number that the study has.

        Raises:
            ConfigError: it has no such trial; the message names those that it has.
        """
        trial = self.trial(number)
        trial.row  # noqa: B018  which raises
        return trial

    @property
    def front(self) -> tuple[TrialReader, ...]:
        """The trials that no other one beats in all objectives, best in the first objective first.

        With one objective that is the best trial. Empty while no feasible trial is complete.
        """
        return tuple(self.trial(row.number) for row in front_of(self.rows))

    @property
    def ties(self) -> tuple[TrialReader, ...]:
        """The trials that no other one surely beats, by two errors, the chosen one first; empty before a race."""
        return tuple(self.trial(number) for number in self.rows.ties)

    @property
    def best(self) -> TrialReader:
        """The best trial by the objective; of a Pareto front the best by the monitor, whose files are published.

        Raises:
            ConfigError: no feasible trial is complete.
        """
        row = self.best_row()
        if row is None:
            raise ConfigError(
                f"study {self.layout.study!r} has no complete trial that meets its constraints; name a trial"
            )
        return self.trial(row.number)

    def best_row(self) -> TrialRow | None:
        """As `best`; None while no feasible trial is complete."""
        front = front_of(self.rows)
        if len(front) < 2:
            return next(iter(front), None)
        monitor, direction = self.monitor
        sign = 1 if direction == "maximize" else -1
        return min(front, key=lambda row: (-sign * row.metrics.get(monitor, -sign * math.inf), row.number))

    @property
    def monitor(self) -> tuple[str, str]:
        """The metric that the best epochs are chosen by, and its better direction.

        Raises:
            ConfigError, StoreError: the study cannot be read.
        """
        if self.is_plain_run:
            return next(iter(self.rows.objectives.items()))
        config = self.settings
        return config.monitor, config.monitor_direction

    @property
    def _n_trials(self) -> int:
        """The budget of complete and pruned trials."""
        return 1 if self.is_plain_run else self.settings.n_trials

    def summary(self) -> StudySummary:
        """How far the study is and what its best trial reached; why not, where it cannot be read."""
        return summary_of_study(self, lambda: self._n_trials)

    def progress(self) -> StudyProgress:
        """What each trial does at this moment.

        Raises:
            ConfigError, StoreError: the study cannot be read.
        """
        rows = self.rows
        unfinished = [row.number for row in rows.trials if row.state in UNFINISHED]
        epochs = self.shared.databases.epochs(self.layout, unfinished)
        monitor, direction = self.monitor
        n_epochs = (self.trial(0).config if self.is_plain_run else self.experiment).train.epochs
        trials = progress_of(rows.trials, epochs, monitor=monitor, direction=direction, n_epochs=n_epochs)
        return StudyProgress(self.layout.study, monitor, trials, self._n_trials)

    def compare(self, metric: str, trials: Sequence[int] | None = None) -> pd.DataFrame:
        """Paired differences between trials in one score of single validation images, or of single queries.

        Args:
            metric: such as `deletion_gain` or `val/deletion_gain`; `mAP` compares average precisions.
            trials: their numbers; None = the best ones that have it, at most `MAX_COMPARED`.
        Returns:
            A row per pair: `first`, `second`, `n_images` where both are defined, `difference` (first minus second) with
            its 95 % interval `low` to `high`, and two-sided p-values, as they are and after Holm's correction.
        Raises:
            ConfigError: fewer than two scored trials, an unknown metric, or scores that were measured differently.
        """
        import pandas as pd

        from attnsearch.evaluation.compare import ScoredTrial, check_comparable, compare, is_of_queries, metrics_of

        name = metric.removeprefix("val/")
        of_queries = is_of_queries(name)
        numbers = self._best_measured(of_queries) if trials is None else trials
        tables = [one.query_table() if of_queries else one.score_table() for one in map(self.trial, numbers)]
        entries = [ScoredTrial(str(number), table) for number, table in zip(numbers, tables, strict=True)]
        check_comparable(entries)
        comparison = compare(entries, metrics_of(entries, [name]))
        frame = pd.DataFrame([vars(pair) for pair in comparison.pairs]).drop(columns="metric")
        return frame.astype({"first": "int64", "second": "int64"})

    def _best_measured(self, of_queries: bool) -> list[int]:
        """The numbers of the best trials whose queries, or images, were measured one by one."""
        rows = self.rows
        sign = -1 if next(iter(rows.objectives.values())) == "maximize" else 1
        complete = [row for row in rows.complete if row.is_feasible]
        ranked = sorted(complete, key=lambda row: (row.number not in rows.best, sign * row.values[0], row.number))
        having = (one for one in (self.trial(row.number) for row in ranked) if _is_measured(one, of_queries))
        return [trial.number for trial in islice(having, MAX_COMPARED)]

    def importances(self) -> dict[str, Mapping[str, float]]:
        """Objective -> hyperparameter -> fraction of what tells the best trials from the others; empty with few trials.

        Raises:
            ConfigError, StoreError: the study cannot be read.
        """
        if self.is_plain_run:
            return {}
        with database_content_errors(self.shared.databases.url(self.layout)):
            return importances(self.shared.databases.study(self.layout))

    def value_errors(self, of_trial: ErrorsOf = value_errors) -> dict[int, dict[str, float]]:
        """Number of each complete trial -> its `value_errors`, or its `known_errors`.

        Raises:
            ConfigError, StoreError: the study or its scores cannot be read.
        """
        rows = self.rows
        return {row.number: of_trial(self.trial(row.number), rows.objectives) for row in rows.complete}

    def reliability(self, metric: str) -> Reliability | str | None:
        """How far images agree on the order of the front, or of all complete trials with one objective, in one score.

        Args:
            metric: by its own name, such as `relevance_gain`.
        Returns:
            None where fewer than two trials were scored; a sentence where they were not scored alike.
        Raises:
            ConfigError, StoreError: the study or its scores cannot be read.
        """
        rows = self.rows
        numbers = rows.best if len(rows.objectives) > 1 else [row.number for row in rows.complete]
        return reliability([one.score_table() for one in map(self.trial, numbers) if one.has_scores()], metric)

    def selection(self) -> Selection:
        """What the choice of the best trials flatters, and how far the search came after each trial.

        Raises:
            ConfigError, StoreError: the study or its scores cannot be read.
        """
        return selection_of(self)

    @property
    def confirmation(self) -> Confirmation | None:
        """Whether the best trials of the search are the best with other seeds; None before `attnsearch confirm`."""
        return read_confirmation(self.layout)

    def removable_files(self) -> list[RemovableFile]:
        """Weights and maps that the retention of the study does not keep.

        Raises:
            ConfigError, StoreError: the study cannot be read.
        """
        from attnsearch.search.publish import removable_of  # imports torch

        url = self.shared.databases.url(self.layout)
        self.rows  # noqa: B018  a damaged database is named before anything is planned
        with database_content_errors(url):
            return removable_of(load_stored_study(self.layout.study_yaml), self.layout, url)

    def first_published(self) -> Mapping[str, Any] | None:
        """`trial`, `epoch` and `folder` of the best trial's published set; None while nothing is published.

        Raises:
            StoreError: the manifest is damaged.
        """
        manifest = read_manifest(self.layout)
        return None if manifest is None else dict(manifest["sets"][0])

    def published_sets(self) -> list[Mapping[str, Any]]:
        """`trial`, `epoch` and `folder` of each published set; empty where nothing is, or the manifest is damaged."""
        try:
            manifest = read_manifest(self.layout)
        except StoreError:
            return []  # the maps of validation can be read without it
        return [] if manifest is None else list(manifest["sets"])

    def numbers_with_maps(self) -> list[int]:
        """The trials that have an archive of maps, ascending."""
        folder = self.layout.trial(0).directory.parent
        found = folder.iterdir() if folder.is_dir() else ()
        paths = [path for path in found if path.name.isascii() and path.name.isdecimal()]
        names = {self.layout.trial(0).archive(split).images.name for split in SPLITS}
        own = {int(path.name) for path in paths if self._holds(path, names)}
        published = {entry["trial"] for entry in self.published_sets()} - own
        return sorted(own | {number for number in published if self.trial(number).archives()})

    def _holds(self, folder: Path, names: set[str]) -> bool:
        """Whether a file of one of these names lies there; looked up again when the folder changes."""
        stamp = settled_stamp(folder)
        return self.shared.has_maps.get(folder, stamp, lambda: any((folder / name).is_file() for name in names))


def _is_measured(trial: TrialReader, of_queries: bool) -> bool:
    """Whether the queries of validation, or the saliency of its images, were measured one by one."""
    archived = trial.archives().get("val")
    return archived is not None and archived.retrieval.is_file() if of_queries else trial.has_scores()
