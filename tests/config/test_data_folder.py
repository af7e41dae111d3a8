"""Experiments that are named by the folder of their data."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnsearch.config.data import FolderData
from attnsearch.config.data_folder import name_of_data
from attnsearch.config.load import load_experiment, load_study, parse_experiment
from attnsearch.errors import ConfigError


@pytest.mark.parametrize(
    ("root", "name"),
    [
        ("/data/birds", "birds"),
        ("/data/my birds (2)/", "my_birds_2_"),
        ("photos/../shoes.v2", "shoes.v2"),
        ("lists/birds.csv", "birds"),
        ("/data/.hidden", "hidden"),
        ("/", ""),
    ],
)
def test_the_name_is_that_of_the_folder(root: str, name: str) -> None:
    assert name_of_data(FolderData(root=root)) == name


def test_variables_and_the_current_folder_are_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIRDS", "/disk/warblers")
    assert name_of_data(FolderData(root="$BIRDS")) == "warblers"
    (tmp_path / "finches").mkdir()
    monkeypatch.chdir(tmp_path / "finches")
    assert name_of_data(FolderData(root=".")) == "finches"


def test_photos_have_results_of_their_own() -> None:
    loaded = load_study("br_npa_low_res", profile="photos", overrides=["data.root=/data/photos2"])
    assert loaded.experiment.experiment == "photos2"
    named = load_study("br_npa_low_res", profile="photos", overrides=["data.root=/data/photos2", "experiment=mine"])
    assert named.experiment.experiment == "mine"


def test_a_stored_name_stays_where_the_folder_has_moved() -> None:
    experiment = load_experiment("cnn", profile="photos", overrides=["data.root=/data/photos2"])
    moved = experiment.model_dump_json().replace("/data/photos2", "/elsewhere/other")
    assert parse_experiment(moved).experiment == "photos2"


def test_a_data_set_without_a_root_has_its_own_name() -> None:
    assert load_experiment("cnn", profile="demo", overrides=["experiment=auto"]).experiment == "synthetic"


def test_missing_data_are_told_before_their_name() -> None:
    with pytest.raises(ConfigError, match=r"data\.root: is required and missing"):
        load_experiment("cnn", profile="photos")
