"""Means over the images of a pass."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from attnsearch.metrics.classification import MetricTotals
from attnsearch.types import AttentionOutput, Batch, HeadOutput

CPU = torch.device("cpu")


def batch(*labels: int) -> Batch:
    n_images = len(labels)
    return Batch(torch.zeros(n_images, 3, 1, 1), torch.tensor(labels), ("",) * n_images, torch.arange(n_images))


def votes(*classes: int, n_classes: int = 3) -> Tensor:
    return torch.eye(n_classes)[list(classes)]


def test_losses_are_weighted_by_images() -> None:
    totals = MetricTotals(3, CPU, in_training=True)
    totals.add(
        batch(0, 1, 2), AttentionOutput(HeadOutput(votes(0, 1, 2))), {"a": torch.tensor(1.0), "b": torch.tensor(10.0)}
    )
    totals.add(batch(0), AttentionOutput(HeadOutput(votes(1))), {"a": torch.tensor(5.0), "b": torch.tensor(2.0)})
    scores = totals.scores()
    assert scores.terms == {"a": 2.0, "b": 8.0}  # (3·1 + 5) / 4, (3·10 + 2) / 4
    assert scores.loss == totals.loss() == 10.0
    assert scores.metrics == {"accuracy": 0.75}
    assert scores.n_images == 4


def test_mean_class_accuracy_leaves_out_classes_that_do_not_occur() -> None:
    totals = MetricTotals(3, CPU)
    totals.add(batch(0, 0, 0, 1), AttentionOutput(HeadOutput(votes(0, 0, 2, 0))), {"a": torch.tensor(0.0)})
    scores = totals.scores()
    assert scores.metrics["accuracy"] == 0.5
    assert scores.metrics["mean_class_accuracy"] == pytest.approx((2 / 3 + 0) / 2)


def test_further_heads_have_their_own_accuracy() -> None:
    totals = MetricTotals(3, CPU, in_training=True)
    output = AttentionOutput(HeadOutput(votes(0, 0)), branches={"01": HeadOutput(votes(0, 1))})
    totals.add(batch(0, 1), output, {"a": torch.tensor(0.0)})
    assert totals.scores().metrics == {"accuracy": 0.5, "accuracy_01": 1.0}


def test_sparsity_is_a_mean_over_images() -> None:
    totals = MetricTotals(3, CPU, in_training=True)
    maps = torch.stack([torch.ones(1, 2, 2), torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])])
    totals.add(
        batch(0, 1), AttentionOutput(HeadOutput(votes(0, 1)), maps=maps, map_names=("one",)), {"a": torch.tensor(0.0)}
    )
    assert totals.scores().metrics["sparsity"] == pytest.approx((1 + 0.25) / 2, abs=1e-4)  # epsilon 1e-5 in each


def test_a_map_that_is_the_norm_itself_counts_once() -> None:
    totals = MetricTotals(3, CPU, in_training=True)
    norms = torch.tensor([[[[1.0, 0.5], [0.5, 0.0]]]])
    output = AttentionOutput(HeadOutput(votes(0)), maps=norms, map_names=("norm",), norms=norms)
    totals.add(batch(0), output, {"a": torch.tensor(0.0)})
    assert totals.scores().metrics["sparsity"] == pytest.approx(0.5, abs=1e-4)


def test_the_cross_entropy_of_validation_is_a_mean_over_images_and_no_part_of_the_loss() -> None:
    totals = MetricTotals(2, CPU)
    for size, logit in ((3, 0.0), (1, 2.0)):
        logits = torch.tensor([[logit, 0.0]]).expand(size, 2)
        totals.add(batch(*[0] * size), AttentionOutput(HeadOutput(logits)), {"a": torch.tensor(1.0)})
    scores = totals.scores()
    expected = (3 * math.log(2) + math.log(1 + math.exp(-2))) / 4
    assert scores.metrics["cross_entropy"] == pytest.approx(expected, rel=1e-6)
    assert scores.loss == 1.0


def test_an_undefined_loss_stays_undefined() -> None:
    totals = MetricTotals(3, CPU, in_training=True)
    totals.add(batch(0), AttentionOutput(HeadOutput(votes(0))), {"a": torch.tensor(math.nan)})
    totals.add(batch(0), AttentionOutput(HeadOutput(votes(0))), {"a": torch.tensor(1.0)})
    assert math.isnan(totals.loss())
    assert math.isnan(totals.scores().loss)


def test_there_are_no_scores_without_images() -> None:
    with pytest.raises(ValueError, match="without images"):
        MetricTotals(3, CPU, in_training=True).scores()


def test_totals_hold_no_graph() -> None:
    totals = MetricTotals(2, CPU)
    value = torch.ones((), requires_grad=True)
    totals.add(batch(0), AttentionOutput(HeadOutput(votes(0, n_classes=2) * value)), {"a": value * 2})
    assert not any(total.requires_grad for total in totals._terms.values())
