"""Errors by class and by pair, on a table that can be counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from attnsearch.metrics.classification import (
    calibration_error,
    class_accuracies,
    class_precisions,
    confusion_matrix,
    fit_temperature,
    most_confused,
    top_k_accuracy,
)

LABELS = np.array([0, 0, 0, 1, 1, 1, 2, 2, 3])
PREDICTIONS = np.array([0, 1, 1, 0, 1, 1, 0, 2, 2])
MATRIX = np.array([[1, 2, 0, 0], [1, 2, 0, 0], [1, 0, 1, 0], [0, 0, 1, 0]])


def test_matrix_has_true_classes_in_rows() -> None:
    np.testing.assert_array_equal(confusion_matrix(LABELS, PREDICTIONS, 4), MATRIX)
    np.testing.assert_allclose(class_accuracies(MATRIX), [1 / 3, 2 / 3, 1 / 2, 0])
    np.testing.assert_allclose(class_precisions(MATRIX), [1 / 3, 1 / 2, 1 / 2, math.nan])


def test_a_pair_counts_both_directions_and_stands_once() -> None:
    pairs = most_confused(MATRIX, n_pairs=10)
    assert [(pair.first, pair.second, pair.n_errors) for pair in pairs] == [(0, 1, 3), (2, 3, 1), (0, 2, 1)]
    assert (pairs[0].first_as_second, pairs[0].second_as_first) == (2, 1)
    assert pairs[1].rate == pytest.approx(1 / 3)  # ties go by rate
    assert most_confused(MATRIX, n_pairs=1) == pairs[:1]


def test_top_k_breaks_ties_by_class() -> None:
    logits = np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 1.0]], dtype=np.float32)
    assert top_k_accuracy(logits, np.array([1, 2]), 1) == 0.0
    assert top_k_accuracy(logits, np.array([1, 2]), 2) == 1.0
    with pytest.raises(ValueError, match="between 1 and 3 on at least one image, got 4"):
        top_k_accuracy(logits, np.array([1, 2]), 4)


def test_calibration_compares_confidence_with_hits_bin_by_bin() -> None:
    confidences = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55], dtype=np.float32)
    is_right = np.array([True, True, True, False, True, False])
    expected = (4 * abs(0.95 - 0.75) + 2 * abs(0.55 - 0.5)) / 6
    assert calibration_error(confidences, is_right, n_bins=10) == pytest.approx(expected)
    assert calibration_error(np.array([1.0], dtype=np.float32), np.array([True])) == pytest.approx(0.0)
    assert math.isnan(calibration_error(np.array([], dtype=np.float32), np.array([], dtype=bool)))


def drawn_answers(factor: float, n_images: int = 4000, n_classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, n_classes) that are too large by a factor, and labels that are drawn from what they should say."""
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 1.5, (n_images, n_classes))
    noise = rng.gumbel(size=logits.shape)
    return (factor * logits).astype(np.float32), (logits + noise).argmax(axis=1)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.5])
def test_the_temperature_undoes_a_wrong_scale_of_the_logits(factor: float) -> None:
    logits, labels = drawn_answers(factor)
    assert fit_temperature(logits, labels) == pytest.approx(factor, rel=0.06)


@pytest.mark.parametrize("factor", [0.1, 8.0])
def test_a_temperature_at_its_limit_is_none(factor: float) -> None:
    assert fit_temperature(*drawn_answers(factor)) is None


def test_without_errors_there_is_no_temperature() -> None:
    logits, labels = drawn_answers(1.0)
    is_right = logits.argmax(axis=1) == labels
    wrong = np.flatnonzero(~is_right)[:19]
    kept = np.concatenate([np.flatnonzero(is_right), wrong])
    assert fit_temperature(logits[kept], labels[kept]) is None
    broken = logits.copy()
    broken[0, 0] = np.nan
    assert fit_temperature(broken, labels) is None
