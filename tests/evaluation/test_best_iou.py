"""One threshold for all images: on validation the best, on test the one of validation."""

from __future__ import annotations

import math

import pytest
import torch

from attnsearch.evaluation.scorer import THRESHOLDS, iou_columns, with_best_iou
from attnsearch.store.image_scores import ImageScore


@pytest.fixture
def scores() -> list[ImageScore]:
    """Two maps of 2 x 2 cells whose second cell, of 0.3, belongs to the region; the third image has no region."""
    maps = torch.tensor([[[1.0, 0.3], [0.0, 0.0]]]).repeat(3, 1, 1)
    regions = torch.tensor([[[True, True], [False, False]]]).repeat(3, 1, 1)
    regions[2] = False
    columns = iou_columns("iou_in_mask", maps, regions)
    return [ImageScore(str(row), {name: float(one[row]) for name, one in columns.items()}, {}) for row in range(3)]


def test_best_threshold_is_chosen_over_all_images(scores: list[ImageScore]) -> None:
    found, thresholds = with_best_iou(scores, "val", {})
    assert thresholds == {"iou_in_mask": 0.1}  # 0.2 does as well; the first is taken
    assert found[0].values == {"iou_in_mask": 0.5, "best_iou_in_mask": 1.0}
    assert all(math.isnan(value) for value in found[2].values.values())


def test_test_images_choose_no_threshold(scores: list[ImageScore]) -> None:
    found, thresholds = with_best_iou(scores, "test", {})
    assert (found[0].values, thresholds) == ({"iou_in_mask": 0.5}, {})
    found, thresholds = with_best_iou(scores, "test", {"iou_in_mask": 0.9})
    assert found[0].values["best_iou_in_mask"] == 0.5
    assert thresholds == {"iou_in_mask": 0.9}


def test_fixed_threshold_is_one_of_those_that_are_tried() -> None:
    assert 0.5 in THRESHOLDS
