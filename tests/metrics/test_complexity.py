"""Sparsity against the released code and closed forms."""

from pathlib import Path

import numpy as np
import pytest
import torch

from attnsearch.metrics.complexity import sparsity

GOLDEN = Path(__file__).parents[1] / "golden" / "brnpa_sparsity.npz"


@pytest.fixture
def golden():
    with np.load(GOLDEN) as arrays:
        return {key: torch.from_numpy(array) for key, array in arrays.items()}


def test_scores_of_the_released_code(golden):
    maps, norms = golden["att_maps"], golden["features"].norm(dim=1, keepdim=True)
    torch.testing.assert_close(sparsity(maps, norms), golden["sparsity_per_image"].float(), atol=1e-6, rtol=0.0)
    assert float(sparsity(maps, norms).mean()) == pytest.approx(float(golden["sparsity_mean"]), abs=1e-6)
    assert float(sparsity(maps[:, :1], norms).sum()) == pytest.approx(
        float(golden["sparsity_single_map_sum"]), abs=1e-6
    )
    assert float(sparsity(maps, None).sum()) == pytest.approx(float(golden["sparsity_nofeat_sum"]), abs=1e-6)
    assert float(sparsity(None, norms).sum()) == pytest.approx(float(golden["sparsity_norm_only_sum"]), abs=1e-6)


def test_one_lit_cell_scores_its_share_and_a_flat_map_one():
    lit = torch.zeros(1, 1, 4, 5)
    lit[0, 0, 2, 3] = 7.0
    maps = torch.cat([lit, torch.full((1, 1, 4, 5), 7.0)])
    expected = torch.tensor([1 / 20, 1.0]) * 7.0 / (7.0 + 1e-5)
    torch.testing.assert_close(sparsity(maps, None), expected)


def test_norm_weighs_the_cells():
    maps, norms = torch.ones(1, 1, 1, 2), torch.tensor([[[[4.0, 1.0]]]])
    assert float(sparsity(maps, norms)) == pytest.approx((1 + 0.25) / 2 / (1 + 1e-5))


def test_scale_of_the_norm_does_not_matter(golden):
    maps, norms = golden["att_maps"], golden["features"].norm(dim=1, keepdim=True)
    torch.testing.assert_close(sparsity(maps, 1000 * norms), sparsity(maps, norms))


@pytest.mark.parametrize(("zero_maps", "zero_norms"), [(True, False), (False, True), (True, True)])
def test_zeros_score_zero(zero_maps, zero_norms):
    maps = torch.zeros(2, 3, 4, 4) if zero_maps else torch.ones(2, 3, 4, 4)
    norms = torch.zeros(2, 1, 4, 4) if zero_norms else torch.ones(2, 1, 4, 4)
    assert sparsity(maps, norms).tolist() == [0.0, 0.0]


def test_score_does_not_depend_on_the_batch(golden):
    maps, norms = golden["att_maps"], golden["features"].norm(dim=1, keepdim=True)
    alone = torch.cat([sparsity(maps[i : i + 1], norms[i : i + 1]) for i in range(len(maps))])
    assert torch.equal(alone, sparsity(maps, norms))


def test_nothing_to_score_is_refused():
    with pytest.raises(ValueError, match="maps, norms or both"):
        sparsity(None, None)
