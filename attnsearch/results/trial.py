"""One trial of a study: what was measured of it, its files, scores, maps and model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import load_stored_experiment
from attnsearch.errors import ConfigError, UsageError
from attnsearch.evaluation.ranking import query_table
from attnsearch.files import stamp_of
from attnsearch.metrics.registry import all_metrics
from attnsearch.results.archives import RetrievalReader, images_frame
from attnsearch.results.shared import Study, copy_of
from attnsearch.results.uncertainty import score_summary_of, value_errors
from attnsearch.search.trials import TrialRow
from attnsearch.store.archive import has_archive, read_archive, read_rankings
from attnsearch.store.epochs import read_csv, read_split_scores
from attnsearch.store.image_scores import ScoreTable, best_scores, has_scores, read_scores
from attnsearch.store.trial_layout import ArchivePaths, PublishedLayout, TrialLayout
from attnsearch.types import SPLITS, AttentionArchive, Retrieval, Split

if TYPE_CHECKING:
    import pandas as pd

    from attnsearch.evaluation.evaluation import TrainedModel


@dataclass(frozen=True, repr=False)
class TrialReader:
    """One trial, read from its folder and the database of its study; nothing is written."""

    study: Study
    number: int

    def __repr__(self) -> str:
        values = "".join(f", {key}={value:.4g}" for key, value in self.values.items())
        return f"<trial {self.name}: {self.state}{values}>"

    def _repr_html_(self) -> str:
        facts = {"state": self.state, **self.values, "best epoch": self.row.best_epoch, **self.params}
        cells = "".join(
            f"<tr><th>{escape(key)}</th><td>{escape(_short(value))}</td></tr>" for key, value in facts.items()
        )
        return f"<b>trial {escape(self.name)}</b><table>{cells}</table>"

    @property
    def name(self) -> str:
        """`EXPERIMENT/STUDY:NUMBER`, as the command line takes it."""
        return f"{self.study.name}:{self.number}"

    @property
    def row(self) -> TrialRow:
        """All that the database holds of the trial at this moment.

        Raises:
            ConfigError: the study has no trial of this number.
        """
        for row in self.study.rows.trials:
            if row.number == self.number:
                return row
        study, numbers = self.study.layout.study, [row.number for row in self.study.rows.trials]
        known = f" ({min(numbers)} to {max(numbers)})" if numbers else ""
        raise ConfigError(f"study {study!r} has no trial {self.number}{known}; `attnsearch show {study}` lists all")

    def _lacks(self, what: str) -> ConfigError:
        """The error that the trial lacks something.

        Raises:
            ConfigError: there is no such trial.
        """
        return ConfigError(f"trial {self.row.number} of study {self.study.layout.study!r} has no {what}")

    @property
    def state(self) -> str:
        """`complete`, `pruned`, `running`, `paused` (at a rung of halving), `waiting` or `fail`."""
        return self.row.state

    @property
    def params(self) -> Mapping[str, Any]:
        """Dotted key -> value of each hyperparameter that was searched."""
        return self.row.params

    @property
    def values(self) -> dict[str, float]:
        """Objective -> value at the best epoch; empty until the trial is complete."""
        return dict(zip(self.study.rows.objectives, self.row.values, strict=False))

    @property
    def metrics(self) -> dict[str, float]:
        """`split/metric` -> value at the best epoch; those of test where the trial is published."""
        return {**self.row.metrics, **{f"test/{name}": value for name, value in self.test_metrics().items()}}

    def measured(self) -> dict[str, float]:
        """Each epoch's metrics in the order of its table, the scores, then the terms of the loss, at the best epoch.

        Raises:
            ConfigError, StoreError: there is no best epoch, or no table of the epochs.
        """
        row = self.row
        if row.best_epoch not in self.epochs.index:
            raise self._lacks("best epoch")
        terms = self.epochs.loc[row.best_epoch].filter(like="/loss_").dropna()
        columns = [name.replace("_", "/", 1) for name in read_csv(self.files.epochs_csv).columns]
        values = {**row.metrics, **terms}
        scores = [f"val/{metric.name}" for metric in all_metrics()]
        keys = dict.fromkeys([*(key for key in columns if key not in terms), *scores, *columns, *values])
        return {key: values[key] for key in keys if key in values}

    @property
    def files(self) -> TrialLayout:
        """Where the files of the trial lie; not all of them need to exist."""
        return self.study.layout.trial(self.number)

    @property
    def config(self) -> ExperimentConfig:
        """All settings of the trial; $VARIABLES in them are not expanded.

        Raises:
            ConfigError: it is missing or broken, or names a part that no plugin here has registered.
        """
        return load_stored_experiment(self.files.config)

    @property
    def checkpoint(self) -> Path:
        """The weights of the best epoch.

        Raises:
            ConfigError: retention removed them, or the trial has none yet.
            StoreError: they are not those that the trial ended with, by the checksum in the database.
        """
        path = self.files.best
        if not path.is_file():
            raise self._lacks(f"best checkpoint ({path}); `show` lists all")
        self.study.shared.databases.check_file(self.study.layout, self.number, "best", path)
        return path

    @property
    def epochs(self) -> pd.DataFrame:
        """A row per epoch, index `epoch` from 1, columns `split/metric`; empty before the first one ended."""
        import pandas as pd

        frame = self.study.epochs_of([self.number]).get(self.number)
        if frame is None:
            return pd.DataFrame(index=pd.Index([], name="epoch", dtype="int64"))
        return frame.drop(columns="trial", errors="ignore").set_index("epoch")

    def published(self) -> list[PublishedLayout]:
        """Where the published files of this trial lie, by the manifest of the study."""
        layout, entries = self.study.layout, self.study.published_sets()
        own = [(entry["epoch"], entry["folder"]) for entry in entries if entry["trial"] == self.number]
        targets = [
            target for epoch, _ in own for target in (layout.published(epoch), layout.pareto(self.number, epoch))
        ]
        folders = {layout.experiment_dir / folder for _, folder in own}
        return [target for target in dict.fromkeys(targets) if target.directory in folders]

    def test_metrics(self) -> dict[str, float]:
        """Metric -> value on the test split, by its own name; empty where the trial is not published.

        Raises:
            StoreError: the published file is damaged.
        """
        return self._published_metrics("test")

    def _published_metrics(self, split: Split) -> dict[str, float]:
        paths = [target.model_csv(split) for target in self.published()]
        path = next((path for path in paths if path.is_file()), None)
        return {} if path is None else read_split_scores(path)

    def floors(self) -> dict[str, float]:
        """`split/floor_…` -> what needs no trained model, on the published split; empty in classification.

        Raises:
            StoreError: the published file is damaged.
        """
        measured = {split: self._published_metrics(split).items() for split in SPLITS}
        return {f"{split}/{name}": value for split in SPLITS for name, value in measured[split] if "floor_" in name}

    def archives(self) -> dict[Split, ArchivePaths]:
        """Split -> archive of maps, of those that exist: in the folder of the trial, else published."""
        paths: dict[Split, ArchivePaths] = {}
        for split in SPLITS:
            candidates = [self.files.archive(split)]
            if split != "train":
                candidates += [target.archive(split) for target in self.published()]
            path = next(filter(has_archive, candidates), None)
            if path is not None:
                paths[split] = path
        return paths

    def archive_paths(self, split: str) -> ArchivePaths:
        """The archive of one split.

        Raises:
            ConfigError: the trial has none.
            UsageError: no such split.
        """
        archives = self.archives()
        paths = archives.get(_known_split(split))
        if paths is None:
            there = ", ".join(archives) or "none"
            raise self._lacks(f"maps of the split {split!r}; there are: {there}")
        return paths

    def archive(self, split: Split = "val", *, index_only: bool = False) -> AttentionArchive:
        """Predictions and maps of one split; arrays are mapped from disk.

        Args:
            index_only: without maps, norms and saliency, which retention may have removed.
        Raises:
            ConfigError: the trial has none.
            StoreError: it is damaged, or retention removed its arrays.
        """
        paths = self.archive_paths(split)
        stamp = stamp_of(*paths.all)
        key = (paths.images, index_only)
        return self.study.shared.archives.get(key, stamp, lambda: read_archive(paths, index_only=index_only))

    def images(self, split: Split = "val") -> pd.DataFrame:
        """Predictions of one split, a row per image, index `image_id`.

        Returns:
            Columns `true_class`, `predicted_class`, `label`, `prediction`, `is_correct`, `confidence` in [0, 1],
            `height_px`, `width_px` of the original and `crop_left`, `crop_top`, `crop_right`, `crop_bottom` of the
            model's input in original pixels. `.attrs`: `split`, `epoch`, `config_digest`. In re-identification a query
            is predicted to be its first hit; gallery images have no `predicted_class`, and `is_correct` is missing.
        Raises:
            ConfigError, StoreError: as `archive`.
        """
        return images_frame(self.archive(split, index_only=True))

    def retrieval(self, split: Split = "val") -> RetrievalReader:
        """The ranked galleries of one split, with the features of all of its images.

        Raises:
            ConfigError: the trial has no archive of the split, or predicts classes.
            StoreError: as `archive`.
        """
        return RetrievalReader(self._ranked(self.archive(split).retrieval))

    def query_table(self, split: Split = "val") -> ScoreTable:
        """mAP and the like of single queries as scores of images; they stay where retention removed the features.

        Raises:
            ConfigError, StoreError: as `retrieval`.
        """
        retrieval = self._ranked(read_rankings(self.archive_paths(split), queries_only=True))
        return query_table(retrieval, split=_known_split(split), epoch=self.row.best_epoch)

    def _ranked(self, retrieval: Retrieval | None) -> Retrieval:
        if retrieval is None:
            raise self._lacks("ranked galleries, as it predicts classes; `images` has them")
        return retrieval

    def maps(self, split: Split = "val") -> NDArray[np.float32]:
        """(N, K, h, w) maps of one split as the model made them, in the order of `images(split)`, mapped from disk.

        Raises:
            ConfigError: the trial has no archive of the split, or its model makes no maps.
            StoreError: as `archive`.
        """
        return self._array(self.archive(split).maps, "maps", split)

    def saliency(self, split: Split = "val") -> NDArray[np.float32]:
        """(N, h, w) non-negative saliency of one split, in the order of `images(split)`, mapped from disk.

        Raises:
            ConfigError, StoreError: as `maps`.
        """
        return self._array(self.archive(split).saliency, "saliency", split)

    def _array(self, array: NDArray[np.float32] | None, what: str, split: str) -> NDArray[np.float32]:
        if array is None:
            raise self._lacks(f"{what} of the split {split!r}: its model makes none")
        return array

    def has_scores(self, split: Split = "val") -> bool:
        """Whether the maps of one split were scored."""
        return has_scores(self.files.scores(split))

    def score_table(self, split: Split = "val") -> ScoreTable:
        """The scores of single images as they are stored.

        Raises:
            ConfigError: the maps of this split were not scored.
            UsageError: no such split.
            StoreError: the files are damaged.
        """
        paths = self.files.scores(split)
        if not self.has_scores(_known_split(split)):
            call = f"run `attnsearch faithfulness {self.study.layout.study}"
            hints = {"val": f"; {call} --trial {self.number}`", "test": f"; {call}`, which scores the published trial"}
            raise self._lacks(f"scores on {split}{hints.get(split, '')}")
        stamp = stamp_of(paths.about, paths.table, paths.curves)
        return self.study.shared.scores.get(paths.about, stamp, lambda: read_scores(paths))

    def scores(self, split: Split = "val") -> pd.DataFrame:
        """Scores of the saliency of single images: index `image_id`, a column per metric, NaN = undefined.

        The column of a gain holds values whose mean it is, not gains of single images; see `ScoreTable.image_values`.

        Returns:
            `.attrs`: `version` of the metrics, `settings` of the measurement, `split`, `epoch`.
        Raises:
            ConfigError, StoreError: as `score_table`.
        """
        import pandas as pd

        table = self.score_table(split)
        frame = pd.DataFrame(dict(table.values), index=pd.Index(table.image_ids, name="image_id"))
        shown = {key: table.about[key] for key in ("version", "settings")}
        frame.attrs.update(shown, split=split, epoch=table.about["checkpoint"]["epoch"])
        return frame

    def score_summary(self, split: Split = "val") -> dict[str, float]:
        """The scores of a split over its images; empty without scores.

        Returns:
            `split/score` -> mean, as trials are chosen by it; `split/score_se`, `_low` and `_high` -> its standard
            error and the ends of its 95 % interval, unless the trial was scored again and the search had another mean.
        Raises:
            StoreError: the files are damaged.
        """
        paths = best_scores(self.files, split)
        if paths is None:
            return {}
        stamp = stamp_of(paths.about, paths.table)
        summaries = self.study.shared.score_summaries
        return summaries.get(paths.about, stamp, lambda: score_summary_of(read_scores(paths), self.row.metrics))

    @property
    def value_errors(self) -> dict[str, float]:
        """Objective that is a score of maps -> standard error of its value; NaN where it is undefined."""
        return value_errors(self, self.study.rows.objectives)

    def model(self, device: str = "auto") -> TrainedModel:
        """The trained model, which brings its own preprocessing and class names; imports torch.

        An evaluation of it on the test split is logged in the folder of the study.

        Args:
            device: `auto`, `cpu`, `cuda` or `cuda:1`.
        Raises:
            ConfigError: retention removed the weights, or the model is of a plugin: the message names the modules that
                must be imported first.
            StoreError: the weights are damaged, or not those that the trial ended with.
        """
        from attnsearch.evaluation.evaluation import load_model

        return load_model(self.checkpoint, device=device, on_test=self.log_test_evaluation)

    def log_test_evaluation(self, epoch: int) -> None:
        """Counts an evaluation on the test split, see `SharedReads.log_test_evaluation`."""
        self.study.shared.log_test_evaluation(self.study.layout, self.number, epoch)

    def evaluate(self, split: Split = "val") -> dict[str, float]:
        """`split/metric` -> value of the best checkpoint on one split of its data set; imports torch.

        Raises:
            ConfigError, StoreError: as `model`.
            DataError: the data set is not on this machine, or has no such split.
        """
        return self.model().evaluate(split)

    def original(self, image_id: str, split: str = "val") -> Path | None:
        """The file of an image in the data set, if it is on this machine."""
        return self.study.shared.image_files.original(self.files.config, split, image_id)

    def image_file(self, image_id: str, split: str = "val") -> Path | None:
        """The small copy of an image in the results, else its original; None where neither is there."""
        return copy_of(self.study.layout, image_id) or self.original(image_id, split)


def _known_split(split: str) -> Split:
    """The split of this name.

    Raises:
        UsageError: there is none; the message names all of them.
    """
    for known in SPLITS:
        if known == split:
            return known
    raise UsageError(f"a split is one of {', '.join(SPLITS)}, got {split!r}")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
