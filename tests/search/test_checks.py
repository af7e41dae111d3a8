"""What a study may ask of the saliency's scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnsearch.config.load import LoadedStudy, with_settings
from attnsearch.config.study import StudyConfig
from attnsearch.config.validation import validate
from attnsearch.config.yaml_layers import Layer
from attnsearch.data.tables import DataTables, ImageTable
from attnsearch.errors import ConfigError
from attnsearch.metrics.registry import Metric, register_metric
from attnsearch.search.checks import check_models, check_scores
from attnsearch.testing import temporary_parts
from tests.search.studies import loaded_study

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


@pytest.mark.parametrize(
    ("fields", "settings", "said"),
    [
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


def test_metric_of_another_task_is_refused() -> None:
    with temporary_parts():
        register_metric(Metric("rank1", when="epoch", group="reid", tasks=("reid",), summary="of another task"))
        with pytest.raises(ConfigError, match="val/rank1: is no metric of the task 'classification', but of reid"):
            check_models([("base", loaded_study().experiment)], n_classes=2, metrics=["val/accuracy", "val/rank1"])
