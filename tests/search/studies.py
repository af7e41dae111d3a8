"""A tiny study that tests build on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import LoadedStudy
from attnsearch.config.study import StudyConfig
from attnsearch.config.validation import validate
from attnsearch.config.yaml_layers import Layer
from attnsearch.data.tables import DataTables, ImageTable
from attnsearch.search.plan import SearchPlan, layout_of
from attnsearch.search.study import study_identity
from attnsearch.store.urls import default_url

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
