"""What of a study is published, and which of its files may go."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import attnsearch.search.publish as module
from attnsearch.config.load import with_settings
from attnsearch.files import atomic_write
from attnsearch.search.handle import StudyHandle
from attnsearch.search.plan import study_file
from attnsearch.search.publish import TrialToPublish, publish_study, removable
from attnsearch.store.layout import StudyLayout
from attnsearch.store.manifest import FORMAT
from tests.search.studies import loaded_study

Open = Callable[..., StudyHandle]


def test_files_of_a_published_trial_stay_when_a_better_one_is_not_published_yet(open_tiny: Open) -> None:
    handle = open_tiny(retention={"best_k": 1})
    for accuracy in (0.5, 0.4, 0.9):
        trial = handle.study.ask()
        handle.study.tell(trial, accuracy)
        atomic_write(handle.layout.trial(trial.number).best, "weights")
    sets = [{"trial": 0, "epoch": 2, "folder": "."}]
    atomic_write(handle.layout.published_json, json.dumps({"format": FORMAT, "sets": sets, "files": []}))
    assert [file.number for file in removable(handle)] == [1]


def test_a_trial_that_teaches_another_study_stays(open_tiny: Open) -> None:
    handle = open_tiny(retention={"best_k": 1})
    for accuracy in (0.5, 0.4, 0.9):
        trial = handle.study.ask()
        handle.study.tell(trial, accuracy)
        atomic_write(handle.layout.trial(trial.number).best, "weights")
    assert [file.number for file in removable(handle)] == [0, 1]
    student = loaded_study(name="student")
    taught = with_settings(student.experiment, {"train.teacher": {"checkpoint": str(handle.layout.trial(1).best)}})
    layout = StudyLayout(handle.layout.root, handle.layout.experiment, "student")
    atomic_write(layout.study_yaml, study_file(replace(student, experiment=taught)))
    assert [file.number for file in removable(handle)] == [0]


def test_trial_of_the_flat_files_and_of_the_front_is_looked_at_once(
    open_tiny: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = open_tiny(objectives={"val/accuracy": "maximize", "val/sparsity": "minimize"})
    for accuracy, sparsity in ((0.9, 0.5), (0.4, 0.1)):
        trial = handle.study.ask()
        trial.set_user_attr("best_epoch", 2)
        trial.set_user_attr("val/accuracy", accuracy)
        handle.study.tell(trial, [accuracy, sparsity])
    looked_at: list[int] = []

    def publish_trial(layout: StudyLayout, chosen: TrialToPublish, data: object) -> list[Path]:
        looked_at.append(chosen.number)
        path = chosen.target.model_csv("test")
        atomic_write(path, f"trial {chosen.number}")
        return [path]

    monkeypatch.setattr(module, "publish_trial", publish_trial)
    unused: Any = None
    publish_study(handle, unused)
    assert looked_at == [0, 1]
    layout = handle.layout
    sets = [layout.published(2), layout.pareto(0, 2), layout.pareto(1, 2)]
    assert [one.model_csv("test").read_text() for one in sets] == ["trial 0", "trial 0", "trial 1"]
    assert len(json.loads(layout.published_json.read_text())["files"]) == 3
