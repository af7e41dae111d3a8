"""The space is checked at all its ends, and draws respect conditions."""

from __future__ import annotations

import optuna
import pytest

from attnsearch.errors import ConfigError
from attnsearch.search.space import (
    enqueue_problems,
    extreme_experiments,
    extreme_settings,
    needed_cache_px,
    suggest_settings,
)
from tests.search.studies import SPACE, loaded_study


def test_conditional_axis_is_drawn_only_under_its_condition() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space = loaded_study().study.space
    drawn = [suggest_settings(study.ask(), space) for _ in range(20)]
    names = {settings["train.optimizer.name"] for settings in drawn}
    assert names == {"adam", "sgd"}
    assert all(
        ("train.optimizer.momentum" in settings) == (settings["train.optimizer.name"] == "sgd") for settings in drawn
    )


def test_every_end_and_choice_is_a_corner() -> None:
    descriptions = [description for description, _ in extreme_experiments(loaded_study())]
    assert descriptions == [
        "base",
        "train.optimizer.name = 'adam'",
        "train.optimizer.name = 'sgd'",
        "train.optimizer.momentum = 0.0",
        "train.optimizer.momentum = 0.9",
        "train.optimizer.lr = 0.0001",
        "train.optimizer.lr = 0.01",
    ]


def test_conditional_corner_brings_its_condition() -> None:
    extreme_settings = dict(extreme_experiments(loaded_study()))
    optimizer = extreme_settings["train.optimizer.momentum = 0.9"].train.optimizer
    assert (optimizer.name, optimizer.momentum) == ("sgd", 0.9)


def test_corners_that_do_not_fit_are_all_reported() -> None:
    space = {
        "model.n_vectors": {"kind": "int", "low": 0, "high": 3},
        "train.epochs": {"kind": "int", "low": -2, "high": 1},
    }
    with pytest.raises(ConfigError) as caught:
        extreme_experiments(loaded_study(space=space))
    first, second = str(caught.value).splitlines()
    assert "model.n_vectors = 0" in first
    assert "got 0" in first
    assert "train.epochs = -2" in second
    assert "got -2" in second


def test_axis_that_no_setting_reads_is_reported() -> None:
    with pytest.raises(ConfigError, match=r"model\.n_vektors.*did you mean 'n_vectors'"):
        extreme_experiments(loaded_study(space={"model.n_vektors": {"kind": "int", "low": 1, "high": 3}}))


@pytest.mark.parametrize(
    ("key", "value"), [("train.optimizer.lr", 0.5), ("train.optimizer.name", "lion"), ("train.optimizer.lr", "x")]
)
def test_enqueued_value_outside_its_axis_is_reported(key: str, value: object) -> None:
    (fault,) = enqueue_problems(loaded_study(enqueue=[{key: value}]).study)
    assert f"enqueue[0].{key}" in fault
    assert repr(value) in fault


def test_cache_serves_the_range_limits_together() -> None:
    space = {
        "data.image_size_px": {"kind": "int", "low": 32, "high": 64},
        "data.crop_ratio": {"kind": "float", "low": 0.8, "high": 1.0},
    }
    loaded = loaded_study(space={**SPACE, **space})
    assert needed_cache_px(loaded.study.space, extreme_experiments(loaded)) == 80  # int(64 / 0.8)


def test_conditions_upon_conditions_are_followed_once_each() -> None:
    """Every axis depends on all above it: the ways through them are 2 ** 40."""
    keys = [f"space_{index}" for index in range(40)]
    space = {
        key: {"kind": "choice", "choices": [1, 2], "when": {above: [2] for above in keys[:index]}}
        for index, key in enumerate(keys)
    }
    found = dict(extreme_settings(loaded_study(space=space).study.space))
    assert found["space_39 = 1"] == {**dict.fromkeys(keys[:39], 2), "space_39": 1}
