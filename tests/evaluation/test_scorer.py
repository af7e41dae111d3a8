"""Scores that need all images: part consistency beside that of blind maps, and one threshold for all images."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from attnsearch.config.evaluation import ScoreSettings
from attnsearch.data.tables import ImageTable
from attnsearch.evaluation.scorer import archive_scores, measure_case, with_best_setting
from attnsearch.metrics.perturbation import SaliencyCase
from attnsearch.metrics.registry import find_metric
from attnsearch.store.image_scores import ImageScore
from attnsearch.types import AttentionArchive, GroundTruth

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
    parts = archive_scores(archive(table, saliency), table, ScoreSettings(), (SIDE, SIDE))
    return parts["whole"]["part_consistency"]


def test_class_counts_whose_images_point_at_one_part(table: ImageTable) -> None:
    parts = archive_scores(archive(table, at_left_top()), table, ScoreSettings(), (SIDE, SIDE))
    assert parts["whole"] == {"part_consistency": 0.5}  # of class b only one of two images points at it
    assert parts["floors"]["centre"] == 0.0  # 28 pixels away, and the square reaches 10
    assert 0.0 <= parts["floors"]["random"] <= 1.0


def test_nothing_is_measured_of_an_archive_without_points(table: ImageTable) -> None:
    without = replace(table, points=None)
    assert archive_scores(archive(table, at_left_top()), without, ScoreSettings(), (SIDE, SIDE)) == {}


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
