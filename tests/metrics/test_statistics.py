"""Intervals, tests and agreement against known numbers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from attnsearch.metrics.gains import ratio_influence
from attnsearch.metrics.statistics import (
    added_volume,
    bootstrap_interval,
    holm,
    hypervolume,
    krippendorff_alpha,
    linear_influence,
    non_dominated,
    paired,
    rank_correlation,
    separation,
    split_half_winner,
    welch,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "brnpa_welch.npz", allow_pickle=False)


def test_welch_is_that_of_the_released_code() -> None:
    scores = GOLDEN["scores"]
    for i, first in enumerate(scores):
        for j, second in enumerate(scores):
            if i == j:
                continue
            found = welch(first, second)
            assert found.statistic == pytest.approx(float(GOLDEN["t_stat"][i, j]), rel=1e-9)
            assert found.dof == pytest.approx(float(GOLDEN["dof"][i, j]), rel=1e-9)
            assert found.p == pytest.approx(float(GOLDEN["p_value"][i, j]), rel=1e-9)
            assert (found.p < 0.05) == bool(GOLDEN["significant"][i, j])


def test_pairing_sees_what_welch_does_not() -> None:
    level = np.linspace(0, 10, 20)  # images differ far more than models
    better = level + np.where(np.arange(20) % 2, 0.1, 0.2)
    assert paired(better, level).p < 1e-6
    assert welch(better, level).p > 0.5
    assert paired(better, level).difference == pytest.approx(0.15)


def test_undefined_scores_are_left_out_of_both_sides() -> None:
    first, second = np.array([1.0, math.nan, 3.0, 5.0]), np.array([0.0, 7.0, math.nan, 2.0])
    found = paired(first, second)
    assert (found.n, found.difference) == (2, 2.0)
    assert bootstrap_interval(first).n == 3


def test_what_cannot_be_tested_is_nan() -> None:
    same = np.ones(5)
    for found in (paired(same, same), welch(same, same), paired(same[:1], same[:1])):
        assert math.isnan(found.p)
    assert math.isnan(bootstrap_interval(np.array([math.nan])).mean)


def test_bootstrap_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for trial in range(200):
        found = bootstrap_interval(rng.normal(size=60), n_resamples=400, seed=trial)
        hits += found.low <= 0.0 <= found.high
    assert 0.89 <= hits / 200 <= 0.99
    assert bootstrap_interval(np.arange(9.0)) == bootstrap_interval(np.arange(9.0))


def test_holm_corrects_by_rank() -> None:
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03])), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(holm(np.array([0.01, math.nan, 0.9])), [0.02, math.nan, 0.9])
    np.testing.assert_allclose(holm(np.array([0.6, 0.7])), [1.0, 1.0])


def test_alpha_is_one_for_agreement_and_nought_for_chance() -> None:
    order = np.arange(4.0)[:, None]
    assert krippendorff_alpha(np.repeat(order, 30, axis=1)) == pytest.approx(1.0)
    noise = np.random.default_rng(0).random((4, 4000))
    assert krippendorff_alpha(noise) == pytest.approx(0.0, abs=0.01)
    against = np.concatenate([np.repeat(order, 5, axis=1), np.repeat(-order, 5, axis=1)], axis=1)
    assert krippendorff_alpha(against) < 0
    assert math.isnan(krippendorff_alpha(np.ones((3, 5))))


def test_alpha_of_a_textbook_table() -> None:
    # Four observers, twelve units, ordinal, without the missing ones: units 2 to 10 as complete pairs of two observers.
    # With two raters and n units, alpha = 1 - (2n - 1) * sum d(a, b) / sum over all pairs of d, d by ordinal distance.
    scores = np.array([[1.0, 1.0], [2.0, 3.0], [3.0, 2.0], [4.0, 4.0]])  # ranks 1 to 4, two of them swapped
    # Each rank occurs twice; ordinal distance of neighbours: (2/2 + 2/2)^2 = 4, and (2 d)^2 for d ranks apart.
    observed = 2 * 4.0 * 2 / 8  # two disagreeing units, counted in both directions, over 8 values
    pairs = [(2 * (a - b)) ** 2 for a in range(4) for b in range(4) for _ in range(4)]
    expected = sum(pairs) / (8 * 7)
    assert krippendorff_alpha(scores) == pytest.approx(1 - observed / expected)


@pytest.mark.parametrize("n_images", [32, 128])
def test_halves_agree_on_equal_models_by_chance(n_images: int) -> None:
    """Ten models of the same mean, whose scores on an image are correlated as those of trials are, in 200 studies."""
    rng = np.random.default_rng(1)
    studies = 0.65 * rng.normal(size=(200, 1, n_images)) + 0.75 * rng.normal(size=(200, 10, n_images))
    checks = [split_half_winner(scores, n_splits=100, seed=seed) for seed, scores in enumerate(studies)]
    assert {check.chance for check in checks} == {0.1}
    assert np.mean([check.same for check in checks]) == pytest.approx(0.1, abs=0.03)
    assert np.mean([check.corrected for check in checks]) == pytest.approx(studies.mean(), abs=0.02)
    assert np.mean(studies.mean(axis=2).max(axis=1)) > 0.09  # what the winners would be said to have


def test_halves_agree_on_a_clear_winner_in_either_direction() -> None:
    rng = np.random.default_rng(1)
    clear = np.stack([rng.normal(1.0, 0.1, 51), rng.normal(0.0, 0.1, 51)])
    higher, lower = (split_half_winner(clear, higher_is_better=one) for one in (True, False))
    assert (higher.same, lower.same) == (1.0, 1.0)
    assert higher.corrected == pytest.approx(1.0, abs=0.05)
    assert lower.corrected == pytest.approx(0.0, abs=0.05)


def test_identical_models_share_every_win() -> None:
    check = split_half_winner(np.tile(np.random.default_rng(1).random(20), (4, 1)))
    assert check.same == pytest.approx(check.chance) == pytest.approx(0.25)


def test_one_image_has_no_halves() -> None:
    check = split_half_winner(np.array([[0.1, np.nan], [0.2, 0.3]]))
    assert np.isnan([check.same, check.corrected]).all()
    assert check.chance == 0.5


def test_scores_that_are_equal_for_all_images_of_one_model_are_tested_quietly() -> None:
    """Such as a pointing game that is always won; the expected value is Student's test against a constant."""
    scores = np.array([0.4, 1.0, 0.7, 0.9])
    found = welch(np.full(6, 0.9), scores)
    assert found.dof == pytest.approx(3.0)
    assert found.p == pytest.approx(stats.ttest_1samp(scores, 0.9).pvalue)


def test_rank_correlation_has_known_values() -> None:
    first = np.array([[[1, 2], [3, 4]]] * 4, dtype=np.float32)
    second = np.array([[[1, 4], [9, 16]], [[4, 3], [2, 1]], [[5, 5], [5, 5]], [[2, 1], [3, 4]]], dtype=np.float32)
    # the last: 1 - 6 * (1 + 1) / (4 * (16 - 1))
    np.testing.assert_allclose(rank_correlation(first, second), [1.0, -1.0, np.nan, 0.8])


def test_influence_values_have_the_mean_and_the_error_of_what_they_stand_for() -> None:
    """The error is checked against resampling: of a ratio, and of a sum of means over different images."""
    rng = np.random.default_rng(0)
    denominators = rng.uniform(1, 9, 200)
    numerators, gaps = denominators * rng.uniform(0, 0.5, 200), np.where(rng.random(200) < 0.5, np.nan, 1.0)
    partial = rng.normal(size=200) * gaps
    values = {
        "ratio": ratio_influence(numerators, denominators),
        "sum": linear_influence([(0.25, numerators), (0.75, partial)]),
    }

    def estimate(rows: np.ndarray) -> dict[str, float]:
        ratio = numerators[rows].sum() / denominators[rows].sum()
        return {"ratio": ratio, "sum": 0.25 * numerators[rows].mean() + 0.75 * np.nanmean(partial[rows])}

    resampled = [estimate(rng.integers(0, 200, 200)) for _ in range(2000)]
    for name, expected in estimate(np.arange(200)).items():
        assert values[name].mean() == pytest.approx(expected)
        spread = np.std([drawn[name] for drawn in resampled])
        assert values[name].std() / math.sqrt(200) == pytest.approx(spread, rel=0.08)


def test_influence_values_are_undefined_where_a_mean_is() -> None:
    some, none = np.array([0.2, np.nan, 0.6]), np.full(3, np.nan)
    assert np.isnan(linear_influence([(0.5, some), (0.5, none)])).all()
    assert np.isnan(ratio_influence(some, np.zeros(3))).all()
    np.testing.assert_allclose(linear_influence([(1.0, some)]), [0.1, 0.4, 0.7])  # each deviation counts 3 / 2


@pytest.mark.parametrize("d", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [1, 4, 12])
def test_volume_is_that_of_the_cells_that_a_point_covers(d: int, n: int) -> None:
    """Points on a grid of 5 cells a side: the volume is the number of cells below some point, counted one by one."""
    points = np.random.default_rng((d, n)).integers(-1, 6, size=(n, d)).astype(np.float64)
    cells = np.stack(np.meshgrid(*[np.arange(6)] * d), axis=-1).reshape(-1, d)
    covered = (cells[:, None] + 1 <= points[None]).all(axis=2).any(axis=1)
    assert hypervolume(points) == pytest.approx(int(covered.sum()))


def test_volume_of_a_staircase() -> None:
    assert hypervolume(np.array([[3.0, 1.0], [1.0, 3.0], [2.0, 2.0], [1.0, 1.0]])) == pytest.approx(6.0)
    assert hypervolume(np.empty((0, 3))) == 0.0


def test_added_volumes_sum_to_the_whole() -> None:
    points = np.random.default_rng(3).random((40, 3))
    added = [added_volume(point, non_dominated(points[:place])) for place, point in enumerate(points)]
    assert sum(added) == pytest.approx(hypervolume(points))
    assert added_volume(np.array([0.5, 0.5, 0.0]), points) == 0.0


def test_points_that_others_reach_are_dominated() -> None:
    points = np.array([[1.0, 2.0], [1.0, 2.0], [0.5, 2.0], [2.0, 1.0], [0.0, 0.0]])
    assert sorted(map(tuple, non_dominated(points))) == [(1.0, 2.0), (2.0, 1.0)]


def test_pooled_separation_is_students_test_with_two_groups() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(1.0, 0.2, 5), rng.normal(0.8, 0.3, 4)
    found = separation([first, second])
    expected = stats.ttest_ind(first, second, alternative="greater")
    assert found.p[1] == pytest.approx(expected.pvalue)
    assert np.isnan(found.p[0])
    lower = separation([-first, -second], higher_is_better=False)
    assert lower.p[1] == pytest.approx(expected.pvalue)
    pooled = (4 * first.var(ddof=1) + 3 * second.var(ddof=1)) / 7
    assert found.high[0] - found.means[0] == pytest.approx(stats.t.ppf(0.975, 7) * np.sqrt(pooled / 5))


@pytest.mark.parametrize(
    ("k", "n_seeds", "expected"),
    [(3, 3, (0.13, 0.49, 0.87)), (3, 5, (0.33, 0.87, 0.98)), (5, 5, (0.14, 0.75, 0.99)), (5, 10, (0.41, 0.99, 1.0))],
)
def test_leads_are_found_as_often_as_simulated(k: int, n_seeds: int, expected: tuple[float, ...]) -> None:
    """A lead of 1, 2, 3 standard deviations of the seeds over k - 1 equal others; none of it for the false alarms."""
    rng = np.random.default_rng((k, n_seeds))

    def found(lead: float, n: int) -> float:
        values = rng.normal(size=(n, k, n_seeds))
        values[:, 0] += lead
        return float(np.mean([(separation(list(one)).p[1:] < 0.05).all() for one in values]))

    assert [found(lead, 300) for lead in (1.0, 2.0, 3.0)] == pytest.approx(expected, abs=0.12)
    assert found(0.0, 1000) <= 0.02


def test_separation_needs_two_values_somewhere() -> None:
    assert np.isnan(separation([np.array([1.0]), np.array([0.0])]).p).all()
    found = separation([np.array([1.0, 1.1]), np.array([]), np.array([0.0])])
    assert np.isnan(found.means[1])
    assert found.p[2] < 0.05
