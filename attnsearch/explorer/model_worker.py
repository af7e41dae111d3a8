"""Kept models that the pages ask: one at a time, in a thread of its own, and the last one stays loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from attnsearch.config.evaluation import SEARCH_FAMILIES, ScoreSettings
from attnsearch.config.validation import validate
from attnsearch.config.yaml_layers import Layer
from attnsearch.errors import ConfigError
from attnsearch.files import FileCache, stamp_of
from attnsearch.results.checkpoints import train_again
from attnsearch.results.trial import TrialReader
from attnsearch.store.image_scores import ScoreTable
from attnsearch.types import Split

if TYPE_CHECKING:
    from attnsearch.evaluation.evaluation import Evaluation, TrainedModel

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class KeptModel:
    """The model of a trial's best epoch."""

    trial: TrialReader
    model: TrainedModel

    @cached_property
    def evaluation(self) -> Evaluation:
        """The model on its data set.

        Raises:
            DataError: the data set is not on this machine, or has other classes.
        """
        from attnsearch.data.loader import open_data  # these import torch
        from attnsearch.evaluation.evaluation import Evaluation

        return Evaluation.of(self.model, open_data(self.model.config.data))

    def score(self, split: Split, image_id: str) -> ScoreTable:
        """The scores of one archived image, measured as those of the other images of the trial; nothing is written.

        A trial without scores is measured by its settings, with the families of a search where those name none.

        Raises:
            ConfigError, DataError, StoreError: as `score_image`.
        """
        from attnsearch.evaluation.score_archive import score_image  # imports torch

        tables = (self.trial.score_table(one) for one in dict.fromkeys((split, "val")) if self.trial.has_scores(one))
        table = next(tables, None)
        stored: Mapping[str, Any] = {} if table is None else table.about
        values = {**self.model.config.evaluation.scores.model_dump(mode="json"), **stored.get("settings", {})}
        values["families"] = values["families"] or SEARCH_FAMILIES
        settings = validate(ScoreSettings, Layer(values))
        archive = self.trial.archive_paths(split)
        return score_image(self.evaluation, archive, image_id, settings=settings, stored=stored)


class ModelWorker:
    """Loads kept models and asks them in its only thread, so that a second request waits; torch is imported there."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "kept model")
        self._loaded: FileCache[KeptModel] = FileCache(1)

    def ask(self, trial: TrialReader, question: Callable[[KeptModel], T]) -> T:
        """What `question` answers of the trial's kept model; waits for the questions before it.

        Raises:
            ConfigError: retention removed the weights, or the trial has none yet.
            StoreError: the weights are damaged, or not those that the trial ended with.
        """
        path = kept_weights(trial)
        return self._thread.submit(lambda: question(self._load(trial, path))).result()

    def _load(self, trial: TrialReader, path: Path) -> KeptModel:
        return self._loaded.get(path, stamp_of(path), lambda: KeptModel(trial, trial.model()))


def kept_weights(trial: TrialReader) -> Path:
    """The weights of a trial.

    Raises:
        ConfigError: there are none; the message names the trials of the study that have some, or how to train again.
    """
    path = trial.files.best
    if path.is_file():
        return path
    if trial.row.best_epoch is None:
        raise ConfigError(f"trial {trial.name} has no checkpoint yet: it is written with the best epoch")
    others = [row.number for row in trial.study.rows.complete if trial.study.layout.trial(row.number).best.is_file()]
    kept = f"trials that have theirs: {', '.join(map(str, others))}; " if others else ""
    raise ConfigError(
        f"trial {trial.name} has no checkpoint any more: retention removed it; {kept}`{train_again(trial)}` "
        "trains it again"
    )
