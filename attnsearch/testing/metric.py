"""What every metric must do, as a suite that tests subclass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from attnsearch.config.evaluation import ScoreSettings
from attnsearch.data.synthetic.birds import class_codes
from attnsearch.errors import ConfigError
from attnsearch.evaluation.final_scores import finish_scores
from attnsearch.evaluation.scorer import measure_case
from attnsearch.metrics.base import BestSetting, Metric, OfAllImages, RatioOfMeans, WholeArchive
from attnsearch.metrics.part_interventions import PartOutcomes, PartSums
from attnsearch.metrics.perturbation import Curves, SaliencyCase
from attnsearch.metrics.registry import all_metrics, better_direction, find_metric, higher_is_better, score_metrics
from attnsearch.metrics.removal import upscale_cells
from attnsearch.store.score_journal import ImageScore
from attnsearch.types import GroundTruth

N_IMAGES = 4
SIZE_HW = (24, 20)
LABELS = torch.tensor([0, 1, 0, 1])
TOLERANCE = 1e-3  # of scaled maps; the sparsity adds 1e-5 to a maximum


def make_case(saliency: Tensor) -> SaliencyCase:
    """Images of 24 x 20 pixels under maps (B, h, w), whose score is the weight of the pixels that are seen, in [0, 1].

    The average precision of a query's ranking is the square of it.
    Image b depends on b alone, so that a case of one image can be compared with one of many: see `SaliencyCase.seeds`.
    """
    rows = torch.arange(len(saliency))
    return _case_of_rows(saliency, rows)


def _case_of_rows(saliency: Tensor, rows: Tensor) -> SaliencyCase:
    """A case of the images at rows (B,) of a series without end."""
    height, width = SIZE_HW
    generators = [torch.Generator().manual_seed(int(row)) for row in rows]
    images = torch.stack(
        [torch.rand(3, height, width, generator=generator) + 0.1 for generator in generators]
    )  # (B, 3, H, W)
    masks = torch.stack([torch.rand(height, width, generator=generator) > 0.9 for generator in generators])  # (B, H, W)
    boxes = torch.zeros(len(rows), height, width, dtype=torch.bool)
    boxes[:, 4:15, 3:12] = True
    points = torch.stack([torch.rand(3, 2, generator=generator) for generator in generators]).double() * min(
        SIZE_HW
    )  # (B, P, 2)
    weights = torch.linspace(0.0, 1.0, height * width).view(height, width)

    def follow(masked: Tensor, _rows: Tensor) -> Curves:
        seen = (masked[:, 0].clamp(0, 1) * weights / weights.sum()).sum(dim=(1, 2))  # (M,)
        return {
            "score": seen,
            "decision": (seen > 0.25).float(),
            "logit": seen.log(),
            "calibrated": seen.sqrt(),
            "average_precision": seen.square(),
        }

    regions = GroundTruth(masks, boxes, points, SIZE_HW)
    case = SaliencyCase(images, saliency, follow, regions, image_ids=tuple(f"{int(row)}.jpg" for row in rows))
    return replace(case, intervene=lambda: _outcomes(saliency, rows))


def _outcomes(saliency: Tensor, rows: Tensor) -> PartOutcomes:
    """Of images of the first classes of synthetic birds, under a classifier that weighs parts in each its own way.

    Parts and objects are columns of the image; the map of another class is shifted.
    """
    codes = torch.tensor(class_codes(8, 3))
    labels, rows_of_columns = rows % 8, torch.arange(7).repeat_interleave(3)[: SIZE_HW[1]]
    weights = torch.stack([torch.rand(4, generator=torch.Generator().manual_seed(int(row))) for row in rows]) + 0.5

    def logits(shown: Tensor, present: Tensor) -> Tensor:
        """Variants (B, ..., P) and which of them are there (..., P) -> (B, ..., n_classes)."""
        matches = (shown[..., None, :] == codes) * present[..., None, :]
        return torch.einsum("b...cp,bp->b...c", matches.double(), weights.double())

    def sums(maps: Tensor) -> PartSums:
        by_column = upscale_cells(maps.double(), SIZE_HW).sum(dim=1)  # (B, W)
        of_objects = torch.stack([by_column[:, rows_of_columns == number].sum(dim=1) for number in range(7)], dim=1)
        return PartSums(of_objects[:, :4], of_objects[:, 4:], of_objects[:, :4].sum(dim=1), by_column.sum(dim=1))

    own, everything = codes[labels], torch.ones(4)
    masks = (torch.arange(16)[:, None] >> torch.arange(4) & 1).double()  # (2^P, P)
    is_swapped = torch.eye(4, dtype=torch.bool)[:, None]  # (P, 1, P)
    swapped = torch.where(is_swapped, torch.arange(3)[:, None], own[:, None, None])  # (B, P, V, P)
    is_other = torch.arange(3) != own[..., None]  # (B, P, V)
    complete = logits(own[:, None], everything)  # (B, 1, n_classes)
    own_sums = sums(saliency)
    return PartOutcomes(
        codes=codes.numpy(),
        labels=labels,
        subsets=logits(own[:, None].expand(-1, 16, -1), masks),
        swaps=torch.where(is_other[..., None], logits(swapped, everything), torch.nan),
        clutter=complete - torch.tensor([0.0, 0.3, 0.6])[:, None] * (complete == complete.amax(dim=2, keepdim=True)),
        of_label=own_sums,
        of_predicted=own_sums,
        of_pair=(sums(saliency.roll(1, dims=2)), sums(saliency.roll(2, dims=2))),
    )


def make_maps(grid: tuple[int, int] = (6, 5), n_images: int = N_IMAGES) -> Tensor:
    """Maps (B, h, w) in (0, 1) without ties."""
    generators = [torch.Generator().manual_seed(100 + row) for row in range(n_images)]
    return torch.stack([torch.rand(grid, generator=generator) + 0.05 for generator in generators])


def measured(metric: Metric, case: SaliencyCase, labels: Tensor = LABELS) -> Tensor:
    """The values (B,) of an image metric, (B, M) of one with a best setting or a gain, (1,) of all images together."""
    function = metric.function
    if isinstance(function, WholeArchive):
        return torch.tensor([function.measure(case, labels)])
    if isinstance(function, OfAllImages):
        return torch.tensor([_finished_mean(metric, case)])
    values: Tensor = function.measure(case) if isinstance(function, BestSetting | RatioOfMeans) else function(case)
    return values


def _finished_mean(metric: Metric, case: SaliencyCase) -> float:
    """Of a metric that is made of columns of its group."""
    group = [other for other in score_metrics() if other.group == metric.group]
    columns = measure_case(case, group, ScoreSettings())
    n_images = len(case.saliency)
    rows = [
        ImageScore(str(row), {name: float(one[row]) for name, one in columns.items()}, {}) for row in range(n_images)
    ]
    finished, _ = finish_scores(rows, "val", {})
    return float(np.mean([score.values[metric.name] for score in finished]))


def is_of_all(metric: Metric) -> bool:
    """Whether only all images together give the number."""
    return isinstance(metric.function, WholeArchive | OfAllImages)


class MetricContract:
    """Subclass it as `TestMine` with a fixture `metric`, a registered score."""

    @pytest.fixture
    def metric(self) -> Metric:
        """The metric."""
        raise NotImplementedError("give this suite a fixture `metric`")

    def test_it_is_declared_for_settings_tables_and_messages(self, metric: Metric) -> None:
        assert metric in all_metrics()
        assert find_metric(metric.name) is metric
        assert better_direction(f"val/{metric.name}") == metric.better
        assert higher_is_better(f"val/{metric.name}") == (metric.better == "maximize")
        assert metric.summary
        assert not metric.summary.endswith(".")
        assert ScoreSettings(families=(metric.group,)).families == (metric.group,)
        with pytest.raises(ConfigError, match=rf"unknown metric 'no_such_one'.*\b{metric.name}\b"):
            find_metric("no_such_one")

    @pytest.mark.parametrize("grid", [(6, 5), (1, 7), (3, 3), (24, 20), (1, 2), (2, 1), (1, 1)])
    def test_values_are_in_range_on_any_grid(self, metric: Metric, grid: tuple[int, int]) -> None:
        values = measured(metric, make_case(make_maps(grid)))
        assert values.dtype in (torch.float32, torch.float64)
        assert len(values) == (1 if is_of_all(metric) else N_IMAGES)
        defined = values[~values.isnan()]
        assert len(defined) or max(grid) <= 2  # one or two cells may have no order, or the random one
        low, high = metric.range or (-float("inf"), float("inf"))
        assert ((low - 1e-5 <= defined) & (defined <= high + 1e-5)).all()

    def test_an_undefined_value_counts_as_no_better_than_the_worst(self, metric: Metric) -> None:
        values = measured(metric, make_case(make_maps())).nan_to_num(metric.worst)
        assert values.isfinite().all()
        if metric.range is not None:
            assert metric.range[0] <= metric.worst <= metric.range[1]

    def test_a_flat_map_is_undefined_or_has_one_value_at_any_level(self, metric: Metric) -> None:
        low, high = (measured(metric, make_case(torch.full((N_IMAGES, 6, 5), level))) for level in (0.3, 0.7))
        torch.testing.assert_close(low, high, atol=TOLERANCE, rtol=0, equal_nan=True)

    def test_the_scale_of_maps_does_not_count(self, metric: Metric) -> None:
        maps = make_maps()
        once, scaled = (measured(metric, make_case(factor * maps)) for factor in (1.0, 8.0))
        torch.testing.assert_close(once, scaled, atol=TOLERANCE, rtol=0, equal_nan=True)

    def test_values_do_not_depend_on_the_order_of_images(self, metric: Metric) -> None:
        maps, order = make_maps(), torch.tensor([2, 0, 3, 1])
        values = measured(metric, make_case(maps))
        moved = measured(metric, _case_of_rows(maps[order], order), LABELS[order])
        expected = values if is_of_all(metric) else values[order]
        torch.testing.assert_close(moved, expected, atol=1e-5, rtol=0, equal_nan=True)

    def test_values_do_not_depend_on_the_other_images(self, metric: Metric) -> None:
        """Of an image alone the value is the same; that of a whole archive does not change when it is doubled."""
        maps = make_maps()
        values = measured(metric, make_case(maps))
        if is_of_all(metric):
            twice = torch.arange(N_IMAGES).repeat(2)
            again = measured(metric, _case_of_rows(maps[twice], twice), LABELS[twice])
        else:
            rows = [torch.tensor([row]) for row in range(N_IMAGES)]
            again = torch.cat([measured(metric, _case_of_rows(maps[row], row)) for row in rows])
        torch.testing.assert_close(again, values, atol=1e-5, rtol=0, equal_nan=True)

    def test_measuring_twice_gives_the_same(self, metric: Metric) -> None:
        first, second = (measured(metric, make_case(make_maps())) for _ in range(2))
        torch.testing.assert_close(first, second, atol=0, rtol=0, equal_nan=True)
