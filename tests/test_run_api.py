"""Searches and trainings that are started from Python."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import attnsearch as at
from attnsearch.api import _assignments
from attnsearch.config.yaml_reader import read_overrides
from attnsearch.errors import ConfigError, DataError
from attnsearch.training import trainer
from tests.conftest import TINY

NUMBERS = {**read_overrides(TINY).values, "train.epochs": 1}


def test_training_is_a_study_of_one_trial_that_is_not_trained_again(tmp_path: Path) -> None:
    trial = at.run_training("br_npa_low_res", profile="demo", overrides=NUMBERS, results=tmp_path)
    assert (trial.number, trial.state, trial.config.train.epochs) == (0, "complete", 1)
    assert len(trial.epochs) == 1
    before = trial.checkpoint.stat().st_mtime_ns
    again = at.run_training("br_npa_low_res", profile="demo", overrides=NUMBERS, results=tmp_path)
    assert again.checkpoint.stat().st_mtime_ns == before


@pytest.mark.slow
def test_search_of_given_settings_runs_in_this_process(tmp_path: Path) -> None:
    overrides = {
        **NUMBERS,
        "n_trials": 2,
        "space": {"train.optimizer.lr": {"kind": "float", "low": 1e-3, "high": 2e-3}},
    }
    study = at.run_search(
        {"name": "given", "base": "br_npa_low_res"}, profile="demo", overrides=overrides, results=tmp_path, workers=0
    )
    assert study.name == "demo/given"
    assert list(study.trials["state"]) == ["complete", "complete"]
    assert study.best.number in (0, 1)


def test_problem_of_given_settings_is_named(tmp_path: Path) -> None:
    with pytest.raises(at.AttnSearchError, match=r"given settings: n_trails: .*n_trials"):
        at.run_search({"name": "given", "base": "br_npa_low_res", "n_trails": 2}, results=tmp_path)


def test_overrides_may_be_paths_and_values_of_numpy() -> None:
    given = {"data.root": Path("Füße"), "train.epochs": np.int64(3), "data.image_size_px": np.array([8, 4])}
    assert _assignments(given) == ['data.root="Füße"', "train.epochs=3", "data.image_size_px=[8, 4]"]
    with pytest.raises(ConfigError, match=r"must be text, .* got <object"):
        _assignments({"seed": object()})


@pytest.fixture
def frame(tmp_path: Path) -> pd.DataFrame:
    """Two classes of four images, two of them for training."""
    rows = []
    for index in range(8):
        path, split = tmp_path / f"{index}.png", ("train", "train", "val", "test")[index % 4]
        Image.fromarray(np.full((40, 40, 3), 20 * index, dtype=np.uint8)).save(path)
        rows.append({"path": path, "label": "light" if index > 3 else "dark", "split": split})
    return pd.DataFrame(rows)


OWN = {key: value for key, value in NUMBERS.items() if not key.startswith("data.")} | {"data.image_size_px": 32}


@pytest.mark.slow
def test_training_of_a_table_keeps_it_with_the_study_unless_it_is_refused(tmp_path: Path, frame: pd.DataFrame) -> None:
    def train(table: pd.DataFrame) -> at.TrialReader:
        config = {"name": "own", "experiment": "tables", "model": {"name": "cnn", "backbone": "resnet10t"}}
        overrides = {key: value for key, value in OWN.items() if key != "model.width"}
        return at.run_training(config, overrides=overrides, data=table, results=tmp_path / "results")

    with pytest.raises(DataError, match=r"gone\.png"):
        train(frame.assign(path=[tmp_path / "gone.png", *frame["path"][1:]]))
    assert not (tmp_path / "results").exists()
    trial = train(frame)
    table = trial.study.layout.data_csv
    assert (trial.state, trial.config.data.root) == ("complete", str(table))
    written = table.read_text()
    with pytest.raises(ConfigError, match="holds other classes"):
        train(frame.assign(label=frame["label"].str.upper()))
    assert table.read_text() == written


def test_interrupted_search_in_this_process_returns_its_trial_to_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_epoch = trainer.train_epoch

    def interrupt(*arguments: object, **named: object) -> object:
        assert threading.current_thread() is not threading.main_thread()
        signal.raise_signal(signal.SIGINT)
        return train_epoch(*arguments, **named)  # type: ignore[arg-type]

    search = {"name": "stopped", "base": "br_npa_low_res", "n_trials": 1}
    overrides = {**NUMBERS, "train.epochs": 2, "space": {"model.dropout": {"kind": "float", "low": 0.0, "high": 0.1}}}
    monkeypatch.setattr(trainer, "train_epoch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        at.run_search(search, profile="demo", overrides=overrides, results=tmp_path, workers=0)
    (trial,) = at.load_study(tmp_path / "demo" / "stopped").rows.trials
    assert trial.state == "waiting"
