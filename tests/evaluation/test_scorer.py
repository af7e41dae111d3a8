"""Scores of batches and of whole archives, and boxes and points in the pixels of the input."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from attnsearch.config.evaluation import ScoreSettings
from attnsearch.data.tables import ImageTable
from attnsearch.evaluation.scorer import (
    SaliencyScorer,
    archive_scores,
    box_masks,
    measure_case,
    visible_points,
    with_best_setting,
)
from attnsearch.metrics.perturbation import SaliencyCase
from attnsearch.metrics.registry import find_metric
from attnsearch.store.image_scores import ImageScore
from attnsearch.tasks.retrieval import SimilarityTarget
from attnsearch.types import AttentionArchive, AttentionOutput, Batch, GroundTruth, HeadOutput
from tests.tiny import on_cpu

SIDE = 64


@pytest.fixture
def table() -> ImageTable:
    """Two classes of two images; the only part is at the left top, but in the last image at the right bottom."""
    ids = ("a/0", "a/1", "b/0", "b/1")
    points = np.array([[[4.0, 4.0]], [[4.0, 4.0]], [[4.0, 4.0]], [[60.0, 60.0]]])
    return ImageTable("val", ("a", "b"), ids, tuple(map(Path, ids)), np.array([0, 0, 1, 1]), points=points)


def archive(table: ImageTable, saliency: np.ndarray) -> AttentionArchive:
    n = len(table.image_ids)
    return AttentionArchive(
        image_ids=table.image_ids, labels=table.labels, predictions=table.labels, confidences=np.ones(n, np.float32),
        sizes_hw=np.full((n, 2), SIDE), crop_boxes=np.tile([0.0, 0.0, SIDE, SIDE], (n, 1)), class_names=("a", "b"),
        map_names=(), maps=None, norms=None, saliency=saliency, config_digest="d", epoch=1, split="val",
    )  # fmt: skip


def at_left_top() -> np.ndarray:
    saliency = np.zeros((4, 8, 8), np.float32)
    saliency[:, 0, 0] = 1
    return saliency


def consistency(table: ImageTable, saliency: np.ndarray) -> float:
    parts = archive_scores(archive(table, saliency), table, ScoreSettings(), on_cpu(None).config)
    return parts["whole"]["part_consistency"]


def test_class_counts_whose_images_point_at_one_part(table: ImageTable) -> None:
    parts = archive_scores(archive(table, at_left_top()), table, ScoreSettings(), on_cpu(None).config)
    assert parts["whole"] == {"part_consistency": 0.5}  # of class b only one of two images points at it
    assert parts["floors"]["centre"] == 0.0  # 28 pixels away, and the square reaches 10
    assert 0.0 <= parts["floors"]["random"] <= 1.0


def test_nothing_is_measured_of_an_archive_without_points(table: ImageTable) -> None:
    without = replace(table, points=None)
    assert archive_scores(archive(table, at_left_top()), without, ScoreSettings(), on_cpu(None).config) == {}


def test_broken_and_flat_maps_show_no_part(table: ImageTable) -> None:
    saliency = at_left_top()
    saliency[2, 5, 5], saliency[3] = np.nan, 0.25
    assert consistency(table, saliency) == 1.0
    saliency[:2] = np.nan
    assert math.isnan(consistency(table, saliency))


def test_hidden_parts_do_not_count(table: ImageTable) -> None:
    hidden = replace(table, points=np.array([[[4.0, 4.0]], [[4.0, 4.0]], [[4.0, 4.0]], [[math.nan, math.nan]]]))
    assert consistency(hidden, at_left_top()) == 1.0


@pytest.fixture
def scores() -> list[ImageScore]:
    """Two maps of 2 x 2 cells whose second cell, of 0.3, belongs to the region; the third image has no region."""
    maps = torch.tensor([[[1.0, 0.3], [0.0, 0.0]]]).repeat(3, 1, 1)
    regions = torch.tensor([[[True, True], [False, False]]]).repeat(3, 1, 1)
    regions[2] = False
    metrics = [find_metric("iou_in_mask"), find_metric("best_iou_in_mask")]
    columns = measure_case(SaliencyCase.of_maps(maps, GroundTruth(masks=regions)), metrics, ScoreSettings())
    return [ImageScore(str(row), {name: float(one[row]) for name, one in columns.items()}, {}) for row in range(3)]


def test_best_threshold_is_chosen_over_all_images(scores: list[ImageScore]) -> None:
    found, thresholds = with_best_setting(scores, "val", {})
    assert thresholds == {"iou_in_mask": 0.1}  # 0.2 does as well; the first is taken
    assert found[0].values == {"iou_in_mask": 0.5, "best_iou_in_mask": 1.0}
    assert all(math.isnan(value) for value in found[2].values.values())


def test_test_images_choose_no_threshold(scores: list[ImageScore]) -> None:
    found, thresholds = with_best_setting(scores, "test", {})
    assert (found[0].values, thresholds) == ({"iou_in_mask": 0.5}, {})
    found, thresholds = with_best_setting(scores, "test", {"iou_in_mask": 0.9})
    assert found[0].values["best_iou_in_mask"] == 0.5
    assert thresholds == {"iou_in_mask": 0.9}


CROP = np.array([[10.0, 20.0, 50.0, 60.0]])  # 40 px wide and high, shown in 8 px: 5 px each


def test_box_covers_the_pixels_whose_middle_lies_inside() -> None:
    # left (20 - 10) / 5 = 2, top (20 - 20) / 5 = 0, right 3.6 (no middle of the fourth pixel), bottom beyond the input
    mask = box_masks(np.array([[20.0, 20.0, 27.0, 90.0]]), CROP, (8, 8))
    expected = torch.zeros(1, 8, 8, dtype=torch.bool)
    expected[:, :, 2] = True
    torch.testing.assert_close(mask, expected)


def test_box_outside_of_the_crop_covers_nothing() -> None:
    assert not box_masks(np.array([[0.0, 0.0, 9.0, 9.0]]), CROP, (8, 8)).any()


def test_points_are_moved_and_those_that_are_not_seen_are_undefined() -> None:
    points = np.array([[[30.0, 25.0], [9.0, 30.0], [np.nan, np.nan]]])
    found = visible_points(points, CROP, (8, 8))
    torch.testing.assert_close(found[0, 0], torch.tensor([4.0, 1.0], dtype=torch.float64))
    assert found[0, 1:].isnan().all()


class Embedder(nn.Module):
    """Embeds an image by the light of its left and its right half; it predicts nothing."""

    def forward(self, batch: Batch, *, maps: None = None) -> AttentionOutput:
        halves = batch.images.mean(dim=(1, 2)).view(len(batch.images), 2, -1).mean(dim=2)  # (B, 2)
        return AttentionOutput(HeadOutput(logits=halves.new_empty(len(halves), 0), embedding=halves))


def embedded(output: AttentionOutput) -> torch.Tensor:
    assert output.embedding is not None
    return output.embedding


def test_a_similarity_is_followed_like_the_probability_of_a_class() -> None:
    images = torch.ones(2, 3, 8, 8)
    batch = Batch(images, torch.tensor([-1, -1]), ("a", "b"), torch.arange(2))
    target = SimilarityTarget(torch.eye(2), embedded)  # one shows the left half, one the right half
    left_first = torch.tensor([[[2.0, 1.0]]]).repeat(2, 1, 1)
    settings = ScoreSettings(families=("faithfulness",), n_steps=2, n_random=1)
    scorer = SaliencyScorer(on_cpu(Embedder()), settings)
    left, right = scorer.score(batch, left_first, target, GroundTruth(size_hw=(8, 8)))
    # without its left half an image of ones is like the right half alone, and an empty image like nothing
    assert left.curves["deletion"] == pytest.approx([math.sqrt(0.5), 0.0, 0.0])
    assert right.curves["deletion"] == pytest.approx([math.sqrt(0.5), 1.0, 0.0])
