"""What is known of where an image should be looked at, in the pixels of the model's input."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnsearch import geometry
from attnsearch.data.tables import ImageTable
from attnsearch.types import Batch, GroundTruth


def ground_truth(batch: Batch, table: ImageTable, crop_boxes: NDArray[np.float64]) -> GroundTruth:
    """The ground truth of a batch, through the same crop as its images.

    Args:
        batch: with part masks, if they are wanted and there are any.
        table: the split that `batch.rows` count in.
        crop_boxes: (B, 4) what the model sees of each image, in original pixels.
    """
    height, width = batch.images.shape[-2:]
    image_hw, device = (height, width), batch.images.device
    rows = batch.rows.numpy()
    boxes = None if table.boxes is None else box_masks(table.boxes[rows], crop_boxes, image_hw).to(device)
    points = None if table.points is None else visible_points(table.points[rows], crop_boxes, image_hw).to(device)
    return GroundTruth(batch.part_masks, boxes, points, image_hw)


def box_masks(boxes: NDArray[np.float64], crop_boxes: NDArray[np.float64], image_hw: geometry.Size) -> Tensor:
    """(B, H, W) bool: the pixels of the input whose middle lies inside the box, given in original pixels (B, 4)."""
    corners = boxes.reshape(len(boxes), 2, 2)  # left top, right bottom
    inside = geometry.original_to_input(corners, crop_boxes[:, None], image_hw=image_hw).reshape(-1, 4)
    left, top, right, bottom = (torch.from_numpy(inside[:, index])[:, None] for index in range(4))
    y, x = (torch.arange(side, dtype=torch.float64)[None] + 0.5 for side in image_hw)
    in_columns, in_rows = (x >= left) & (x < right), (y >= top) & (y < bottom)  # (B, W), (B, H)
    return in_rows[:, :, None] & in_columns[:, None, :]


def visible_points(points: NDArray[np.float64], crop_boxes: NDArray[np.float64], image_hw: geometry.Size) -> Tensor:
    """(B, P, 2) points in input pixels; NaN where a part is hidden or the model does not see it."""
    inside = geometry.original_to_input(points, crop_boxes[:, None], image_hw=image_hw)
    is_seen = np.all((inside >= 0) & (inside < image_hw[::-1]), axis=-1, keepdims=True)
    return torch.from_numpy(np.where(is_seen, inside, np.nan))
