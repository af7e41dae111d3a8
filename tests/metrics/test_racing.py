"""Which trials are not surely beaten: one objective, several, and how often the winner of all images stays in."""

from __future__ import annotations

import numpy as np
import pytest

from attnsearch.metrics.racing import contenders, is_on_front

NONE = np.zeros((0, 3))


def scores_with(means: list[float], errors: list[float]) -> np.ndarray:
    """(1, M, N) scores of 64 images in which a trial differs from the first one by its mean, give or take its error."""
    wave = np.tile([1.0, -1.0], 32)  # its standard deviation is 1 but for the correction of 63 degrees of freedom
    rows = [mean + error * 8 * np.sqrt(63 / 64) * wave for mean, error in zip(means, errors, strict=True)]
    return np.array([rows])


def test_trials_within_two_standard_errors_of_the_leader_stay() -> None:
    scores = scores_with([0.9, 0.8, 0.7], [0.0, 0.06, 0.06])
    assert contenders(scores, NONE).tolist() == [True, True, False]
    assert contenders(-scores, NONE).tolist() == [False, False, True]  # the noise of the other two is the same


def test_a_trial_is_beaten_by_one_that_is_no_worse_anywhere_and_surely_ahead_in_each_score() -> None:
    scores = scores_with([0.9, 0.5, 0.5], [0.0, 0.0, 0.0])
    accuracy = np.array([[0.8, 0.8, 0.9]])
    assert contenders(scores, accuracy).tolist() == [True, False, True]
    assert contenders(np.concatenate([scores, scores[:, [0, 0, 0]]]), accuracy).all()  # not ahead in the second score


def test_undefined_scores_count_as_no_information() -> None:
    scores = scores_with([0.9, 0.8, np.nan], [0.0, 0.0, 0.0])
    assert contenders(scores, NONE).tolist() == [True, False, False]
    assert contenders(np.full((1, 3, 64), np.nan), NONE).all()


def test_one_image_separates_nothing() -> None:
    assert contenders(np.array([[[0.9], [0.1]]]), np.zeros((0, 2))).all()


@pytest.mark.parametrize("spread", [0.015, 0.05])
def test_the_winner_of_all_images_stays_in_the_race(spread: float) -> None:
    """24 trials whose scores of an image correlate by 0.43, of which 128 of 320 images are seen first."""
    rng = np.random.default_rng(4)
    kept, n_raised = 0, 0
    for _ in range(200):
        true = rng.normal(0.85, spread, (24, 1))
        noise = 0.13 * (np.sqrt(0.43) * rng.normal(size=320) + np.sqrt(0.57) * rng.normal(size=(24, 320)))
        scores = true + noise
        is_in = contenders(scores[None, :, :128], np.zeros((0, 24)))
        kept += bool(is_in[scores.mean(axis=1).argmax()])
        n_raised += int(is_in.sum())
    assert kept >= 190
    assert n_raised / 200 < 12


def test_the_front_holds_equal_trials_and_no_beaten_one() -> None:
    values = np.array([[1.0, 1.0, 0.5, 0.9], [0.2, 0.2, 0.9, 0.1]])
    assert is_on_front(values).tolist() == [True, True, True, False]
