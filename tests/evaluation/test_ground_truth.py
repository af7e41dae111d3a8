"""Boxes and part points in the pixels of the model's input."""

from __future__ import annotations

import numpy as np
import torch

from attnsearch.evaluation.ground_truth import box_masks, visible_points

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
