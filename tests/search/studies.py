"""A tiny study that tests build on."""

from __future__ import annotations

from typing import Any

import pytest

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import LoadedStudy
from attnsearch.config.study import StudyConfig
from attnsearch.config.validation import validate
from attnsearch.config.yaml_layers import Layer

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


def loaded_study(**study: Any) -> LoadedStudy:
    """A study over a tiny experiment; keyword arguments are fields of the study."""
    values = {"name": "hunt", "base": EXPERIMENT, "space": SPACE, "n_trials": 4, **study}
    return LoadedStudy(validate(StudyConfig, Layer(values)), validate(ExperimentConfig, Layer(EXPERIMENT)))
