"""The images to look at first, pairs and classes, on answers whose order is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from attnsearch.explorer.archives import NO_SCORES, Archives, OpenArchive
from attnsearch.explorer.failures import (
    UNKNOWN,
    Answers,
    class_answers,
    gains_by_class,
    mean_saliency,
    predictions_of,
)
from attnsearch.metrics.classification import confusion_matrix, most_confused
from attnsearch.results.study import StudyReader
from tests.explorer.built import HOT, MAP_HW, Built, write_trial_scores

NAN = math.nan


@pytest.fixture
def answers() -> Answers:
    """Six images of three classes: 1 and 4 are wrong, 5 is a gallery image."""
    return Answers(
        labels=np.array([0, 0, 1, 2, 2, 1]),
        predictions=np.array([0, 2, 1, 2, 0, 0]),
        confidences=np.array([0.9, 0.6, 0.8, 0.7, 0.99, 0.5], dtype=np.float32),
        is_judged=np.array([True, True, True, True, True, False]),
        hits=np.array([1.0, 0.0, 0.0, 1.0, 1.0, NAN]),
        energy=np.array([0.5, 0.1, 0.4, 0.2, NAN, NAN]),
        energy_name="energy_in_mask",
        gain=np.array([0.3, NAN, -0.2, 0.8, 0.1, NAN]),
        gain_name="relevance_gain",
    )


@pytest.fixture
def opened(built: Built) -> OpenArchive:
    return Archives().open(StudyReader(built.layout).trial(0), "val")


def test_confident_errors_come_by_confidence(answers: Answers) -> None:
    assert answers.confident_errors().tolist() == [4, 1]


def test_misses_come_before_little_energy(answers: Answers) -> None:
    assert answers.misplaced().tolist() == [2, 3, 0]
    assert answers.is_miss.tolist() == [False, False, True, False, False, False]
    unknown = np.full(6, NAN)
    assert replace(answers, hits=unknown).misplaced().tolist() == [3, 2, 0]
    assert replace(answers, energy=unknown).misplaced().tolist() == [2]
    assert replace(answers, hits=unknown, energy=unknown).misplaced().tolist() == []


def test_least_faithful_come_first_and_unscored_not_at_all(answers: Answers) -> None:
    assert answers.least_faithful().tolist() == [2, 4, 0, 3]


def test_images_of_which_most_disagree_come_first(answers: Answers) -> None:
    others = np.array([[0, 0, 2, 2, UNKNOWN, 1], [1, 2, 2, 2, UNKNOWN, 1]])
    assert answers.n_differing(others).tolist() == [1, 1, 2, 0, 0, 2]
    assert answers.disagreed(others).tolist() == [2, 0, 1]
    assert answers.disagreed(np.zeros((0, 6), dtype=np.int64)).tolist() == []


def test_pairs_count_both_directions(answers: Answers) -> None:
    (pair,) = answers.pairs(5)
    assert (pair.first, pair.second, pair.n_errors) == (0, 2, 2)
    assert (pair.first_as_second, pair.second_as_first) == (1, 1)
    assert pair.rate == 0.5
    assert answers.between(0, 2).tolist() == answers.between(2, 0).tolist() == [4, 1]
    right = replace(answers, predictions=answers.labels)
    assert right.pairs(5) == []
    assert right.between(0, 2).tolist() == []


def test_pairs_are_those_of_the_confusion_matrix() -> None:
    rng = np.random.default_rng(3)
    labels, predictions = rng.integers(0, 9, 400), rng.integers(0, 9, 400)
    nothing = np.full(400, NAN)
    answers = Answers(labels, predictions, np.ones(400, dtype=np.float32), np.ones(400, dtype=bool),
                      nothing, nothing, None, nothing, None)  # fmt: skip
    assert answers.pairs(20) == most_confused(confusion_matrix(labels, predictions, 9), n_pairs=20)


def test_answers_of_an_archive(opened: OpenArchive) -> None:
    answers = Answers.of(opened, NO_SCORES, [None, True, False, None, None, None])
    assert answers.is_wrong.tolist() == [False, True, False, True, False, True]
    assert answers.hits[1:3].tolist() == [1, 0]
    assert (answers.energy_name, answers.gain_name) == (None, None)
    assert answers.least_faithful().tolist() == []


def test_other_trials_are_compared_by_names(opened: OpenArchive) -> None:
    """The other archive has its images and its classes in another order, and lacks one image."""
    archive = opened.archive
    order = np.array([4, 2, 0, 1, 3])
    other = replace(
        archive,
        image_ids=tuple(archive.image_ids[row] for row in order),
        labels=1 - archive.labels[order],
        predictions=1 - archive.predictions[order],
        confidences=archive.confidences[order],
        class_names=archive.class_names[::-1],
    )
    found = predictions_of(OpenArchive(other, (), False, None), opened)
    assert found.tolist() == [*archive.predictions[:5].tolist(), UNKNOWN]


def test_classes(answers: Answers) -> None:
    rows = class_answers(answers, 4, {2: (0.45, 0.1, 2)})
    assert [(row.n_images, row.n_correct, row.n_predicted) for row in rows] == [
        (2, 1, 2),
        (1, 1, 1),
        (2, 1, 2),
        (0, 0, 0),
    ]
    assert rows[0].confused == ((2, 1),)
    assert rows[1].confused == ()
    assert rows[2].confidence == pytest.approx((0.7 + 0.99) / 2)
    assert (rows[2].gain, rows[2].n_scored) == (0.45, 2)
    assert math.isnan(rows[0].gain)
    assert (rows[0].accuracy, rows[0].precision) == (0.5, 0.5)
    assert math.isnan(rows[3].accuracy)
    assert math.isnan(rows[3].precision)


def test_gains_of_classes_are_of_their_scored_images(copied: Built) -> None:
    trial = StudyReader(copied.layout).trial(0)
    opened = Archives().open(trial, "val")
    ids = opened.archive.image_ids[1:]
    columns = {"relevance_gain.area": [0.2, 0.4, 0.1, 0.1, 0.1], "relevance_gain.filled": [0.4, 0.4, 0.7, 0.7, 0.7]}
    columns["relevance_gain.untouched"] = [0.9] * 5
    write_trial_scores(copied.layout, 0, ids, columns)
    gains = gains_by_class(trial.score_table("val"), opened)
    assert gains[0][::2] == (pytest.approx(0.6), 2)
    assert gains[1][::2] == (pytest.approx(0.5), 3)
    write_trial_scores(copied.layout, 0, ids, {"gini": [0.0] * 5})
    assert gains_by_class(trial.score_table("val"), opened) == {}


def test_mean_map_of_a_class(opened: OpenArchive) -> None:
    expected = np.zeros(MAP_HW)
    expected[HOT] = 1
    mean = mean_saliency(opened, 0)
    assert mean is not None
    np.testing.assert_allclose(mean, expected)
    assert mean_saliency(opened, 7) is None
    assert mean_saliency(OpenArchive(replace(opened.archive, saliency=None), (), False, None), 0) is None
