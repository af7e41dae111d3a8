"""Does a map keep to one part of the birds of a class? A number of a whole archive, beside those of blind maps."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from attnsearch.data.table import ImageTable
from attnsearch.evaluation.ground_truth import visible_points
from attnsearch.evaluation.references import FLOORS, blind_maps
from attnsearch.metrics.localisation import part_consistency, parts_in_box
from attnsearch.types import AttentionArchive

METRIC = "part_consistency"
BLIND = FLOORS[:2]  # random and centre, which have a maximum and know nothing


def consistency_of(archived: AttentionArchive, table: ImageTable, side_px: int) -> dict[str, float]:
    """Part consistency of the saliency of all archived images, and of `random` and `centre` maps of its grid.

    Args:
        table: the split of the archive, with part points.
        side_px: of the model's input.
    Returns:
        `part_consistency`, then `random` and `centre`; NaN without a visible part.
    """
    assert archived.saliency is not None
    assert table.points is not None
    row_of = {image_id: row for row, image_id in enumerate(table.image_ids)}
    rows = [row_of[image_id] for image_id in archived.image_ids]
    points = visible_points(table.points[rows], archived.crop_boxes, side_px)
    labels = torch.from_numpy(table.labels[rows])
    saliency = torch.from_numpy(np.array(archived.saliency))
    grid = (saliency.shape[1], saliency.shape[2])
    maps = {METRIC: saliency, **{name: blind_maps(name, archived.image_ids, grid) for name in BLIND}}
    return {name: _consistency(one, points, labels, side_px) for name, one in maps.items()}


def _consistency(maps: Tensor, points: Tensor, labels: Tensor, side_px: int) -> float:
    """Maps that are not finite show no part."""
    inside = parts_in_box(maps.nan_to_num(0.0), points, size_hw=(side_px, side_px))
    is_finite = maps.isfinite().flatten(1).all(dim=1)
    return part_consistency(torch.where(is_finite[:, None], inside, torch.nan), labels)
