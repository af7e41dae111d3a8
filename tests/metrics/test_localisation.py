"""Maps against regions and points whose places are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from attnsearch.metrics.localisation import (
    THRESHOLDS,
    energy_in_region,
    iou,
    iou_by_threshold,
    part_consistency,
    parts_in_box,
    pointing_at_part,
    pointing_game,
    rank_in_region,
)


def hot(row: int, column: int, *, size: int = 4) -> Tensor:
    saliency = torch.zeros(1, size, size)
    saliency[0, row, column] = 1.0
    return saliency


def region(rows: slice, columns: slice, *, side: int = 32) -> Tensor:
    found = torch.zeros(1, side, side, dtype=torch.bool)
    found[0, rows, columns] = True
    return found


def test_a_hit_is_a_cell_that_touches_the_region() -> None:
    part = region(slice(15, 17), slice(24, 26))  # on the border of rows 1 and 2, in column 3 of a 4 x 4 grid
    hits = {(r, c): float(pointing_game(hot(r, c), part)) for r in range(4) for c in range(4)}
    assert {cell for cell, hit in hits.items() if hit == 1.0} == {(1, 3), (2, 3)}
    assert set(hits.values()) == {0.0, 1.0}


def test_shares_of_a_known_map() -> None:
    saliency = torch.zeros(1, 4, 4)
    saliency[0, 0, 0], saliency[0, 0, 1], saliency[0, 3, 3] = 0.6, 0.3, 0.1
    box = region(slice(0, 16), slice(0, 16))  # four cells, with mass 0.6 and 0.3
    assert float(pointing_game(saliency, box)) == 1.0
    assert float(energy_in_region(saliency, box)) == pytest.approx(0.90)
    assert float(rank_in_region(saliency, box)) == 0.5  # of the first four, (3, 3) and, by position, (0, 2) lie outside


def test_a_uniform_map_holds_the_share_of_the_area() -> None:
    part = region(slice(0, 8), slice(0, 16))
    assert float(energy_in_region(torch.ones(1, 5, 7), part)) == pytest.approx(8 * 16 / 32**2)


def test_nothing_is_said_without_a_region_or_a_peak() -> None:
    nothing = torch.zeros(1, 32, 32, dtype=torch.bool)
    somewhere = region(slice(0, 8), slice(0, 8))
    for metric in (pointing_game, rank_in_region, energy_in_region, iou):
        assert math.isnan(float(metric(hot(0, 0), nothing)))  # type: ignore[operator]
    for metric in (pointing_game, rank_in_region, iou):
        assert math.isnan(float(metric(torch.ones(1, 4, 4), somewhere)))  # type: ignore[operator]
    assert math.isnan(float(energy_in_region(torch.zeros(1, 4, 4), somewhere)))


def test_overlap_at_thresholds() -> None:
    saliency = torch.zeros(1, 4, 4)
    saliency[0, 0] = torch.tensor([1.0, 0.6, 0.4, 0.0])
    part = region(slice(0, 8), slice(0, 24))
    assert float(iou(saliency, part, threshold=0.5)) == pytest.approx(2 / 3)
    found = dict(zip(THRESHOLDS, iou_by_threshold(saliency, part)[0].tolist(), strict=True))
    assert found[0.2] == 1.0
    assert found[0.5] == pytest.approx(2 / 3)


def test_parts_in_the_square_around_the_peak() -> None:
    points = torch.tensor([[[28.0, 28.0], [56.0 + 28.0 + 36.0, 100.0], [math.nan, math.nan], [190.0, 200.0]]])
    inside = parts_in_box(hot(0, 1), points, size_hw=(224, 224))  # the middle is x 84, y 28; 36 px each way
    assert inside[0, :2].tolist() == [0.0, 0.0]
    assert math.isnan(float(inside[0, 2]))
    near = torch.tensor([[[120.0, 64.0], [121.0, 64.0]]])
    assert parts_in_box(hot(0, 1), near, size_hw=(224, 224)).tolist() == [[1.0, 0.0]]
    assert float(pointing_at_part(hot(0, 1), near, size_hw=(224, 224))) == 1.0
    assert math.isnan(float(pointing_at_part(hot(0, 1), torch.full((1, 2, 2), math.nan), size_hw=(224, 224))))


def test_a_class_is_consistent_if_one_part_is_met_in_four_of_five_images() -> None:
    labels = torch.tensor([0] * 5 + [1] * 5)
    inside = torch.zeros(10, 2)
    inside[:4, 0] = 1.0  # class 0: part 0 in 4 of 5
    inside[5:8, 1] = 1.0  # class 1: part 1 in 3 of 5
    assert part_consistency(inside, labels) == 0.5
    inside[8:, 1] = math.nan  # … but in 3 of the 3 that show it
    assert part_consistency(inside, labels) == 1.0
    assert math.isnan(part_consistency(torch.full((2, 1), math.nan), torch.tensor([0, 1])))
