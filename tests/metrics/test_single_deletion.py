"""IDSDS of a model whose answer is known: an additive one, whose drops are its weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from attnsearch.errors import UsageError
from attnsearch.metrics.perturbation import Curves, RemovalSettings, SaliencyCase
from attnsearch.metrics.single_deletion import idsds_of
from attnsearch.types import DELETION_CELLS

WEIGHTS = torch.linspace(-2.0, 3.0, 16)[torch.randperm(16, generator=torch.Generator().manual_seed(5))].view(4, 4)


def additive(saliency: Tensor, *, side_px: int = 8, asked: list[int] | None = None) -> SaliencyCase:
    """White images whose logit is the sum of the weights of 4 x 4 cells, as far as they are seen."""

    def follow(masked: Tensor, rows: Tensor) -> Curves:
        if asked is not None:
            asked.append(len(masked))
        seen = torch.nn.functional.adaptive_avg_pool2d(masked[:, :1], DELETION_CELLS)[:, 0]  # (M, 4, 4)
        return {"score": torch.zeros(len(masked)), "logit": 40 + (seen * WEIGHTS).sum(dim=(1, 2))}

    images = torch.ones(len(saliency), 3, side_px, side_px)
    return SaliencyCase(images, saliency, follow, settings=RemovalSettings(fill="black"))


def test_the_exact_map_of_an_additive_model_scores_one_and_its_reverse_minus_one() -> None:
    maps = torch.stack([WEIGHTS, -WEIGHTS, WEIGHTS.exp()])
    assert idsds_of(additive(maps)).tolist() == pytest.approx([1.0, -1.0, 1.0])


def test_a_random_map_scores_zero_with_the_deviation_of_16_ranks() -> None:
    maps = torch.rand(4000, 4, 4, generator=torch.Generator().manual_seed(0))
    scores = idsds_of(additive(maps, side_px=4))
    assert float(scores.mean()) == pytest.approx(0.0, abs=0.015)  # deviation .0041
    assert float(scores.std()) == pytest.approx(1 / math.sqrt(15), abs=0.01)  # .258


def test_a_finer_map_counts_by_what_its_cells_hold_together() -> None:
    fine = WEIGHTS.repeat_interleave(2, dim=0).repeat_interleave(2, dim=1)
    fine[0, 0] += 1.0
    fine[1, 1] -= 1.0  # the sum of the cell stays
    assert idsds_of(additive(fine[None])).tolist() == pytest.approx([1.0])


def test_it_takes_seventeen_forward_passes() -> None:
    asked: list[int] = []
    idsds_of(additive(WEIGHTS[None].expand(3, -1, -1), asked=asked))
    assert sum(asked) == 3 * 17


def test_a_map_without_an_order_is_undefined() -> None:
    maps = torch.stack([torch.full((4, 4), 0.3), WEIGHTS])
    assert idsds_of(additive(maps)).isnan().tolist() == [True, False]
    assert idsds_of(additive(torch.ones(1, 3, 5), side_px=30)).isnan().all()  # cells of unequal size are no order


def test_a_model_that_does_not_care_is_undefined() -> None:
    def follow(masked: Tensor, rows: Tensor) -> Curves:
        return {"logit": torch.full((len(masked),), 7.0)}

    assert idsds_of(SaliencyCase(torch.ones(1, 3, 8, 8), WEIGHTS[None], follow)).isnan().all()


def test_embeddings_have_no_logit() -> None:
    def follow(masked: Tensor, rows: Tensor) -> Curves:
        return {"score": torch.zeros(len(masked))}

    with pytest.raises(UsageError, match="logit needs classes"):
        idsds_of(SaliencyCase(torch.ones(1, 3, 8, 8), WEIGHTS[None], follow))
