"""Locality in closed forms: features that keep to their part, features that know everything everywhere."""

import math

import pytest
import torch
from torch import Tensor

from attnsearch.metrics.locality import (
    cells_of_mass,
    locality,
    own_and_leak,
    pooled_at_parts,
    probe_skills,
    skill_matrix,
)

N_IMAGES, N_PARTS, N_VARIANTS = 500, 4, 5


def random_variants() -> Tensor:
    return torch.randint(N_VARIANTS, (N_IMAGES, N_PARTS), generator=torch.Generator().manual_seed(3))


def one_hot(variants: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(variants, N_VARIANTS).float()  # (N, P, V)


def test_features_that_know_only_their_own_part_are_local() -> None:
    variants = random_variants()
    skills = skill_matrix(one_hot(variants), variants, n_variants=N_VARIANTS)
    own, leak = own_and_leak(skills)
    assert own == 1.0
    assert abs(leak) < 0.04  # 12 skills whose deviation at chance is .022 each
    assert locality(skills) == pytest.approx(1 - leak)


def test_features_that_know_all_parts_everywhere_are_not_local() -> None:
    variants = random_variants()
    everywhere = one_hot(variants).flatten(1)[:, None].expand(-1, N_PARTS, -1)  # (N, P, P·V)
    skills = skill_matrix(everywhere, variants, n_variants=N_VARIANTS)
    assert (skills == 1).all()
    assert locality(skills) == 0.0


def test_locality_counts_what_leaks() -> None:
    skills = torch.full((4, 4), 0.2, dtype=torch.float64).fill_diagonal_(0.8)
    assert own_and_leak(skills) == (pytest.approx(0.8), pytest.approx(0.2))
    assert locality(skills) == pytest.approx(0.75)


def test_locality_is_undefined_where_parts_are_not_read_at_their_own_cells() -> None:
    assert math.isnan(locality(torch.full((4, 4), 0.09, dtype=torch.float64)))
    assert locality(torch.full((4, 4), 0.11, dtype=torch.float64)) == pytest.approx(0.0)


def test_a_probe_with_more_channels_than_images_finds_what_one_channel_knows() -> None:
    generator = torch.Generator().manual_seed(1)
    variants = random_variants()[:100, :1]
    features = torch.cat([30 * one_hot(variants)[:, 0], torch.randn(100, 200, generator=generator)], dim=1)
    noise = torch.randn(100, 205, generator=generator)
    assert probe_skills(features * 1e3 + 7.0, variants, n_variants=N_VARIANTS) == pytest.approx(
        probe_skills(features, variants, n_variants=N_VARIANTS)
    )  # neither scale nor origin matters
    assert probe_skills(features, variants, n_variants=N_VARIANTS) > 0.5
    assert abs(float(probe_skills(noise, variants, n_variants=N_VARIANTS))) < 0.15  # deviation .05


def test_skills_of_a_channel_that_never_changes_and_of_too_few_images() -> None:
    variants = random_variants()[:10]
    assert probe_skills(torch.zeros(10, 3), variants, n_variants=N_VARIANTS).isfinite().all()
    assert probe_skills(torch.zeros(4, 3), variants[:4], n_variants=N_VARIANTS).isnan().all()


def test_images_in_which_a_part_is_not_seen_are_left_out_of_its_column() -> None:
    variants = random_variants()
    features = one_hot(variants)
    features[::2, 1] = torch.nan
    skills = skill_matrix(features, variants, n_variants=N_VARIANTS)
    expected = probe_skills(features[1::2, 1], variants[1::2], n_variants=N_VARIANTS)
    torch.testing.assert_close(skills[:, 1], expected)
    assert skills.isfinite().all()


def test_features_at_a_part_are_weighted_by_how_much_of_each_cell_it_covers() -> None:
    features = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])  # (1, 1, 2, 2)
    masks = torch.zeros(1, 2, 4, 4, dtype=torch.bool)
    masks[0, 0, :2, :2] = True  # all of the first cell
    masks[0, 0, 0, 2:] = True  # half of the second one
    expected = (1.0 * 1 + 0.5 * 2) / 1.5
    pooled = pooled_at_parts(features, masks)
    assert float(pooled[0, 0, 0]) == pytest.approx(expected)
    assert pooled[0, 1].isnan().all()


def test_the_fewest_cells_that_hold_most_of_a_map() -> None:
    saliency = torch.tensor([[[4.0, 1.0], [3.0, 2.0]], [[1.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert cells_of_mass(saliency, 0.7).tolist() == [
        [[True, False], [True, False]],  # 4 + 3 of 10
        [[True, True], [True, False]],
        [[False, False], [False, False]],
    ]
    assert cells_of_mass(saliency[:1], 0.71).sum() == 3
