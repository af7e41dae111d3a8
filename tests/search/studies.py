"""A tiny study that tests build on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import LoadedStudy
from attnsearch.config.study import StudyConfig
from attnsearch.config.validation import validate
from attnsearch.config.yaml_layers import Layer
from attnsearch.data.tables import DataTables, ImageTable
from attnsearch.files import atomic_write
from attnsearch.search.context import Worker
from attnsearch.search.handle import StudyHandle
from attnsearch.search.plan import SearchPlan, layout_of, study_file
from attnsearch.search.queue import claim_next, pause_trial
from attnsearch.search.study import attributes, study_identity
from attnsearch.store.layout import StudyLayout
from attnsearch.store.urls import default_url
from attnsearch.types import EpochRecord, TrialResult

ON_EACH_DATABASE = pytest.mark.parametrize("backend", ["sqlite", "postgresql"], indirect=True)
"""For tests of `open_tiny` that ask something of the database itself."""

EXPERIMENT: dict[str, Any] = {
    "name": "hunt",
    "experiment": "here",
    "data": {
        "name": "synthetic",
        "n_classes": 2,
        "image_size_px": 32,
        "picture_px": 48,
        "n_train_per_class": 4,
        "n_val_per_class": 2,
        "n_test_per_class": 2,
    },
    "model": {"name": "br_npa", "backbone": "resnet10t", "width": 0.25},
    "train": {"epochs": 2, "batch_size": 4, "precision": "fp32"},
}
SPACE: dict[str, Any] = {
    "train.optimizer.name": {"kind": "choice", "choices": ["adam", "sgd"]},
    "train.optimizer.momentum": {"kind": "float", "low": 0.0, "high": 0.9, "when": {"train.optimizer.name": ["sgd"]}},
    "train.optimizer.lr": {"kind": "float", "low": 1e-4, "high": 1e-2, "log": True},
}


VAL_HASH, CLASSES = "split-a", ("a", "b")


def identity_of(loaded: LoadedStudy, *, val_hash: str = VAL_HASH) -> dict[str, Any]:
    """The identity of a study on data that nobody has."""
    return study_identity(loaded, val_hash=val_hash, class_names=CLASSES)


class PlayedData:
    """A data set for trials that are played by a function."""

    def serving(self, cfg: Any) -> Any:
        return self


PLAYED_DATA: Any = PlayedData()


def plan_of(loaded: LoadedStudy, root: Path, *, url: str | None = None) -> SearchPlan:
    """The plan of a study on data that nobody has; it can be opened, and its trials are played."""
    layout = layout_of(loaded, root)
    table = ImageTable("val", CLASSES, (), (), np.zeros(0, dtype=np.int64))
    tables = DataTables(root, CLASSES, table, table, None, VAL_HASH)
    url = url or default_url(layout)
    return SearchPlan(loaded.study, loaded.experiment, tables, layout, url, identity_of(loaded))


def loaded_study(**study: Any) -> LoadedStudy:
    """A study over a tiny experiment; keyword arguments are fields of the study."""
    values = {"name": "hunt", "base": EXPERIMENT, "space": SPACE, "n_trials": 4, **study}
    return LoadedStudy(validate(StudyConfig, Layer(values)), validate(ExperimentConfig, Layer(EXPERIMENT)))


HALVING: dict[str, Any] = {"pruner": {"name": "halving", "first_epochs": 1, "bracket_trials": 4}}
"""Fields of a tiny study: four trials wait after the first of two epochs, and two of them continue."""


def play_leg(handle: StudyHandle, metrics: Mapping[str, float]) -> int:
    """Trains the next trial of a study with halving to its rung, where it pauses, or to its end; returns its number.

    Args:
        metrics: `val/name` -> what it reaches, in each of its epochs.
    """
    worker = Worker("here:1:a", None)
    claim = claim_next(handle, worker)
    assert not isinstance(claim, str)
    number, n_epochs = claim.trial.number, claim.pause_at or handle.loaded.experiment.train.epochs
    values = {key.removeprefix("val/"): value for key, value in metrics.items()}
    loss = values.pop("loss", 0.7)
    records = [EpochRecord(epoch, "val", 4, loss, {}, values, 0.01, 1.0, 4.0, 10.0) for epoch in range(1, n_epochs + 1)]
    handle.store.write_epochs(number, records, attempt=claim.attempt)
    files = handle.layout.trial(number)
    for path in (files.best, files.resume(claim.attempt)):
        atomic_write(path, "weights")
    state = "complete" if claim.pause_at is None else "paused"
    reached = TrialResult(state, n_epochs, n_epochs, metrics, float(n_epochs), 4.0)  # type: ignore[arg-type]
    if claim.pause_at is not None:
        pause_trial(handle, claim, reached)
        return number
    with handle.store.exclusive():
        for key, value in attributes(handle.layout, number, reached, at=handle.store.now()).items():
            claim.trial.set_user_attr(key, value)
        handle.tell(claim.trial, [metrics[key] for key in handle.loaded.study.objectives], TrialState.COMPLETE)
        handle.store.leases.release(number, claim.attempt, stalled=False)
    handle.remove_resumes([number])
    return number


def build_halving(root: Path, accuracies: Sequence[float] = (0.5, 0.75, 0.25, 0.8)) -> StudyLayout:
    """Results with a study of two brackets, in which trial 0 is paused, 1 is complete and 2 is pruned.

    Args:
        accuracies: of each leg; with three of them no trial is complete.
    """
    loaded = loaded_study(n_trials=8, **HALVING)
    layout = layout_of(loaded, root)
    layout.study_dir.mkdir(parents=True)
    handle = plan_of(loaded, root).open()
    for accuracy in accuracies:
        play_leg(handle, {"val/accuracy": accuracy})
    atomic_write(layout.study_yaml, study_file(loaded))
    handle.database.close()
    return layout
