"""Sparsity against the released code and closed forms."""

from pathlib import Path

import numpy as np
import pytest
import torch

from attnsearch.metrics.complexity import effective_area, entropy, gini, sparsity

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


def one_hot() -> torch.Tensor:
    saliency = torch.zeros(1, 14, 14)
    saliency[0, 5, 9] = 3.0
    return saliency


def half_on() -> torch.Tensor:
    return (torch.arange(196).view(1, 14, 14) < 98).float()


def gaussian() -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(14.0) - 6.5, torch.arange(14.0) - 6.5, indexing="ij")
    return torch.exp(-(x**2 + y**2) / 8)[None]


@pytest.mark.parametrize(
    ("saliency", "expected_gini", "expected_entropy"),
    [
        (one_hot(), 0.9949, 0.0),
        (torch.full((1, 14, 14), 0.2), 0.0, 1.0),
        (half_on(), 0.5, 0.8687),
        (torch.arange(1.0, 197.0).view(1, 14, 14), 0.3316, 0.9639),
        (gaussian(), 0.7437, 0.7991),
    ],
)
def test_gini_and_entropy_of_known_maps(saliency: torch.Tensor, expected_gini: float, expected_entropy: float) -> None:
    assert float(gini(saliency)) == pytest.approx(expected_gini, abs=1e-4)
    assert float(entropy(saliency)) == pytest.approx(expected_entropy, abs=1e-4)
    torch.testing.assert_close(gini(7 * saliency), gini(saliency))
    torch.testing.assert_close(entropy(7 * saliency), entropy(saliency))


def test_effective_area_counts_the_cells_of_a_uniform_map() -> None:
    assert float(effective_area(one_hot())) == pytest.approx(1 / 196, rel=1e-4)
    assert float(effective_area(half_on())) == pytest.approx(0.5, rel=1e-4)


def test_an_empty_map_has_neither_gini_nor_entropy() -> None:
    nothing = torch.zeros(1, 3, 3)
    assert all(bool(torch.isnan(metric(nothing)).all()) for metric in (gini, entropy, effective_area))
