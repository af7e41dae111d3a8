"""Part consistency of an archive, beside that of maps that see no picture."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attnsearch.data.tables import ImageTable
from attnsearch.evaluation.scorer import consistency_of
from attnsearch.types import AttentionArchive

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


def test_class_counts_whose_images_point_at_one_part(table: ImageTable) -> None:
    found = consistency_of(archive(table, at_left_top()), table, (SIDE, SIDE))
    assert found["part_consistency"] == 0.5  # of class b only one of two images points at it
    assert found["centre"] == 0.0  # 28 pixels away, and the square reaches 10
    assert 0.0 <= found["random"] <= 1.0


def test_broken_and_flat_maps_show_no_part(table: ImageTable) -> None:
    saliency = at_left_top()
    saliency[2, 5, 5], saliency[3] = np.nan, 0.25
    assert consistency_of(archive(table, saliency), table, (SIDE, SIDE))["part_consistency"] == 1.0
    saliency[:2] = np.nan
    assert math.isnan(consistency_of(archive(table, saliency), table, (SIDE, SIDE))["part_consistency"])


def test_hidden_parts_do_not_count(table: ImageTable) -> None:
    hidden = replace(table, points=np.array([[[4.0, 4.0]], [[4.0, 4.0]], [[4.0, 4.0]], [[math.nan, math.nan]]]))
    assert consistency_of(archive(hidden, at_left_top()), hidden, (SIDE, SIDE))["part_consistency"] == 1.0
