"""A run may start from the backbone of another one, unless that one knows its validation images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attnsearch.config.data import SyntheticData
from attnsearch.config.experiment import ExperimentConfig
from attnsearch.data.loader import DataSource
from attnsearch.errors import ConfigError, DataError
from attnsearch.models import build_model
from attnsearch.models.checkpoint import write_model_checkpoint
from attnsearch.tasks.classification import LinearHeads
from attnsearch.training.checks import check_start
from tests.tiny import ConfigMaker


@pytest.fixture
def trained(tiny_config: ConfigMaker, data: DataSource, tmp_path: Path) -> Path:
    """The best checkpoint of a cnn on the same data, of another number of classes."""
    path = tmp_path / "best.safetensors"
    config = tiny_config()
    torch.manual_seed(5)
    write_model_checkpoint(
        path,
        build_model(config.model, LinearHeads(3)),
        config=config,
        class_names=("a", "b", "c"),
        epoch=1,
        accumulation=1,
        val_hash=data.tables.val_hash,
    )
    return path


def warm(tiny_config: ConfigMaker, path: Path, **model: object) -> ExperimentConfig:
    return tiny_config(model={"name": "br_npa", "weights": str(path), **model})


def test_the_backbone_of_another_family_and_class_count_is_taken(
    trained: Path, tiny_config: ConfigMaker, data: DataSource
) -> None:
    config = warm(tiny_config, trained)
    check_start(config, data.tables)
    torch.manual_seed(5)
    source = build_model(tiny_config().model, LinearHeads(3)).get_submodule("backbone").state_dict()
    found = build_model(config.model, LinearHeads(2)).get_submodule("backbone").state_dict()
    assert found.keys() == source.keys()
    assert all(torch.equal(found[name], source[name]) for name in source)


def test_another_backbone_is_refused_with_the_settings_that_fit(
    trained: Path, tiny_config: ConfigMaker, data: DataSource
) -> None:
    with pytest.raises(ConfigError, match=r"set model\.backbone=resnet10t model\.width=0\.25"):
        check_start(warm(tiny_config, trained, width=0.5), data.tables)


def test_weights_that_know_the_validation_images_are_refused(
    trained: Path, tiny_config: ConfigMaker, data: DataSource
) -> None:
    other = replace(data.tables, val_hash="0" * 64)
    with pytest.raises(DataError, match=r"other validation images .*use its data\.val_share and data\.split_seed"):
        check_start(warm(tiny_config, trained), other)


def test_weights_from_other_data_may_have_any_split(
    trained: Path, tiny_config: ConfigMaker, data: DataSource, tmp_path: Path
) -> None:
    elsewhere = tiny_config(data={"root": str(tmp_path / "other")}, model={"weights": str(trained)})
    check_start(elsewhere, replace(data.tables, val_hash="0" * 64))


@pytest.mark.parametrize(("key", "is_other"), [("n_train_per_class", False), ("n_differing_parts", True)])
def test_a_teacher_of_other_birds_is_refused(
    tiny_config: ConfigMaker, data: DataSource, tmp_path: Path, key: str, is_other: bool
) -> None:
    path, config = tmp_path / "best.safetensors", tiny_config()
    write_model_checkpoint(
        path,
        build_model(config.model, LinearHeads(2)),
        config=config.model_copy(update={"data": SyntheticData()}),
        class_names=data.tables.class_names,
        epoch=1,
        accumulation=1,
        val_hash=data.tables.val_hash,
    )
    taught = tiny_config(train={"teacher": {"checkpoint": str(path)}})
    taught = taught.model_copy(update={"data": SyntheticData(**{key: 2})})  # type: ignore[arg-type]
    if is_other:
        with pytest.raises(DataError, match=r"other synthetic images: its data\.n_differing_parts is 3, here 2"):
            check_start(taught, data.tables)
    else:
        check_start(taught, data.tables)


def test_missing_masks_are_found_before_training(tiny_config: ConfigMaker, data: DataSource) -> None:
    config = tiny_config(model={"name": "loupe", "mask_weight": 0.5})
    with pytest.raises(DataError, match=r"model .loupe. learns from part masks, and .* has no part masks"):
        check_start(config, data.tables)


def test_a_study_that_was_not_looked_up_is_named(tiny_config: ConfigMaker) -> None:
    with pytest.raises(ConfigError, match="'study:cnn', which is looked up when a run starts"):
        build_model(tiny_config(model={"weights": "study:cnn"}).model, LinearHeads(2))
