"""Checkpoints that know their run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.errors import ConfigError, LeaseLost
from attnsearch.models import build_model
from attnsearch.models.base import AttentionModel
from attnsearch.models.checkpoint import read_model_checkpoint, write_model_checkpoint
from attnsearch.models.weights import save_checkpoint
from attnsearch.tasks.base import restore_model
from attnsearch.tasks.classification import LinearHeads

CONFIG = ExperimentConfig.model_validate(
    {
        "name": "kept",
        "data": {"name": "synthetic"},
        "model": {"name": "cnn", "backbone": "resnet10t", "width": 0.25},
        "train": {"accumulation": 2},
    }
)


@pytest.fixture(scope="module")
def model() -> AttentionModel:
    return build_model(CONFIG.model, LinearHeads(2))


def test_what_is_written_is_read_again(model: AttentionModel, tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    names = ("Ähre", "b")
    write_model_checkpoint(path, model, config=CONFIG, class_names=names, epoch=7, accumulation=4, val_hash="abc")
    kept = read_model_checkpoint(path)
    assert (kept.config, kept.class_names, kept.epoch) == (CONFIG, names, 7)
    assert (kept.accumulation, kept.val_hash) == (4, "abc")
    rebuilt = restore_model(kept).state_dict()
    assert all(torch.equal(rebuilt[name], value) for name, value in model.state_dict().items())


def test_a_failed_check_leaves_the_old_file(model: AttentionModel, tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    write_model_checkpoint(path, model, config=CONFIG, class_names=("a", "b"), epoch=1, accumulation=1, val_hash="")

    def refuse() -> None:
        raise LeaseLost

    with pytest.raises(LeaseLost):
        write_model_checkpoint(
            path, model, config=CONFIG, class_names=("a", "b"), epoch=2, accumulation=1, val_hash="", check=refuse
        )
    assert read_model_checkpoint(path).epoch == 1
    assert [file.name for file in tmp_path.iterdir()] == ["best.safetensors"]


def test_settings_of_another_version_are_refused(model: AttentionModel, tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    save_checkpoint(path, model, {"class_names": '["a", "b"]', "config": '{"name": "x"}', "epoch": "1"})
    with pytest.raises(ConfigError, match=r"old\.safetensors holds settings that this version cannot read"):
        read_model_checkpoint(path)


def test_a_checkpoint_of_a_model_that_is_not_registered_names_the_plugin_alone(
    model: AttentionModel, tmp_path: Path
) -> None:
    path = tmp_path / "best.safetensors"
    values = {**CONFIG.model_dump(mode="json"), "plugins": ["absent.py"]}
    values["model"] = {"name": "spatial", "n_channels": 8, "kernel_px": 3}
    save_checkpoint(path, model, {"class_names": '["a", "b"]', "config": json.dumps(values), "epoch": "1"})
    with pytest.raises(ConfigError) as caught:
        read_model_checkpoint(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: config: model.name: unknown name 'spatial'; known: ")
    assert said.endswith("; made with plugins, which reading never imports: add --plugin 'absent.py'")
    assert not [word for word in ("n_channels", "train it again", "\n") if word in said]


WRONG = (
    ("class_names", "3"),
    ("class_names", "[" * 50_000),
    ("class_names", "null"),
    ("epoch", "{"),
    ("epoch", "9" * 5000),
)


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_damaged_metadata_is_refused(model: AttentionModel, tmp_path: Path, key: str, value: str) -> None:
    path = tmp_path / "best.safetensors"
    about = {"class_names": '["a", "b"]', "config": CONFIG.model_dump_json(), "epoch": "1"}
    save_checkpoint(path, model, {**about, key: value})
    with pytest.raises(ConfigError, match=r"best\.safetensors holds settings that this version cannot read"):
        read_model_checkpoint(path)
