"""A checkpoint that is named by its study is the kept one of that study's best trial."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from attnsearch.config.load import with_settings
from attnsearch.errors import ConfigError, StoreError
from attnsearch.files import atomic_write
from attnsearch.search.checkpoints import resolve_checkpoints, resolve_checkpoints_of
from attnsearch.search.handle import StudyHandle, layout_of, storage_url
from attnsearch.search.run import check_study, study_file
from attnsearch.search.single import run_single
from attnsearch.store.database import checkpoint_wal
from attnsearch.store.urls import sqlite_url
from tests.search.studies import loaded_study

Open = Callable[..., StudyHandle]


STUDENT = with_settings(loaded_study().experiment, {"train.teacher": {"checkpoint": "study:hunt"}})


@pytest.fixture
def taught(open_tiny: Open) -> StudyHandle:
    """The study of the teachers, without trials."""
    session = open_tiny()
    atomic_write(session.layout.study_yaml, study_file(session.loaded))
    return session


def finish(session: StudyHandle, accuracy: float, *, has_weights: bool = True) -> Path:
    trial = session.study.ask()
    session.study.tell(trial, accuracy)
    kept = session.layout.trial(trial.number).kept
    if has_weights:
        atomic_write(kept, "weights")
    return kept


def test_best_trial_of_the_study_teaches(taught: StudyHandle, tmp_path: Path) -> None:
    finish(taught, 0.5)
    best = finish(taught, 0.9)
    finish(taught, 0.7)
    found = resolve_checkpoints(STUDENT, root=tmp_path).train.teacher
    assert found is not None
    assert found.checkpoint == str(best)


def test_teacher_is_sought_where_the_search_keeps_its_trials_whatever_its_study_names(
    taught: StudyHandle, tmp_path: Path
) -> None:
    best = finish(taught, 0.9)
    yaml = taught.layout.study_yaml
    yaml.write_text(yaml.read_text().replace("storage: null", "storage: postgresql://$HOME@127.0.0.1:1/x"))
    student = replace(loaded_study(name="student"), experiment=STUDENT)
    found = resolve_checkpoints_of(student, root=tmp_path).experiment.train.teacher
    assert found is not None
    assert found.checkpoint == str(best)
    checkpoint_wal(taught.database.url)
    moved = Path(shutil.copy(taught.layout.database, tmp_path / "moved.db"))
    taught.layout.database.unlink()
    with pytest.raises(StoreError, match="keeps its trials in another database"):
        resolve_checkpoints_of(student, root=tmp_path)
    said = replace(student, study=student.study.model_copy(update={"storage": sqlite_url(moved)}))
    assert resolve_checkpoints_of(said, root=tmp_path).experiment.train.teacher == found


def test_backbone_of_the_best_trial_is_found(taught: StudyHandle, tmp_path: Path) -> None:
    best = finish(taught, 0.9)
    experiment = with_settings(loaded_study().experiment, {"model.weights": "study:hunt"})
    assert resolve_checkpoints(experiment, root=tmp_path).model.weights == str(best)


def test_path_of_a_checkpoint_stays(tmp_path: Path) -> None:
    experiment = with_settings(STUDENT, {"train.teacher.checkpoint": "kept.safetensors"})
    assert resolve_checkpoints(experiment, root=tmp_path) is experiment


def test_teacher_of_an_unknown_study_is_refused_with_the_known_ones(taught: StudyHandle, tmp_path: Path) -> None:
    experiment = with_settings(STUDENT, {"train.teacher.checkpoint": "study:hant"})
    with pytest.raises(ConfigError, match=r"train\.teacher\.checkpoint: no study 'hant' in .*here; known: hunt"):
        resolve_checkpoints(experiment, root=tmp_path)


def test_study_without_a_complete_trial_teaches_nobody(taught: StudyHandle, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="study 'hunt' has no complete trial"):
        resolve_checkpoints(STUDENT, root=tmp_path)


def test_teacher_without_weights_is_refused_with_its_file(taught: StudyHandle, tmp_path: Path) -> None:
    kept = finish(taught, 0.5, has_weights=False)
    with pytest.raises(ConfigError, match=f"{kept} of the best trial of study 'hunt' is gone"):
        resolve_checkpoints(STUDENT, root=tmp_path)


def test_axis_that_names_a_study_is_refused(tmp_path: Path) -> None:
    axis = {"kind": "choice", "choices": ["a.safetensors", "study:hunt"]}
    loaded = replace(loaded_study(space={"train.teacher.checkpoint": axis}), experiment=STUDENT)
    with pytest.raises(ConfigError, match=r"paths of files, got 'study:hunt'"):
        resolve_checkpoints_of(loaded, root=tmp_path)


def test_missing_teacher_is_found_before_a_search_writes(tmp_path: Path) -> None:
    loaded = replace(loaded_study(name="student"), experiment=STUDENT)
    layout = layout_of(loaded, root=tmp_path)
    with pytest.raises(ConfigError, match="no study 'hunt'"):
        check_study(loaded, layout, storage_url(loaded, layout))
    assert list(tmp_path.iterdir()) == []


def test_missing_teacher_is_found_before_a_run_writes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no study 'hunt'"):
        run_single(STUDENT, root=tmp_path)
    assert list(tmp_path.iterdir()) == []
