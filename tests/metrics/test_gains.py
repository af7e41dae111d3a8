"""Gains as ratios of means: closed forms, coverage of the interval, and what leaves a gain undefined."""

from __future__ import annotations

import numpy as np
import pytest

from attnsearch.metrics.gains import image_gains, influence_values, is_gain_defined
from attnsearch.metrics.statistics import mean_interval

AREAS, DROPS = np.array([0.6, 0.3, 0.0]), np.array([0.8, 0.5, 0.01])


def test_the_mean_of_the_influence_values_is_the_ratio_and_their_spread_its_error() -> None:
    values = influence_values(AREAS, DROPS)
    np.testing.assert_allclose(values, [0.802401, 0.587378, 0.671290], atol=1e-6)
    assert values.mean() == pytest.approx(0.687023, abs=1e-6)
    assert values.std(ddof=1) / np.sqrt(3) == pytest.approx(0.062568, abs=1e-6)


def test_a_model_that_the_fill_does_not_change_has_no_gain() -> None:
    """Whatever its single images show."""
    drops = np.array([0.009, -0.002, 0.02, 0.009])
    assert not is_gain_defined(drops)
    assert np.isnan(influence_values(0.447 * drops, drops)).all()
    assert is_gain_defined(np.array([0.1, 0.1]))
    assert not is_gain_defined(np.zeros(0))


def test_images_without_a_drop_are_not_sorted_by_noise() -> None:
    np.testing.assert_allclose(image_gains(AREAS, DROPS), [0.75, 0.6, np.nan])


def test_negative_drops_count() -> None:
    areas, drops = np.array([0.5, -0.1]), np.array([0.8, -0.2])
    assert influence_values(areas, drops).mean() == pytest.approx(0.4 / 0.6)


@pytest.mark.parametrize("n_images", [32, 64])
def test_the_interval_covers_the_gain_of_the_population(n_images: int) -> None:
    """Drops as trained classifiers have them: most near 1, some near 0."""
    rng = np.random.default_rng(0)
    drops = rng.beta(5, 0.8, 4000)
    areas = drops * rng.normal(0.85, 0.12, 4000) + rng.normal(0, 0.02, 4000)
    truth = areas.sum() / drops.sum()
    covered = []
    for _ in range(1500):
        rows = rng.choice(4000, n_images)
        interval = mean_interval(influence_values(areas[rows], drops[rows]))
        covered.append(interval.low <= truth <= interval.high)
    assert 0.93 <= np.mean(covered) <= 0.97
