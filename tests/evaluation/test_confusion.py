"""Classes, branches and confidence from logits."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attnsearch.data.loader import DataSource
from attnsearch.evaluation.confusion import Predictions, analyse_predictions, describe_maps, similar_queries
from attnsearch.evaluation.evaluation import Evaluation
from attnsearch.models import build_model
from attnsearch.models.checkpoint import ModelCheckpoint, write_model_checkpoint
from attnsearch.tasks.classification import LinearHeads
from attnsearch.types import AttentionArchive
from tests.tiny import ConfigMaker


def predictions(labels: list[int], **predicted: list[int]) -> Predictions:
    """Heads that give their class a probability of 0.8 and share the rest among the other two."""
    logits = {
        name: torch.log(0.7 * torch.nn.functional.one_hot(torch.tensor(classes), 3) + 0.1)
        for name, classes in predicted.items()
    }
    ids = tuple(map(str, range(len(labels))))
    return Predictions(ids, ("ant", "bee", "cow"), torch.tensor(labels), logits, 1, "val")


def test_branches_stand_beside_the_combined_prediction() -> None:
    found = analyse_predictions(predictions([0, 0, 1, 1], combined=[0, 0, 1, 0], sa=[0, 1, 1, 0], glca=[0, 0, 0, 0]))
    assert [(head.name, head.top_1) for head in found.heads] == [("combined", 0.75), ("sa", 0.5), ("glca", 0.5)]
    combined = found.heads[0]
    assert combined.mean_class_accuracy == pytest.approx((1.0 + 0.5) / 2)  # cows have no image
    assert combined.calibration_error == pytest.approx(abs(0.8 / 1.0 - 0.75), abs=1e-6)
    assert combined.confidence == pytest.approx(0.8)
    assert math.isnan(combined.top_5)


def test_class_that_is_never_predicted_has_no_precision() -> None:
    found = analyse_predictions(predictions([0, 1, 1], combined=[0, 0, 1]))
    rows = {row.name: row for row in found.classes}
    assert (rows["ant"].n_images, rows["ant"].n_predicted, rows["ant"].precision) == (1, 2, 0.5)
    assert rows["cow"].n_predicted == 0
    assert math.isnan(rows["cow"].precision)
    assert math.isnan(rows["cow"].accuracy)


def test_both_directions_of_a_pair_count() -> None:
    found = analyse_predictions(predictions([0, 0, 1, 2], combined=[1, 1, 0, 2]))
    (pair,) = found.pairs(10)
    assert (pair.first, pair.second, pair.n_errors, pair.first_as_second, pair.second_as_first) == (0, 1, 3, 2, 1)


def test_closest_class_is_the_likeliest_other_one() -> None:
    found = analyse_predictions(predictions([0, 0, 0], combined=[0, 2, 2]))
    ant, bee, _ = found.classes
    assert (ant.closest, ant.closest_probability) == ("cow", pytest.approx((0.1 + 0.8 + 0.8) / 3))
    assert bee.closest == ""
    assert math.isnan(bee.closest_probability)


def test_query_is_never_most_similar_to_itself() -> None:
    rows = similar_queries(torch.tensor([[1.0, 0.0], [2.0, 2.0], [0.0, 3.0]]), ("ant", "bee", "cow"))
    assert [(row.name, row.most_similar) for row in rows] == [("ant", "bee"), ("bee", "ant"), ("cow", "bee")]
    assert [row.similarity for row in rows] == pytest.approx([math.sqrt(0.5)] * 3)


def archive_of(maps: np.ndarray) -> AttentionArchive:  # type: ignore[type-arg]
    unused: Any = np.zeros(len(maps))
    names = tuple(f"head_{index + 1}" for index in range(maps.shape[1]))
    ids = tuple(map(str, range(len(maps))))
    return AttentionArchive(
        ids,
        unused,
        unused,
        unused,
        unused,
        unused,
        ("a", "b"),
        names,
        maps.astype(np.float32),
        None,
        None,
        "d",
        1,
        "val",
    )


def test_maps_are_described_one_by_one() -> None:
    hot, flat = [[1.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]
    archive = archive_of(np.array([[hot, flat], [hot, flat]]))
    first, second = describe_maps(archive)
    assert (first.name, second.name) == ("head_1", "head_2")
    assert (first.gini, second.gini) == (pytest.approx(0.75), pytest.approx(0.0))
    assert (first.sparsity, second.sparsity) == (pytest.approx(0.25, abs=1e-4), pytest.approx(1.0, abs=1e-4))
    assert first.overlap == second.overlap == pytest.approx(0.5)  # cosine of (1, 0, 0, 0) and (1, 1, 1, 1)
    assert describe_maps(replace(archive, maps=None)) == ()
    assert describe_maps(archive_of(np.array([[hot]]))) == ()


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
        ModelCheckpoint(
            path,
            config=config,
            class_names=("blue", "red"),
            epoch=3,
            accumulation=1,
            val_hash="",
            state=model.state_dict(),
        )
    )
    return path


def test_logits_stand_in_file_order(kept: Path, data: DataSource) -> None:
    found = Evaluation.open(kept, data).predict("test")
    assert found.image_ids == data.tables.of("test").image_ids
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert list(found.logits) == ["combined"]
    assert found.logits["combined"].argmax(dim=1).tolist() == [1] * 6  # features after a ReLU are not negative
    assert (found.epoch, found.split) == (3, "test")
