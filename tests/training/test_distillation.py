"""Distillation from a best checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from attnsearch.config.experiment import ExperimentConfig, TeacherSettings
from attnsearch.data.loader import DataSource
from attnsearch.device import Arithmetic
from attnsearch.errors import ConfigError, DataError
from attnsearch.models import build_model
from attnsearch.models.checkpoint import ModelCheckpoint, write_model_checkpoint
from attnsearch.tasks.classification import LinearHeads
from attnsearch.training.distillation import Teacher, load_teacher
from attnsearch.training.trainer import fit
from attnsearch.types import Batch
from tests.tiny import ConfigMaker, RecordingContext

CPU = Arithmetic(torch.device("cpu"))


def save_teacher(path: Path, config: ExperimentConfig, *, class_names: tuple[str, ...], val_hash: str) -> str:
    torch.manual_seed(5)
    model = build_model(config.model, LinearHeads(len(class_names)))
    write_model_checkpoint(
        ModelCheckpoint(
            path,
            config=config,
            class_names=class_names,
            epoch=1,
            accumulation=1,
            val_hash=val_hash,
            state=model.state_dict(),
        )
    )
    return str(path)


@pytest.fixture
def checkpoint(tiny_config: ConfigMaker, data: DataSource, tmp_path: Path) -> str:
    """A teacher of another family than the student."""
    config = tiny_config(model={"name": "b_cnn"})
    tables = data.tables
    return save_teacher(tmp_path / "t.safetensors", config, class_names=tables.class_names, val_hash=tables.val_hash)


def load(checkpoint: str, data: DataSource, **settings: Any) -> Teacher:
    return load_teacher(TeacherSettings(checkpoint=checkpoint, **settings), data.tables, CPU)


def test_the_teacher_gives_its_logits_with_its_settings(checkpoint: str, data: DataSource) -> None:
    teacher = load(checkpoint, data, temperature=2.0, interpolation=0.25)
    images = torch.sin(torch.arange(4 * 3 * 32 * 32, dtype=torch.float32)).view(4, 3, 32, 32)
    batch = Batch(images, torch.tensor([0, 1, 1, 0]), ("a", "b", "c", "d"), torch.arange(4))
    targets = teacher.soft_targets(batch)
    assert torch.equal(targets.logits, teacher.model(batch).logits)
    assert (targets.temperature, targets.interpolation) == (2.0, 0.25)
    assert not targets.logits.requires_grad


def test_the_teacher_stays_as_it_is(checkpoint: str, data: DataSource) -> None:
    teacher = load(checkpoint, data)
    assert not any(module.training for module in teacher.model.modules())
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())


def test_a_student_trains_and_validates_under_its_teacher(
    checkpoint: str, tiny_config: ConfigMaker, data: DataSource, tmp_path: Path
) -> None:
    context = RecordingContext(tmp_path / "trial")
    teacher = {"checkpoint": checkpoint, "temperature": 4.0, "interpolation": 0.5}
    result = fit(tiny_config(train={"epochs": 1, "teacher": teacher}), context, data=data)
    assert [set(record.terms) for record in context.records] == [{"distillation"}, {"distillation"}]
    assert result.metrics["val/loss"] == result.metrics["val/loss_distillation"]
    assert result.metrics["val/cross_entropy"] != result.metrics["val/loss"]


def test_the_teacher_changes_nothing_random_in_the_student(
    checkpoint: str, tiny_config: ConfigMaker, data: DataSource, tmp_path: Path
) -> None:
    """With interpolation 0 the loss is the plain one, so the weights must be too: same initial ones, same dropout."""
    alone, taught = RecordingContext(tmp_path / "alone"), RecordingContext(tmp_path / "taught")
    train = {"epochs": 1}
    fit(tiny_config(model={"dropout": 0.3}, train=train), alone, data=data)
    teacher = {"checkpoint": checkpoint, "interpolation": 0.0}
    fit(tiny_config(model={"dropout": 0.3}, train={**train, "teacher": teacher}), taught, data=data)
    assert taught.records[1].loss == pytest.approx(alone.records[1].loss, rel=1e-6)


def test_a_missing_teacher_is_refused_before_training(
    tiny_config: ConfigMaker, data: DataSource, tmp_path: Path
) -> None:
    config = tiny_config(train={"teacher": {"checkpoint": str(tmp_path / "no.safetensors")}})
    context = RecordingContext(tmp_path / "trial")
    with pytest.raises(ConfigError, match=r"train\.teacher\.checkpoint: .*no\.safetensors does not exist"):
        fit(config, context, data=data)
    assert not context.records


def test_the_best_of_a_study_must_have_been_looked_up(data: DataSource) -> None:
    with pytest.raises(ConfigError, match="'study:low_res', which is looked up when a run starts"):
        load("study:low_res", data)


def test_a_teacher_of_other_classes_is_refused(tiny_config: ConfigMaker, data: DataSource, tmp_path: Path) -> None:
    path = save_teacher(
        tmp_path / "t.safetensors", tiny_config(), class_names=("blue", "green"), val_hash=data.tables.val_hash
    )
    with pytest.raises(DataError, match=r"'red' \| 'green'"):
        load(path, data)


def test_a_teacher_of_another_validation_split_is_refused(checkpoint: str, data: DataSource) -> None:
    other = replace(data, tables=replace(data.tables, val_hash="e" * 64))
    with pytest.raises(DataError, match="here eeeeeeeeeeee"):
        load(checkpoint, other)
