"""Logits of a split."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from attnsearch.data.loader import DataSource
from attnsearch.evaluation.evaluation import Evaluation
from attnsearch.models import build_model
from attnsearch.models.checkpoint import write_model_checkpoint
from attnsearch.tasks.classification import LinearHeads
from tests.tiny import ConfigMaker


@pytest.fixture
def kept(tiny_config: ConfigMaker, tmp_path: Path) -> Path:
    """A `cnn` that always says the second class."""
    config = tiny_config()
    model = build_model(config.model, LinearHeads(2))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("head"):
                parameter.zero_()
                parameter[1] = 1.0
    path = tmp_path / "best.safetensors"
    write_model_checkpoint(
        path, model, config=config, class_names=("blue", "red"), epoch=3, accumulation=1, val_hash=""
    )
    return path


def test_logits_stand_in_file_order(kept: Path, data: DataSource) -> None:
    found = Evaluation.open(kept, data).predict("test")
    assert found.image_ids == data.tables.of("test").image_ids
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert list(found.logits) == ["combined"]
    assert found.logits["combined"].argmax(dim=1).tolist() == [1] * 6  # features after a ReLU are not negative
    assert (found.epoch, found.split) == (3, "test")
