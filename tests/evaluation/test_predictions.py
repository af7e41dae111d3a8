"""Logits of a split."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from attnsearch.data.loader import DataSource
from attnsearch.errors import DataError
from attnsearch.evaluation.confusion import predict_split
from attnsearch.models import build_model
from attnsearch.models.checkpoint import write_model_checkpoint
from tests.tiny import ConfigMaker


@pytest.fixture
def kept(tiny_config: ConfigMaker, tmp_path: Path) -> Path:
    """A `cnn` that always says the second class."""
    config = tiny_config()
    model = build_model(config.model, 2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("head"):
                parameter.zero_()
                parameter[1] = 1.0
    path = tmp_path / "kept.safetensors"
    write_model_checkpoint(
        path, model, config=config, class_names=("blue", "red"), epoch=3, accumulation=1, val_hash=""
    )
    return path


def test_logits_stand_in_file_order(kept: Path, tiny_config: ConfigMaker, data: DataSource) -> None:
    found = predict_split(tiny_config(), kept, data, "test")
    assert found.image_ids == data.tables.of("test").image_ids
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert list(found.logits) == ["combined"]
    assert found.logits["combined"].argmax(dim=1).tolist() == [1] * 6  # features after a ReLU are not negative
    assert (found.epoch, found.split) == (3, "test")


def test_other_classes_are_refused(tiny_config: ConfigMaker, data: DataSource, tmp_path: Path) -> None:
    config = tiny_config()
    path = tmp_path / "kept.safetensors"
    model = build_model(config.model, 2)
    write_model_checkpoint(
        path, model, config=config, class_names=("blue", "green"), epoch=1, accumulation=1, val_hash=""
    )
    with pytest.raises(DataError, match="green"):
        predict_split(config, path, data, "val")
