"""The space is checked at all its ends, and draws respect conditions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from attnsearch.config.load import LoadedStudy, with_settings
from attnsearch.config.study import StudyConfig
from attnsearch.config.validation import validate
from attnsearch.config.yaml_layers import Layer
from attnsearch.data.tables import DataTables, ImageTable
from attnsearch.errors import ConfigError
from attnsearch.metrics.base import Metric
from attnsearch.metrics.registry import register_metric
from attnsearch.search.space import (
    check_models,
    check_scores,
    enqueue_problems,
    extreme_experiments,
    extreme_settings,
    needed_cache_px,
    score_problems,
    suggest_settings,
)
from attnsearch.testing import temporary_parts
from tests.search.studies import SPACE, loaded_study
from tests.tiny import reid_config


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


N_VAL = 4


@pytest.fixture
def tables() -> DataTables:
    """Validation images with masks, without boxes and points."""
    ids = tuple(f"a/{index}.jpg" for index in range(N_VAL))
    paths = tuple(Path(one) for one in ids)
    table = ImageTable("val", ("a", "b"), ids, paths, np.zeros(N_VAL, dtype=np.int64), mask_paths=paths)
    return DataTables(Path("pictures"), ("a", "b"), table, table, None, "hash")


def study(settings: dict[str, Any] | None = None, **fields: Any) -> LoadedStudy:
    loaded = loaded_study(**fields)
    return replace(loaded, experiment=with_settings(loaded.experiment, settings or {}))


def test_relative_scores_are_fine_as_objectives(tables: DataTables) -> None:
    objectives = {"val/accuracy": "maximize", "val/relevance_gain": "maximize", "val/energy_in_mask": "maximize"}
    assert check_scores(study(objectives=objectives), tables) == []


def test_raw_areas_as_objectives_are_warned_of(tables: DataTables) -> None:
    objectives = {"val/deletion": "minimize", "val/accuracy": "maximize"}
    (warning,) = check_scores(study(objectives=objectives), tables)
    assert "val/deletion compares maps of one model" in warning
    assert "val/relevance_gain" in warning


PARTS = {"evaluation.scores.families": ["parts"]}


def test_removed_parts_as_objectives_are_warned_of_where_training_has_all_of_them(tables: DataTables) -> None:
    objectives = {"val/sd_swap": "maximize", "val/completeness": "maximize"}
    eight = {**PARTS, "data.n_classes": 8}
    (warning,) = check_scores(study(eight, objectives=objectives), tables)
    assert warning.startswith("val/completeness: removes parts")
    assert check_scores(study({**eight, "data.missing_parts": 0.5}, objectives=objectives), tables) == []
    assert check_scores(study(PARTS, objectives={"val/sd_swap": "maximize"}), tables) == []


@pytest.mark.parametrize(
    ("fields", "settings", "said"),
    [
        (
            {"objectives": {"val/sd_swap": "maximize"}},
            {**PARTS, "data": {"name": "folder", "root": "photos"}},
            "val/sd_swap: needs images that can be drawn again with other parts, which this data set does not have",
        ),
        (
            {"objectives": {"val/explainability": "maximize"}},
            {**PARTS, "data.n_classes": 8, "data.n_differing_parts": 1},
            "val/explainability: is undefined with data.n_classes 8 and data.n_differing_parts 1: no pairs",
        ),
        (
            {"objectives": {"val/csdc": "maximize"}},
            {**PARTS, "data.n_classes": 5, "data.n_differing_parts": 4},
            "val/csdc: is undefined with data.n_classes 5 and data.n_differing_parts 4: trivial",
        ),
        ({"objectives": {"train/relevance_gain": "maximize"}}, {}, "train/relevance_gain: .*write val/relevance_gain"),
        ({"objectives": {"val/road": "maximize"}}, {}, "val/road: .*family 'road'"),
        ({"constraints": {"val/energy_in_box": {"at_least": 0.5}}}, {}, "val/energy_in_box: needs boxes"),
        ({}, {"evaluation.scores.n_images": 5}, "n_images: must be at most the 4 validation images .*, got 5"),
        ({}, {"evaluation.scores.n_images": 3, "evaluation.n_images": 2}, "at most the 2 .*, got 3"),
        (
            {"objectives": {"val/gini": "maximize"}},
            {"evaluation.scores.families": ["faithfulness"]},
            "val/gini: .*family 'complexity'",
        ),
        (
            {"space": {"evaluation.scores.n_steps": {"kind": "int", "low": 4, "high": 8}}},
            {},
            r"space\.evaluation\.scores\.n_steps: trials would be measured differently",
        ),
    ],
)
def test_scores_that_no_trial_can_have_are_refused(
    tables: DataTables, fields: dict[str, Any], settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        check_scores(study(settings, **fields), tables)


def test_queries_with_a_match_are_counted_where_maps_of_all_images_are_stored() -> None:
    """Two of the three queries have a match of another camera; two stored images are one of them and its match."""
    ids = tuple(f"{row}.jpg" for row in range(6))
    val = ImageTable(
        "val",
        ("a", "b", "c"),
        ids,
        tuple(map(Path, ids)),
        np.array([0, 1, 2, 0, 1, 2]),
        match_rule="camera",
        camera_names=("1", "2"),
        cameras=np.array([0, 0, 0, 1, 1, 0]),
        is_query=np.arange(6) < 3,
    )
    tables = DataTables(Path("data"), (), val, val, None, "")
    for n_stored, n_queries in ((None, 2), (2, 1)):
        config = reid_config(evaluation={"n_images": n_stored, "scores": {"n_images": n_queries + 1}})
        (problem,) = score_problems(config, tables, ["val/ap_relevance_gain"])
        assert f"at most the {n_queries} validation queries with a match whose maps are stored" in problem
        config = reid_config(evaluation={"n_images": n_stored, "scores": {"n_images": n_queries}})
        assert score_problems(config, tables, ["val/ap_relevance_gain"]) == []


def test_too_many_images_do_not_matter_where_nothing_is_scored(tables: DataTables) -> None:
    settings = {"evaluation.scores.n_images": 5, "evaluation.scores.families": []}
    assert check_scores(study(settings), tables) == []


@pytest.mark.parametrize("block", ["study", "experiment"])
def test_score_is_no_monitor(block: str) -> None:
    if block == "study":
        with pytest.raises(ConfigError, match=r"'val/deletion' is measured of the best checkpoint alone"):
            validate(StudyConfig, Layer({"name": "x", "base": "y", "monitor": "val/deletion"}))
    else:
        with pytest.raises(ConfigError, match=r"'val/gini' is measured of the best checkpoint alone"):
            with_settings(loaded_study().experiment, {"monitor": "val/gini"})


def test_scores_are_no_part_of_what_a_run_is() -> None:
    experiment = loaded_study().experiment
    assert with_settings(experiment, {"evaluation.scores.n_steps": 4}).digest() == experiment.digest()


def test_number_of_images_at_once_changes_no_score() -> None:
    scores = loaded_study().experiment.evaluation.scores
    assert scores.model_copy(update={"batch_images": 2}).digest() == scores.digest()
    assert scores.model_copy(update={"n_steps": 2}).digest() != scores.digest()


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("val/identity_accuracy", "is measured on train alone; known: val/loss, val/mAP, "),
        ("train/mAP", "is measured on val and test alone; known: train/loss, train/identity_accuracy, "),
        ("train/rank10_open", "is measured on val and test alone; known: train/loss, train/identity_accuracy, "),
    ],
)
def test_metric_of_another_split_is_refused(key: str, said: str) -> None:
    limits = [("base", reid_config())]
    check_models(limits, n_classes=2, metrics=["train/identity_accuracy", "train/loss", "val/loss", "val/mAP"])
    with pytest.raises(ConfigError, match=f"^{key}: {said}"):
        check_models(limits, n_classes=2, metrics=[key])


def test_metric_of_another_task_is_refused() -> None:
    with temporary_parts():
        register_metric(Metric("rank1", when="epoch", group="reid", tasks=("reid",), summary="of another task"))
        with pytest.raises(ConfigError, match="val/rank1: is no metric of the task 'classification', but of reid"):
            check_models([("base", loaded_study().experiment)], n_classes=2, metrics=["val/accuracy", "val/rank1"])
