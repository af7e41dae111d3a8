"""Classes, branches and confidence from logits."""

from __future__ import annotations

import math

import pytest
import torch

from attnsearch.evaluation.analysis import analyse_predictions
from attnsearch.evaluation.predictions import Predictions


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
