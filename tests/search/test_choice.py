"""The best trials of a study, with and without a race."""

from __future__ import annotations

import optuna
import pytest
from optuna.distributions import FloatDistribution

from attnsearch.search.choice import RACE, Race, best_feasible, current_ties, refined, stored_race


def study_of(*values: tuple[float, ...], directions: tuple[str, ...] = ("maximize",)) -> optuna.Study:
    study = optuna.create_study(directions=list(directions))
    study.set_metric_names(["val/relevance_gain", "val/accuracy"][: len(directions)])
    for one in values:
        study.add_trial(
            optuna.create_trial(values=one, params={"x": 0.5}, distributions={"x": FloatDistribution(0, 1)})
        )
    return study


def numbers(study: optuna.Study) -> list[int]:
    return [trial.number for trial in best_feasible(study)]


def test_without_a_race_the_values_decide() -> None:
    assert numbers(study_of()) == []
    assert numbers(study_of((0.2,), (0.9,), (0.9,))) == [1]
    assert numbers(study_of((0.2,), (0.9,), directions=("minimize",))) == [0]
    assert numbers(study_of((0.2, 0.9), (0.9, 0.1), (0.1, 0.1), directions=("maximize", "maximize"))) == [0, 1]


def test_refined_scores_come_before_the_values_of_the_search() -> None:
    study = study_of((0.92, 0.7), (0.91, 0.6), (0.5, 0.9), directions=("maximize", "maximize"))
    race = Race(320, 3, {0: {"val/relevance_gain": 0.8}, 1: {"val/relevance_gain": 0.9}}, (0, 1))
    study.set_user_attr(RACE, race.as_attribute())
    assert stored_race(study) == race
    assert numbers(study) == [0, 1, 2]  # by the search, trial 1 is beaten by trial 0
    trials = refined(study, study.get_trials(deepcopy=False), race)
    assert trials[1].values == [0.9, 0.6]
    assert trials[1].user_attrs["val/relevance_gain"] == 0.9
    assert study.trials[1].values == [0.91, 0.6]


def test_of_trials_that_are_tied_the_race_has_chosen_one_until_more_trials_end() -> None:
    study = study_of((0.92,), (0.91,), (0.5,))
    study.set_user_attr(RACE, Race(320, 3, {0: {"val/relevance_gain": 0.9}}, (1, 0)).as_attribute())
    assert current_ties(study) == (1, 0)
    assert numbers(study) == [1]
    study.add_trial(optuna.create_trial(value=0.95))
    assert current_ties(study) == ()
    assert numbers(study) == [3]


def test_what_is_no_race_is_refused() -> None:
    study = study_of((0.5,))
    study.set_user_attr(RACE, {"scores": [1]})
    with pytest.raises(ValueError, match="race must be what a race has written"):
        stored_race(study)
