"""The front of a study with several objectives, and the settings behind it."""

from __future__ import annotations

import optuna
import pytest

from attnsearch.search.pareto import MIN_TRIALS, Reliability, front_of, importances, reliability
from attnsearch.search.trials import rows_of
from attnsearch.store.image_scores import ScoreTable, make_table
from attnsearch.store.score_journal import ImageScore


def study_of(*points: tuple[float, float, float, float]) -> optuna.Study:
    """Trials of (x, y, accuracy, sparsity); accuracy is maximised, sparsity minimised."""
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.set_metric_names(["val/accuracy", "val/sparsity"])
    axis = optuna.distributions.FloatDistribution(0.0, 1.0)
    for x, y, accuracy, sparsity in points:
        study.add_trial(
            optuna.create_trial(
                params={"x": x, "y": y}, distributions={"x": axis, "y": axis}, values=[accuracy, sparsity]
            )
        )
    return study


def test_front_is_sorted_by_the_first_objective() -> None:
    study = study_of((0, 0, 0.5, 0.1), (0, 0, 0.9, 0.4), (0, 0, 0.5, 0.2), (0, 0, 0.7, 0.3))
    assert [trial.number for trial in front_of(rows_of(study, "sqlite:///none.db"))] == [
        1,
        3,
        0,
    ]  # trial 2 is beaten by trial 0


def test_each_objective_has_its_own_settings() -> None:
    """Accuracy follows x alone and sparsity y alone."""
    grid = [(x / 6, y / 6) for x in range(7) for y in range(7)]
    found = importances(study_of(*((x, y, x, 1 - y) for x, y in grid)))
    assert found["val/accuracy"]["x"] > 0.9
    assert found["val/sparsity"]["y"] > 0.9
    assert sum(found["val/accuracy"].values()) == pytest.approx(1.0)


def test_few_trials_have_no_importances() -> None:
    points = [(index / 10, 0.5, index / 10, 0.5) for index in range(MIN_TRIALS - 1)]
    assert importances(study_of(*points)) == {}


def table_of(gains: list[float], *, blurred: float = 0.0, n_steps: int = 4) -> ScoreTable:
    about = {"version": 1, "settings": {"n_steps": n_steps}, "images": "i", "split": "val"}
    rows = [
        ImageScore(str(row), {"relevance_gain": gain, "relevance_gain_blur": blurred}, {})
        for row, gain in enumerate(gains)
    ]
    return make_table(rows, (), about)


def test_images_that_agree_make_the_order_reliable() -> None:
    levels = [(0.1, 0.5), (0.2, 0.6), (0.4, 0.9)]
    tables = [table_of([level, level + 0.5, level + 0.25], blurred=blurred) for level, blurred in levels]
    found = reliability(tables, "relevance_gain")
    assert isinstance(found, Reliability)
    assert (found.n_trials, found.n_images, found.alpha) == (3, 3, pytest.approx(1.0))
    assert (found.winner.same, found.winner.chance) == (1.0, pytest.approx(1 / 3))
    assert 0.4 < found.winner.corrected < 0.9
    assert found.second_fill == pytest.approx(1.0)


def test_images_that_contradict_each_other_do_not() -> None:
    found = reliability([table_of([0.1, 0.9]), table_of([0.9, 0.1])], "relevance_gain")
    assert isinstance(found, Reliability)
    assert found.alpha < 0
    assert found.n_undefined == 0


def test_scores_of_different_settings_have_no_order() -> None:
    first, second = table_of([0.1, 0.9]), table_of([0.1, 0.9], n_steps=8)
    assert "scored with different settings" in str(reliability([first, second], "relevance_gain"))
    assert reliability([first], "relevance_gain") is None
    assert reliability([first, first], "gini") is None
