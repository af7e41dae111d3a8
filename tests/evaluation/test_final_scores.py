"""What becomes of the columns of all images together: one setting for several metrics, numbers that are no mean."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from attnsearch.evaluation.final_scores import finish_scores, unfinished_columns
from attnsearch.metrics.base import BestSetting, Metric, OfAllImages
from attnsearch.metrics.gains import ratio_influence
from attnsearch.metrics.perturbation import SaliencyCase
from attnsearch.metrics.registry import register_metric
from attnsearch.store.score_journal import ImageScore
from attnsearch.testing import temporary_parts
from attnsearch.types import GroundTruth

SETTINGS = (0.1, 0.2)


def kept(case: SaliencyCase) -> Tensor:
    """(B, M): the first setting is better by 0.2."""
    return torch.stack([case.saliency[:, 0, 0] + 0.2, case.saliency[:, 0, 0]], dim=1)


def lost(case: SaliencyCase) -> Tensor:
    """(B, M): the second setting is better by 0.1."""
    return torch.stack([case.saliency[:, 0, 1], case.saliency[:, 0, 1] + 0.1], dim=1)


@pytest.fixture
def metrics() -> Iterator[list[Metric]]:
    """`kept` and `lost` under one setting, in which `lost` counts three times as much; their sum; and a ratio."""
    functions = {
        "kept": BestSetting("kept", SETTINGS, kept, together="both", weight=0.25),
        "lost": BestSetting("lost", SETTINGS, lost, together="both", weight=0.75),
        "both": OfAllImages(lambda columns: columns["kept"] + columns["lost"], ("kept", "lost")),
        "ratio": OfAllImages(
            lambda columns: ratio_influence(columns["part"], columns["all"]),
            ("part", "all"),
            lambda case: {"part": case.saliency[:, 0, 0], "all": case.saliency[:, 0, 1]},
        ),
    }
    with temporary_parts():
        registered = [Metric(name, when="data set", group="mine", summary="one") for name in functions]
        for metric in registered:
            register_metric(metric, functions[metric.name])
        from attnsearch.metrics.registry import find_metric

        yield [find_metric(metric.name) for metric in registered]


def rows_of(metrics: list[Metric], cells: list[list[float]]) -> list[ImageScore]:
    """The unfinished scores of images with maps of two cells, behind a column that is final."""
    case = SaliencyCase.of_maps(torch.tensor(cells)[:, None], GroundTruth())
    columns = {"gini": case.saliency[:, 0, 0]}
    for metric in metrics:
        columns |= unfinished_columns(metric, case)
    return [
        ImageScore(str(row), {name: float(column[row]) for name, column in columns.items()}, {})
        for row in range(len(cells))
    ]


def test_metrics_have_one_setting_together(metrics: list[Metric]) -> None:
    """The second gains 3 / 4 of 0.1 and loses 1 / 4 of 0.2, though the first has the higher mean of `kept`."""
    found, settings = finish_scores(rows_of(metrics, [[0.0, 0.5], [1.0, 0.5]]), "val", {})
    assert settings == {"kept": 0.2, "lost": 0.2}
    assert [list(score.values) for score in found] == [["gini", "kept", "lost", "ratio", "both"]] * 2
    assert found[1].values["kept"] == pytest.approx(1.0)
    assert found[1].values["lost"] == pytest.approx(0.6)
    assert found[1].values["both"] == pytest.approx(1.6)


def test_a_ratio_is_the_mean_of_its_column(metrics: list[Metric]) -> None:
    cells = [[0.6, 0.8], [0.3, 0.5], [0.0, 0.01]]
    found, _ = finish_scores(rows_of(metrics, cells), "val", {})
    assert np.mean([score.values["ratio"] for score in found]) == pytest.approx(0.687023, abs=1e-6)


def test_test_images_have_the_setting_of_validation_or_none(metrics: list[Metric]) -> None:
    rows = rows_of(metrics, [[0.0, 0.5], [1.0, 0.5]])
    assert list(finish_scores(rows, "test", {})[0][0].values) == ["gini", "ratio"]
    found, settings = finish_scores(rows, "test", {"kept": 0.1, "lost": 0.1})
    assert settings == {"kept": 0.1, "lost": 0.1}
    assert found[0].values["kept"] == pytest.approx(0.2)


def test_a_number_without_its_parts_is_left_out(metrics: list[Metric]) -> None:
    found, _ = finish_scores(rows_of([metrics[0]], [[math.nan, 0.5], [1.0, 0.5]]), "val", {})
    assert list(found[0].values) == ["gini", "kept"]
    assert math.isnan(found[0].values["kept"])
