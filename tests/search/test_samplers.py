"""Samplers repeat no draw, and learn from paused trials."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from attnsearch.config.study import StudyConfig
from attnsearch.search import samplers
from attnsearch.search.handle import StudyHandle
from attnsearch.search.samplers import build_sampler, sampler_of
from attnsearch.search.study import derive_seed

Open = Callable[..., StudyHandle]


def test_resumed_sampler_repeats_no_draw(open_tiny: Open) -> None:
    config = open_tiny().loaded.study
    study = optuna.create_study()
    drawn = []
    for number in range(4):
        study.sampler = build_sampler(config, seed=derive_seed(config.seed, "sampler", number))
        drawn.append(study.ask().suggest_float("x", 0, 1))
    assert len(set(drawn)) == 4


SPACE = {"x": FloatDistribution(0.0, 1.0)}


def add(study: optuna.Study, x: float, state: TrialState, **fields: Any) -> None:
    values = fields.pop("values", None)
    trial = optuna.trial.create_trial(state=state, params={"x": x}, distributions=SPACE, values=values, **fields)
    study._storage.create_new_trial(study._study_id, template_trial=trial)


def reached(*values: float, epoch: int = 2) -> dict[str, Any]:
    """The attributes of a trial at its first rung."""
    return {"bracket": 1, "rung_values": [{"epoch": epoch, "values": list(values), "excess": 0.0}]}


def drawn(study: optuna.Study, config: StudyConfig, n: int = 40) -> float:
    """The mean of what the sampler draws next."""
    values = []
    for seed in range(n):
        study.sampler = sampler_of(config, seed=seed)
        trial = optuna.Trial(study, study._storage.create_new_trial(study._study_id))
        values.append(trial.suggest_float("x", 0.0, 1.0))
        study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    return sum(values) / n


def test_sampler_learns_from_paused_trials() -> None:
    """Those that have ended are the losers of their rung, around 0.1; the paused ones, around 0.9, are better."""
    config = config_of({"val/accuracy": "maximize"})
    study = optuna.create_study(direction="maximize")
    for index in range(12):
        add(study, 0.1 + 0.005 * index, TrialState.PRUNED, intermediate_values={1: 0.1}, user_attrs=reached(0.1))
        add(study, 0.9 - 0.005 * index, TrialState.WAITING, intermediate_values={1: 0.8}, user_attrs=reached(0.8))
    assert drawn(study, config) > 0.7
    ignorant = config.model_copy(update={"pruner": None})
    assert drawn(study, ignorant) < 0.5


def test_sampler_learns_from_paused_trials_of_several_objectives() -> None:
    config = config_of({"val/accuracy": "maximize", "val/sparsity": "minimize"})
    study = optuna.create_study(directions=["maximize", "minimize"])
    for index in range(12):
        add(study, 0.1 + 0.005 * index, TrialState.PRUNED, user_attrs=reached(0.1, 0.9))
        add(study, 0.9 - 0.005 * index, TrialState.WAITING, user_attrs=reached(0.8, 0.2))
    add(study, 0.85, TrialState.COMPLETE, values=[0.9, 0.1], user_attrs=reached(0.8, 0.2))
    assert drawn(study, config) > 0.7


def test_trials_appear_by_their_place_among_those_that_came_as_far() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    add(study, 0.5, TrialState.WAITING, user_attrs=reached(0.5, 0.5))
    add(study, 0.5, TrialState.WAITING, user_attrs=reached(0.6, 0.4))
    add(study, 0.5, TrialState.COMPLETE, values=[0.9, 0.1], user_attrs=reached(0.8, 0.2))
    add(study, 0.5, TrialState.COMPLETE, values=[0.1, 0.9])
    add(study, 0.5, TrialState.RUNNING)
    seen = samplers._RankedStudy(study)._get_trials()
    assert [trial.state.name for trial in seen] == ["PRUNED", "PRUNED", "COMPLETE", "COMPLETE", "RUNNING"]
    assert [trial.intermediate_values for trial in seen[:2]] == [{1: 1.0}, {1: 0.0}]
    assert [trial.values for trial in seen[2:4]] == [[0.0], [1.0]]
    assert [trial.state.name for trial in study.trials] == ["WAITING", "WAITING", "COMPLETE", "COMPLETE", "RUNNING"]


def config_of(objectives: dict[str, str]) -> StudyConfig:
    space = {"x": {"kind": "float", "low": 0.0, "high": 1.0}}
    return StudyConfig(
        name="hunt", base="hunt", space=space, objectives=objectives, pruner={"name": "halving"},
    )  # type: ignore[arg-type]  # fmt: skip
