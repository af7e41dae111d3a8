"""Searches and trainings that are started from Python."""

from __future__ import annotations

from pathlib import Path

import pytest

import attnsearch as at
from attnsearch.config.yaml_reader import read_overrides
from tests.conftest import TINY

NUMBERS = {**read_overrides(TINY).values, "train.epochs": 1}


def test_training_is_a_study_of_one_trial_that_is_not_trained_again(tmp_path: Path) -> None:
    trial = at.run_training("br_npa_low_res", profile="demo", overrides=NUMBERS, results=tmp_path)
    assert (trial.number, trial.state, trial.config.train.epochs) == (0, "complete", 1)
    assert len(trial.epochs) == 1
    before = trial.checkpoint.stat().st_mtime_ns
    again = at.run_training("br_npa_low_res", profile="demo", overrides=NUMBERS, results=tmp_path)
    assert again.checkpoint.stat().st_mtime_ns == before


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
