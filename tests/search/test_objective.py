"""What happens between the last epoch of a trial and its end."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta

import attnsearch.search.objective as module
from attnsearch.cli import main
from attnsearch.config.evaluation import VERSION
from attnsearch.config.load import resolved_study, with_settings
from attnsearch.data.loader import open_data
from attnsearch.errors import OutOfMemory
from attnsearch.files import atomic_write
from attnsearch.search.context import Worker
from attnsearch.search.handle import StudyHandle
from attnsearch.search.objective import SETTINGS, attach_images, evaluate_best
from attnsearch.search.queue import claim_next
from attnsearch.search.worker import run_claim, run_worker
from attnsearch.store.image_scores import ScoreTable, read_scores
from tests.search.studies import loaded_study
from tests.tiny import RecordingContext


def test_evaluation_that_runs_out_of_memory_is_a_fault_of_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_evaluation(*arguments: Any, **named: Any) -> Any:
        raise OutOfMemory("CUDA error: out of memory, 7 GB wanted")

    monkeypatch.setattr(module.Evaluation, "open", open_evaluation)
    unused: Any = None
    with pytest.raises(OutOfMemory, match=r"7 GB wanted.*larger train\.accumulation"):
        evaluate_best(loaded_study().experiment, unused, RecordingContext(tmp_path), unused)


class Killed(BaseException):
    """Ends an attempt at once."""


def test_pictures_of_a_killed_attempt_are_replaced_and_not_doubled(
    open_tiny: Callable[..., StudyHandle], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(store: FileSystemArtifactStore, artifact_id: str, content: io.BufferedReader) -> None:
        if content.name.endswith("curves.png"):  # its link is written already
            raise Killed
        write(store, artifact_id, content)

    handle, write = open_tiny(), FileSystemArtifactStore.write
    trial = handle.study.ask()
    atomic_write(handle.layout.trial(0).epochs_csv, "epoch\n1\n")
    monkeypatch.setattr(module, "read_archive", lambda _paths: None)
    monkeypatch.setattr(module, "write_contact_sheet", lambda _archive, _table, path: path.write_text("sheet"))
    monkeypatch.setattr(module, "draw_curves", lambda _epochs, path: path.write_text("curves"))
    data: Any = SimpleNamespace(tables=SimpleNamespace(val=None))
    with monkeypatch.context() as killing:
        killing.setattr(FileSystemArtifactStore, "write", cut_off)
        with pytest.raises(Killed):
            attach_images(handle, trial, data)
    attach_images(handle, trial, data)
    found = get_all_artifact_meta(trial, storage=handle.database.storage)
    assert sorted(meta.filename for meta in found) == ["curves.png", "epochs.csv", "overlays.png"]
    sizes = {meta.filename: (handle.layout.artifacts / meta.artifact_id).stat().st_size for meta in found}
    assert (sizes["curves.png"], sizes["epochs.csv"]) == (6, 8)
    assert len(list(handle.layout.artifacts.iterdir())) == 3


OBJECTIVES = {"val/accuracy": "maximize", "val/relevance_gain": "maximize", "val/sparsity": "minimize"}
Open = Callable[..., StudyHandle]


@pytest.fixture
def searched(open_tiny: Open, monkeypatch: pytest.MonkeyPatch) -> StudyHandle:
    """One real trial of one epoch, with maps of 4 x 4 cells, whose gains count though it has learned little."""
    monkeypatch.setattr("attnsearch.metrics.gains.LEAST_MEAN_DROP", 1e-9)
    handle = open_tiny(objectives=OBJECTIVES, n_trials=1, constraints={"val/gini": {"at_least": 2.0}})
    settings = {"train.epochs": 1, "model.stride_stage3": 1, "model.stride_stage4": 1, "runtime.n_threads": 1}
    experiment = with_settings(handle.loaded.experiment, {**settings, "evaluation.scores.n_steps": 4})
    object.__setattr__(handle.loaded, "experiment", experiment)
    run_worker(handle, Worker("here:1:a", None), open_data(handle.loaded.experiment.data))
    return handle


def test_image_that_cannot_be_drawn_costs_no_trial(
    open_tiny: Callable[..., StudyHandle], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    handle = open_tiny()
    trial = handle.study.ask()
    atomic_write(handle.layout.trial(0).epochs_csv, "epoch\n1\n")
    monkeypatch.setattr(module, "read_archive", lambda _paths: None)
    monkeypatch.setattr(module, "write_contact_sheet", lambda _archive, _table, path: path.write_text("sheet"))
    attach_images(handle, trial, SimpleNamespace(tables=SimpleNamespace(val=None)))  # type: ignore[arg-type]
    attached = get_all_artifact_meta(trial, storage=handle.database.storage)
    assert {meta.filename for meta in attached} == {"overlays.png", "epochs.csv"}
    assert "cannot be drawn" in caplog.text


def test_scores_go_where_the_accuracy_goes(searched: StudyHandle) -> None:
    (trial,) = searched.trials()
    assert trial.state.name == "COMPLETE", trial.user_attrs
    table = read_scores(searched.layout.trial(0).scores("val"))
    means = table.means()
    assert trial.values[1] == means["relevance_gain"] == trial.user_attrs["val/relevance_gain"]
    assert trial.constraints == {"val/gini": 2.0 - means["gini"]}
    epochs = searched.store.read_epochs()
    assert epochs.loc[0, "val/relevance_gain"] == means["relevance_gain"]
    assert epochs.loc[0, "val/sparsity"] == trial.values[2]  # of all images, as each epoch measures it
    rows = searched.store.read_scores().set_index("metric")
    assert rows.loc["relevance_gain", "value"] == means["relevance_gain"]
    about = trial.user_attrs[SETTINGS]
    assert (about["version"], about["grid"], about["n_images"]) == (table.about["version"], [4, 4], 4)
    assert about["settings"]["n_steps"] == 4


@pytest.mark.slow
def test_score_that_no_image_has_fails_no_trial(
    open_tiny: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A fill that takes no evidence away, whatever the model, leaves the gains undefined."""
    monkeypatch.setattr("attnsearch.metrics.gains.LEAST_MEAN_DROP", 2.0)
    handle = open_tiny(objectives=OBJECTIVES, n_trials=1, constraints={"val/decision_gain": {"at_least": 0.1}})
    settings = {"train.epochs": 1, "model.stride_stage3": 1, "model.stride_stage4": 1, "runtime.n_threads": 1}
    experiment = with_settings(handle.loaded.experiment, {**settings, "evaluation.scores.n_steps": 4})
    object.__setattr__(handle.loaded, "experiment", experiment)
    run_worker(handle, Worker("here:1:a", None), open_data(handle.loaded.experiment.data))
    (trial,) = handle.trials()
    assert trial.state.name == "COMPLETE", trial.user_attrs
    assert trial.values[1] == trial.user_attrs["val/relevance_gain"] == 0.0
    assert trial.constraints == {"val/decision_gain": 0.1}
    assert trial.user_attrs[SETTINGS]["n_undefined"] == {"relevance_gain": 4, "decision_gain": 4}
    assert "relevance_gain is undefined and counts as 0; the fill changes nothing: the mean drop is" in caplog.text
    rows = handle.store.read_scores().set_index("metric")
    assert rows.loc["relevance_gain", "n_undefined"] == 4
    assert math.isnan(rows.loc["relevance_gain", "value"])


@pytest.mark.slow
def test_full_measure_stands_beside_that_of_the_search(
    searched: StudyHandle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    searched.layout.study_yaml.write_text(resolved_study(searched.loaded))
    words = ["faithfulness", str(searched.layout.study_dir), "--trial", "0", "n_steps=8", "families=[complexity,road]"]
    assert main(words) == 0, capsys.readouterr().err
    rows = searched.store.read_scores()
    assert len(set(rows["digest"])) == 2
    assert len(rows[rows["metric"] == "gini"]) == 2
    assert len(rows[rows["metric"] == "road"]) == 1
    assert "val/road" not in searched.trials()[0].user_attrs  # what the search saw stays what it was
    assert "val/road" not in searched.store.read_epochs()


@pytest.mark.slow
def test_killed_scoring_goes_on_without_training_again(open_tiny: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first attempt dies after the archive; the second one trains no epoch and scores."""
    handle = open_tiny(n_trials=1)
    settings = {"train.epochs": 1, "model.stride_stage3": 1, "model.stride_stage4": 1, "runtime.n_threads": 1}
    object.__setattr__(handle.loaded, "experiment", with_settings(handle.loaded.experiment, settings))
    worker = Worker("here:1:a", None)

    def stop(*arguments: object, **named: object) -> ScoreTable:
        worker.stop.set()
        named["check"]()  # type: ignore[operator]
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr("attnsearch.evaluation.evaluation.Evaluation.score", stop)
        claim = claim_next(handle, worker)
        assert not isinstance(claim, str)
        run_claim(handle, worker, claim, open_data(handle.loaded.experiment.data))
    assert handle.trials()[0].state.name == "WAITING"
    run_worker(handle, Worker("here:2:b", None), open_data(handle.loaded.experiment.data))
    assert handle.trials()[0].state.name == "COMPLETE"
    assert read_scores(handle.layout.trial(0).scores("val")).about["version"] == VERSION


def test_nothing_is_scored_where_nothing_is_asked_for(tmp_path: Path) -> None:
    from attnsearch.search.objective import score_trial
    from attnsearch.store.trial_layout import TrialLayout

    config = with_settings(loaded_study().experiment, {"evaluation.scores.families": []})
    evaluation: Any = SimpleNamespace(config=config)  # it is asked for nothing else
    assert score_trial(evaluation, TrialLayout(tmp_path), check=lambda: None) == {}
