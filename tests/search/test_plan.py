"""A start is checked once; a checkpoint that is named by its study is the best one of that study's best trial."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import LoadedStudy, load_study, study_of_one, with_settings
from attnsearch.config.validation import Problems
from attnsearch.config.yaml_layers import to_yaml
from attnsearch.data.tables import build_tables
from attnsearch.errors import ConfigError, DataError, StoreError
from attnsearch.files import atomic_write
from attnsearch.models import build_model
from attnsearch.search.handle import StudyHandle
from attnsearch.search.plan import SearchPlan, find_checkpoints, layout_of, study_file
from attnsearch.search.space import extreme_experiments
from attnsearch.search.trials import read_storage
from attnsearch.store.creation import create_database
from attnsearch.store.database import checkpoint_wal
from attnsearch.store.inspection import inspect_database
from attnsearch.store.urls import sqlite_path, sqlite_url, url_named
from tests.conftest import TINY
from tests.counting import counted_calls
from tests.search.studies import loaded_study
from tests.tiny import reid_config

Open = Callable[..., StudyHandle]
STUDENT = with_settings(loaded_study().experiment, {"train.teacher": {"checkpoint": "study:hunt"}})


def student(experiment: ExperimentConfig = STUDENT) -> LoadedStudy:
    return replace(loaded_study(name="student"), experiment=experiment)


def resolved(loaded: LoadedStudy, root: Path) -> ExperimentConfig:
    """The experiment with its checkpoints found, in the database of the study where there is one."""
    layout = layout_of(loaded, root)
    url = url_named(loaded.study.storage, layout)
    path = sqlite_path(url)
    storage = read_storage(url) if path is not None and path.exists() else None
    return find_checkpoints(loaded, layout, storage).experiment


@pytest.fixture
def taught(open_tiny: Open) -> StudyHandle:
    """The study of the teachers, without trials."""
    handle = open_tiny()
    atomic_write(handle.layout.study_yaml, study_file(handle.loaded))
    return handle


def finish(handle: StudyHandle, accuracy: float, *, has_weights: bool = True) -> Path:
    trial = handle.study.ask()
    handle.study.tell(trial, accuracy)
    checkpoint = handle.layout.trial(trial.number).best
    if has_weights:
        atomic_write(checkpoint, "weights")
    return checkpoint


def test_start_does_each_step_once(tmp_path: Path) -> None:
    """The settings are validated once, and once for each range limit: the two ends of the learning rate."""
    steps = {
        "settings": Problems.check,
        "listing": build_tables,
        "inspection": inspect_database,
        "database": create_database,
        "limits": extreme_experiments,
        "model": build_model,
    }

    def is_of_experiment(name: str, frame: FrameType) -> bool:
        return name != "settings" or frame.f_locals["model"] is ExperimentConfig

    with counted_calls(steps, only=is_of_experiment) as counts:
        plan = SearchPlan.check(load_study("br_npa_low_res", profile="demo", overrides=TINY), tmp_path)
        plan.open_data()
        handle = plan.open()
    handle.database.close()
    assert counts == {"settings": 1 + 2, "listing": 1, "inspection": 1, "database": 1, "limits": 1, "model": 1}


def test_check_writes_nothing_and_a_worker_finds_the_same_study(tmp_path: Path) -> None:
    plan = SearchPlan.check(loaded_study(), tmp_path)
    assert list(tmp_path.iterdir()) == []
    plan.open().database.close()
    atomic_write(plan.layout.study_yaml, study_file(plan.loaded))
    reopened = SearchPlan.reopen(plan.layout.study_yaml, storage=None)
    assert (reopened.experiment, reopened.url, reopened.identity) == (plan.experiment, plan.url, plan.identity)
    reopened.join().database.close()


@pytest.mark.parametrize(
    ("settings", "space", "said"),
    [
        ({"train.batch_size": 20}, {}, "batch_size 20 with task.images_per_identity 2 needs 10"),
        ({}, {"train.batch_size": {"kind": "choice", "choices": [8, 24]}}, "batch_size 24 with .*_identity 2 needs 12"),
        (
            {"train.batch_size": 24, "task.images_per_identity": 4},
            {"task.images_per_identity": {"kind": "choice", "choices": [4, 2, 6]}},
            "batch_size 24 with .*_identity 2 needs 12",
        ),
    ],
)
def test_too_few_identities_for_a_batch_are_found_before_anything_is_written(
    tmp_path: Path, settings: dict[str, Any], space: dict[str, Any], said: str
) -> None:
    loaded = loaded_study(space=space, objectives={"val/mAP": "maximize"}, monitor="val/mAP")
    loaded = replace(loaded, experiment=with_settings(reid_config(), settings))
    with pytest.raises(DataError, match=f"{said} identities in each batch, and train has 8; set train.batch_size=16"):
        SearchPlan.check(loaded, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_worker_of_other_settings_is_refused(tmp_path: Path) -> None:
    plan = SearchPlan.check(loaded_study(), tmp_path)
    plan.open().database.close()
    changed = with_settings(plan.experiment, {"train.epochs": 9})
    atomic_write(plan.layout.study_yaml, study_file(replace(plan.loaded, experiment=changed)))
    with pytest.raises(ConfigError, match=r"train\.epochs: was 2, is 9"):
        SearchPlan.reopen(plan.layout.study_yaml, storage=None).join()


def test_folder_of_the_same_training_is_adopted_and_of_another_one_refused(tmp_path: Path) -> None:
    """Version 0.1 kept a training without a study: its folder has the config of trial 0 and no `study.yaml`."""
    loaded = study_of_one(loaded_study().experiment)
    config = layout_of(loaded, tmp_path).trial(0).config
    atomic_write(config, to_yaml(loaded.experiment.model_dump(mode="json")))
    assert SearchPlan.check(loaded, tmp_path).experiment == loaded.experiment
    with pytest.raises(ConfigError, match=r"started with other settings(.|\n)*train\.epochs: was 2, is 9"):
        SearchPlan.check(study_of_one(with_settings(loaded.experiment, {"train.epochs": 9})), tmp_path)


def test_best_trial_of_the_study_teaches(taught: StudyHandle, tmp_path: Path) -> None:
    finish(taught, 0.5)
    best = finish(taught, 0.9)
    finish(taught, 0.7)
    teacher = resolved(student(), tmp_path).train.teacher
    assert teacher is not None
    assert teacher.checkpoint == str(best)


def test_teacher_is_sought_where_the_search_keeps_its_trials_whatever_its_study_names(
    taught: StudyHandle, tmp_path: Path
) -> None:
    best = finish(taught, 0.9)
    yaml = taught.layout.study_yaml
    yaml.write_text(yaml.read_text().replace("storage: null", "storage: postgresql://$HOME@127.0.0.1:1/x"))
    teacher = resolved(student(), tmp_path).train.teacher
    assert teacher is not None
    assert teacher.checkpoint == str(best)
    checkpoint_wal(taught.database.url)
    moved = Path(shutil.copy(taught.layout.database, tmp_path / "moved.db"))
    taught.layout.database.unlink()
    with pytest.raises(StoreError, match="keeps its trials in another database"):
        resolved(student(), tmp_path)
    named = replace(student(), study=student().study.model_copy(update={"storage": sqlite_url(moved)}))
    assert resolved(named, tmp_path).train.teacher == teacher


def test_backbone_of_the_best_trial_is_found(taught: StudyHandle, tmp_path: Path) -> None:
    best = finish(taught, 0.9)
    experiment = with_settings(loaded_study().experiment, {"model.weights": "study:hunt"})
    assert resolved(student(experiment), tmp_path).model.weights == str(best)


def test_path_of_a_checkpoint_stays(tmp_path: Path) -> None:
    experiment = with_settings(STUDENT, {"train.teacher.checkpoint": "best.safetensors"})
    assert resolved(student(experiment), tmp_path) is experiment


def test_teacher_of_an_unknown_study_is_refused_with_the_known_ones(taught: StudyHandle, tmp_path: Path) -> None:
    experiment = with_settings(STUDENT, {"train.teacher.checkpoint": "study:hant"})
    with pytest.raises(ConfigError, match=r"train\.teacher\.checkpoint: no study 'hant' in .*here; known: hunt"):
        resolved(student(experiment), tmp_path)


def test_study_without_a_complete_trial_teaches_nobody(taught: StudyHandle, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="study 'hunt' has no complete trial"):
        resolved(student(), tmp_path)


def test_teacher_without_weights_is_refused_with_its_file(taught: StudyHandle, tmp_path: Path) -> None:
    checkpoint = finish(taught, 0.5, has_weights=False)
    with pytest.raises(ConfigError, match=f"{checkpoint} of the best trial of study 'hunt' is gone"):
        resolved(student(), tmp_path)


def test_hyperparameter_that_names_a_study_is_refused(tmp_path: Path) -> None:
    choices = {"kind": "choice", "choices": ["a.safetensors", "study:hunt"]}
    loaded = replace(loaded_study(space={"train.teacher.checkpoint": choices}), experiment=STUDENT)
    with pytest.raises(ConfigError, match=r"paths of files, got 'study:hunt'"):
        resolved(loaded, tmp_path)


@pytest.mark.parametrize("loaded", [student(), study_of_one(STUDENT)], ids=["search", "train"])
def test_missing_teacher_is_found_before_anything_is_written(loaded: LoadedStudy, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no study 'hunt'"):
        SearchPlan.check(loaded, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_is_not_taken_from_a_study_of_another_experiment(taught: StudyHandle, tmp_path: Path) -> None:
    finish(taught, 0.9)
    loaded = with_settings(taught.loaded.experiment, {"experiment": "there"})
    other = replace(taught.loaded, experiment=loaded)
    atomic_write(layout_of(other, tmp_path).study_yaml, study_file(other))
    pupil = student(with_settings(STUDENT, {"experiment": "there"}))
    storage = read_storage(taught.database.url)
    with pytest.raises(StoreError, match="belongs to the experiment 'here', not to 'there'"):
        find_checkpoints(pupil, layout_of(pupil, tmp_path), storage)
