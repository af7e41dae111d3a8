"""Locality of features and kept decisions, on birds that are drawn again."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.data.loader import open_data
from attnsearch.device import Arithmetic
from attnsearch.errors import ConfigError
from attnsearch.evaluation.base import ModelOnData, untrained
from attnsearch.evaluation.locality import kept_decisions, measure_leakage
from attnsearch.models.base import AttentionModel
from attnsearch.types import AttentionOutput, Batch, HeadOutput


def config_of(**data: object) -> ExperimentConfig:
    settings = {
        "name": "tiny",
        "data": {
            **{"name": "synthetic", "n_classes": 2, "n_train_per_class": 1, "n_val_per_class": 30},
            **{"n_test_per_class": 1, "picture_px": 48, "image_size_px": 32},
            **data,
        },
        "model": {"name": "loupe", "backbone": "resnet10t", "width": 0.25, "weights": "none", "stage": 0},
        "runtime": {"device": "cpu", "n_threads": 1},
    }
    return ExperimentConfig.model_validate_json(json.dumps(settings))


class OneCell(AttentionModel):
    """Compares the first channel of the first cell of 2 x 2 with the mean colour; its map is that cell alone."""

    def forward(self, batch: Batch, *, maps: tuple[str, ...] | None = None) -> AttentionOutput:
        cell = batch.images[:, 0, :16, :16].mean(dim=(1, 2))  # (B,)
        saliency = torch.zeros(len(cell), 1, 2, 2)
        saliency[:, 0, 0, 0] = 1.0
        return AttentionOutput(HeadOutput(torch.stack([cell.abs(), torch.full_like(cell, 1e-6)], dim=1)), maps=saliency)

    def saliency(self, output: AttentionOutput, target: torch.Tensor) -> torch.Tensor:
        assert output.maps is not None
        return output.maps[:, 0]


def opened_with(model: AttentionModel | None) -> ModelOnData:
    config, unused = config_of(), SimpleNamespace(accumulation=1)
    checkpoint: Any = unused
    own: Any = model
    opened = ModelOnData(checkpoint, config, own, Arithmetic(torch.device("cpu")), open_data(config.data))
    checkpoint.class_names = opened.data.tables.class_names
    return untrained(opened) if model is None else opened


def test_decisions_stand_on_the_cell_that_is_looked_at_and_on_a_random_one_as_often_as_it_is_hit() -> None:
    opened = opened_with(OneCell().eval())
    rows = np.arange(len(opened.table("val")))
    kept = kept_decisions(opened, "val", rows)
    assert (kept.by_map, kept.fraction_of_cells) == (1.0, 0.25)
    assert 0.05 < kept.by_random < 0.45  # 1/4 of 60 images, with a deviation of .056
    assert kept == kept_decisions(opened, "val", rows)


def test_a_model_with_random_weights_is_its_own_floor() -> None:
    opened = opened_with(None)
    measured = measure_leakage(opened, "val", n_images=40)
    np.testing.assert_array_equal(measured.trained.skills, measured.untrained.skills)
    assert measured.trained.skills.shape == (4, 4)
    assert measured.trained.n_images.max() <= 40
    assert measured.trained.own > measured.trained.leak


def test_images_that_cannot_be_drawn_again_are_refused() -> None:
    opened = opened_with(OneCell())
    config = ExperimentConfig.model_validate_json(
        json.dumps({"name": "x", "data": {"name": "folder", "root": "photos"}, "model": {"name": "cnn"}})
    )
    elsewhere = ModelOnData(opened.checkpoint, config, opened.model, opened.arithmetic, opened.data)
    with pytest.raises(ConfigError, match="'folder'"):
        measure_leakage(elsewhere, "val", n_images=40)
