"""What of a study is published, and which of its files may go."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import attnsearch.search.publish as module
from attnsearch.config.load import with_settings
from attnsearch.errors import StoreError
from attnsearch.files import atomic_write
from attnsearch.search.handle import StudyHandle
from attnsearch.search.plan import study_file
from attnsearch.search.publish import TrialToPublish, publish, publish_study, removable
from attnsearch.store.layout import StudyLayout
from attnsearch.store.study_files import MANIFEST_FORMAT
from attnsearch.testing.stores import MemoryTrialStore
from tests.search.studies import HALVING, loaded_study, play_leg

Open = Callable[..., StudyHandle]


def test_files_of_a_published_trial_stay_when_a_better_one_is_not_published_yet(open_tiny: Open) -> None:
    handle = open_tiny(retention={"best_k": 1})
    for accuracy in (0.5, 0.4, 0.9):
        trial = handle.study.ask()
        handle.study.tell(trial, accuracy)
        atomic_write(handle.layout.trial(trial.number).best, "weights")
    sets = [{"trial": 0, "epoch": 2, "folder": "."}]
    atomic_write(handle.layout.published_json, json.dumps({"format": MANIFEST_FORMAT, "sets": sets, "files": []}))
    assert [file.number for file in removable(handle)] == [1]


def test_paused_trials_keep_all_their_files_and_pruned_ones_lose_their_resume_checkpoint(open_tiny: Open) -> None:
    handle = open_tiny(retention={"best_k": 1}, n_trials=8, **HALVING)
    for accuracy in (0.5, 0.75, 0.25, 0.8, 0.875, 0.9, 0.125):
        play_leg(handle, {"val/accuracy": accuracy})
    trials = handle.trials()
    assert [trial.state.name for trial in trials] == ["PRUNED", "COMPLETE", "PRUNED", "COMPLETE", "WAITING"]
    assert [bool(handle.layout.trial(trial.number).resumes()) for trial in trials] == [False] * 4 + [True]
    assert {file.number for file in removable(handle)} == {0, 1, 2}  # 3 is the best one, 4 is paused


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
    publish_study(handle, UNUSED)
    assert looked_at == [0, 1]
    layout = handle.layout
    sets = [layout.published(2), layout.pareto(0, 2), layout.pareto(1, 2)]
    assert [one.model_csv("test").read_text() for one in sets] == ["trial 0", "trial 0", "trial 1"]
    assert len(json.loads(layout.published_json.read_text())["files"]) == 3


UNUSED: Any = SimpleNamespace(tables=SimpleNamespace(test=None))
"""Data without a test split."""


class Killed(BaseException):
    """Ends an attempt at once."""


@pytest.fixture
def layout(tmp_path: Path) -> StudyLayout:
    return StudyLayout(tmp_path, "here", "hunt")


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replaces the evaluation of a trial by two small files; the numbers of those that were evaluated."""
    numbers: list[int] = []

    def publish_trial(_layout: StudyLayout, one: TrialToPublish, _data: object) -> list[Path]:
        numbers.append(one.number)
        paths = [one.target.model_csv("test"), one.target.archive("test").images]
        for path in paths:
            atomic_write(path, f"trial {one.number}")
        return paths

    monkeypatch.setattr(module, "publish_trial", publish_trial)
    return numbers


def chosen(layout: StudyLayout, number: int, epoch: int = 2) -> list[TrialToPublish]:
    """The flat set and one on the front, of the same trial."""
    targets = (layout.published(epoch), layout.pareto(number, epoch))
    return [TrialToPublish(number, epoch, layout.trial(number), target) for target in targets]


def published(layout: StudyLayout) -> dict[str, str]:
    """Name -> content of all published files; fails where the manifest names others."""
    found = {path.relative_to(layout.experiment_dir).as_posix(): path.read_text() for path in layout.published_files()}
    assert sorted(json.loads(layout.published_json.read_text())["files"]) == sorted(found)
    assert not layout.staging.exists()
    return found


@pytest.mark.parametrize("epoch", [2, 3])
def test_an_old_publication_is_replaced_whole(layout: StudyLayout, evaluated: list[int], epoch: int) -> None:
    publish(layout, chosen(layout, 0), UNUSED, log=MemoryTrialStore())
    publish(layout, chosen(layout, 1, epoch), UNUSED, log=MemoryTrialStore())
    assert evaluated == [0, 1]
    names = (f"modelhunt_epoch{epoch}_test.csv", f"imageshunt_epoch{epoch}_test.csv")
    expected = {*names, *(f"hunt/pareto/00001/{name}" for name in names)}
    assert published(layout) == dict.fromkeys(expected, "trial 1")


def test_an_old_publication_stays_while_the_new_one_fails(
    layout: StudyLayout, evaluated: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(layout, chosen(layout, 0), UNUSED, log=MemoryTrialStore())
    before, make = published(layout), module.publish_trial

    def fail(*arguments: Any) -> list[Path]:
        make(*arguments)
        raise StoreError("the disk is full")

    monkeypatch.setattr(module, "publish_trial", fail)
    with pytest.raises(StoreError, match="full"):
        publish(layout, chosen(layout, 1), UNUSED, log=MemoryTrialStore())
    assert {path.relative_to(layout.experiment_dir).as_posix() for path in layout.published_files()} == set(before)
    publish(layout, chosen(layout, 0), UNUSED, log=MemoryTrialStore())
    assert published(layout) == before
    assert evaluated == [0, 1]


@pytest.mark.parametrize("n_moved", range(4))
def test_a_publication_that_is_cut_off_is_finished_without_another_look(
    layout: StudyLayout, evaluated: list[int], monkeypatch: pytest.MonkeyPatch, n_moved: int
) -> None:
    def replace_some(source: Any, target: Any) -> None:
        if layout.staging in Path(source).parents and Path(source).suffix != ".tmp":
            moved.append(Path(target))
            if len(moved) > n_moved:
                raise Killed
        replace(source, target)

    publish(layout, chosen(layout, 0), UNUSED, log=MemoryTrialStore())
    moved: list[Path] = []
    replace = os.replace
    with monkeypatch.context() as killing:
        killing.setattr(os, "replace", replace_some)
        with pytest.raises(Killed):
            publish(layout, chosen(layout, 1), UNUSED, log=MemoryTrialStore())
    assert not layout.published_json.exists()
    publish(layout, chosen(layout, 1), UNUSED, log=MemoryTrialStore())
    assert evaluated == [0, 1]
    assert set(published(layout).values()) == {"trial 1"}
    assert len(published(layout)) == 4


def test_a_made_publication_of_another_trial_is_made_again(
    layout: StudyLayout, evaluated: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(*_: Any) -> Path:
        raise Killed

    with monkeypatch.context() as killing:
        killing.setattr(module, "put_in_place", cut_off)
        with pytest.raises(Killed):
            publish(layout, chosen(layout, 0), UNUSED, log=MemoryTrialStore())
    publish(layout, chosen(layout, 1), UNUSED, log=MemoryTrialStore())
    assert evaluated == [0, 1]
    assert set(published(layout).values()) == {"trial 1"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sets": 1}'])
def test_a_damaged_manifest_of_made_files_counts_as_none(layout: StudyLayout, evaluated: list[int], text: str) -> None:
    atomic_write(layout.staged_json, text)
    publish(layout, chosen(layout, 0), UNUSED, log=MemoryTrialStore())
    assert evaluated == [0]
    assert len(published(layout)) == 4
