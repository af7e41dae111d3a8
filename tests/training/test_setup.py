"""Parameter groups, optimizers and schedules; from which weights a run may start on which images."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from torch import nn

from attnsearch.config.data import SyntheticData
from attnsearch.config.experiment import ExperimentConfig, OptimizerSettings, ScheduleSettings
from attnsearch.data.loader import DataSource
from attnsearch.errors import ConfigError, DataError
from attnsearch.models import build_model
from attnsearch.models.checkpoint import ModelCheckpoint, write_model_checkpoint
from attnsearch.tasks.classification import LinearHeads
from attnsearch.training.setup import (
    build_optimizer,
    build_run,
    build_schedule,
    check_start,
    freeze_backbone,
    parameter_groups,
)
from attnsearch.training.state import TrainingState
from tests.tiny import ConfigMaker, RecordingContext


class TwoParts(nn.Module):
    backbone_prefix: ClassVar[str] = "backbone."
    undecayed: ClassVar[frozenset[str]] = frozenset({"pos_embed"})

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 2)
        self.pos_embed = nn.Parameter(torch.zeros(1, 2, 4))


def rates(settings: ScheduleSettings, *, epochs: int, updates_per_epoch: int, factor: float = 1.0) -> list[list[float]]:
    """The rate of each update, for the head's and the backbone's groups."""
    optimizer = build_optimizer(TwoParts(), OptimizerSettings(lr=0.5, backbone_lr_factor=factor))  # type: ignore[arg-type]
    schedule = build_schedule(settings, optimizer, lr=0.5, epochs=epochs, updates_per_epoch=updates_per_epoch)
    seen = []
    for update in range(epochs * updates_per_epoch):
        seen.append([optimizer.param_groups[0]["lr"], optimizer.param_groups[-1]["lr"]])
        schedule.step_update(update + 1)
    return seen


def test_vectors_get_no_weight_decay_and_the_backbone_its_own_rate() -> None:
    model = TwoParts()
    settings = OptimizerSettings(weight_decay=0.1, backbone_lr_factor=0.25)
    groups = parameter_groups(model, settings)  # type: ignore[arg-type]
    found = {id(p): (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}
    expected = {
        "head.weight": (1.0, 0.1),
        "head.bias": (1.0, 0.0),
        "pos_embed": (1.0, 0.0),
        "backbone.0.weight": (0.25, 0.1),
        "backbone.0.bias": (0.25, 0.0),
        "backbone.1.weight": (0.25, 0.0),
        "backbone.1.bias": (0.25, 0.0),
    }
    assert {name: found[id(parameter)] for name, parameter in model.named_parameters()} == expected


def test_a_factor_of_zero_freezes_the_backbone() -> None:
    model = TwoParts()
    settings = OptimizerSettings(backbone_lr_factor=0.0)
    freeze_backbone(model, settings)  # type: ignore[arg-type]
    in_groups = {id(p) for group in parameter_groups(model, settings) for p in group["params"]}  # type: ignore[arg-type]
    assert in_groups == {id(model.head.weight), id(model.head.bias), id(model.pos_embed)}
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())


@pytest.mark.parametrize("name", ["sgd", "adam", "amsgrad", "adamw", "lion"])
def test_each_optimizer_is_the_one_that_is_named(
    name: Literal["sgd", "adam", "amsgrad", "adamw", "lion"],
) -> None:
    optimizer = build_optimizer(TwoParts(), OptimizerSettings(name=name, lr=0.5))  # type: ignore[arg-type]
    kind = {"sgd": "SGD", "adam": "Adam", "amsgrad": "Adam", "adamw": "AdamW", "lion": "Lion"}[name]
    group = optimizer.param_groups[0]
    assert type(optimizer).__name__ == kind
    assert group.get("amsgrad", False) is (name == "amsgrad")
    assert group.get("nesterov", False) is False
    assert group.get("momentum", 0.9) == 0.9


@pytest.mark.parametrize("name", ["adam", "adamw", "amsgrad", "sgd"])
def test_fused_optimizer_continues_a_state_that_was_not(name: Literal["sgd", "adam", "amsgrad", "adamw"]) -> None:
    """Resume checkpoints of earlier versions hold such states; the update is the same but for the rounding."""
    models = [TwoParts() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    new, old = (build_optimizer(model, OptimizerSettings(name=name, lr=0.5)) for model in models)  # type: ignore[arg-type]
    assert new.defaults["fused"]
    for group in old.param_groups:
        group["fused"] = None
    for _ in range(2):
        for model, optimizer in zip(models, (new, old), strict=True):
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, 0.25)
            optimizer.step()
        new.load_state_dict(deepcopy(old.state_dict()))
    for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_momentum_of_zero_is_not_the_default() -> None:
    optimizer = build_optimizer(TwoParts(), OptimizerSettings(momentum=0.0))  # type: ignore[arg-type]
    assert optimizer.param_groups[0]["momentum"] == 0.0


@pytest.mark.parametrize("step_epochs", [1, 2, 3])
def test_step_follows_the_formula_of_br_npa(step_epochs: int) -> None:
    settings = ScheduleSettings(name="step", step_epochs=step_epochs, step_factor=0.5)
    seen = rates(settings, epochs=7, updates_per_epoch=3, factor=0.1)
    for update, (head, backbone) in enumerate(seen):
        epoch = update // 3 + 1
        assert head == pytest.approx(0.5 * 0.5 ** (epoch // step_epochs))
        assert backbone == pytest.approx(0.1 * head)


def test_cosine_falls_to_its_final_factor() -> None:
    seen = rates(ScheduleSettings(name="cosine", final_lr_factor=0.1), epochs=4, updates_per_epoch=5, factor=0.5)
    for update, (head, backbone) in enumerate(seen):
        share = 0.5 * (1 + math.cos(math.pi * update / 20))
        assert head == pytest.approx(0.05 + (0.5 - 0.05) * share)
        assert backbone == pytest.approx(0.5 * head)


def test_vectors_get_the_weight_decay_where_authors_decay_all() -> None:
    model = TwoParts()
    groups = parameter_groups(model, OptimizerSettings(weight_decay=0.1, decay_norms=True))  # type: ignore[arg-type]
    exempt = {id(p) for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    assert exempt == {id(model.pos_embed)}


def test_the_rate_of_an_epoch_is_that_of_torch_where_it_changes_between_epochs_alone() -> None:
    settings = ScheduleSettings(name="cosine", per_epoch=True, final_lr_factor=0.1)
    seen = [head for head, _ in rates(settings, epochs=4, updates_per_epoch=3)]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4, eta_min=0.05)
    for epoch in range(4):
        assert seen[3 * epoch : 3 * epoch + 3] == pytest.approx([reference.get_last_lr()[0]] * 3)
        optimizer.step()
        reference.step()


def test_a_warmup_by_epochs_starts_from_one_percent() -> None:
    settings = ScheduleSettings(name="step", per_epoch=True, milestones=(5,), step_factor=0.1, warmup_epochs=4)
    seen = [head for head, _ in rates(settings, epochs=7, updates_per_epoch=2)]
    expected = [0.5 * (0.01 + 0.99 * epoch / 4) for epoch in range(4)] + [0.5, 0.05, 0.05]
    assert seen[::2] == seen[1::2] == pytest.approx(expected)


def test_settings_that_came_later_change_no_older_digest() -> None:
    assert "decay_norms" not in OptimizerSettings().model_dump()
    assert "per_epoch" not in ScheduleSettings().model_dump()
    assert OptimizerSettings(decay_norms=True).model_dump()["decay_norms"]


def test_warmup_rises_from_one_share_to_the_full_rate() -> None:
    seen = rates(ScheduleSettings(name="constant", warmup_epochs=2), epochs=3, updates_per_epoch=2)
    # from 0.5 / 4 in four equal steps to 0.5
    assert [head for head, _ in seen] == pytest.approx([0.125, 0.21875, 0.3125, 0.40625, 0.5, 0.5])


def test_training_in_float32_keeps_the_optimizer_state_in_float32() -> None:
    model = TwoParts()
    optimizer = build_optimizer(model, OptimizerSettings(name="adamw"))  # type: ignore[arg-type]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model.head(model.backbone(torch.ones(2, 3, 4, 4)).mean(dim=(2, 3)))
    torch.autograd.backward(output.float().square().sum())
    optimizer.step()
    moments = [value for state in optimizer.state.values() for value in state.values()]
    assert moments
    assert all(value.dtype == torch.float32 for value in moments)


@pytest.fixture
def trained(tiny_config: ConfigMaker, data: DataSource, tmp_path: Path) -> Path:
    """The best checkpoint of a cnn on the same data, of another number of classes."""
    path = tmp_path / "best.safetensors"
    config = tiny_config()
    torch.manual_seed(5)
    write_model_checkpoint(
        ModelCheckpoint(
            path,
            config=config,
            class_names=("a", "b", "c"),
            epoch=1,
            accumulation=1,
            val_hash=data.tables.val_hash,
            state=build_model(config.model, LinearHeads(3)).state_dict(),
        )
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
        ModelCheckpoint(
            path,
            config=config.model_copy(update={"data": SyntheticData()}),
            class_names=data.tables.class_names,
            epoch=1,
            accumulation=1,
            val_hash=data.tables.val_hash,
            state=build_model(config.model, LinearHeads(2)).state_dict(),
        )
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


def test_cameras_that_are_missing_or_too_many_are_found_before_training(
    tiny_config: ConfigMaker, data: DataSource
) -> None:
    config = tiny_config(model={"name": "dcal", "n_cameras": 2, "width": 0.34, "depth": 2})
    with pytest.raises(DataError, match=r"model\.n_cameras 2 asks for the camera of each image, and .* names none"):
        check_start(config, data.tables)
    cameras = np.zeros(len(data.tables.train), dtype=np.int64)
    for names in (("a", "b"), ("a", "b", "c")):
        tables = replace(data.tables, train=replace(data.tables.train, camera_names=names, cameras=cameras))
        if len(names) == 2:
            check_start(config, tables)
            continue
        with pytest.raises(DataError, match=r"has 3 cameras and the model 2; set model\.n_cameras=3"):
            check_start(config, tables)


def test_a_study_that_was_not_looked_up_is_named(tiny_config: ConfigMaker) -> None:
    with pytest.raises(ConfigError, match="'study:cnn', which is looked up when a run starts"):
        build_model(tiny_config(model={"weights": "study:cnn"}).model, LinearHeads(2))


def test_milestones_are_epochs_after_which_the_rate_falls() -> None:
    settings = ScheduleSettings(name="step", milestones=(2, 5), step_factor=0.1)
    seen = rates(settings, epochs=7, updates_per_epoch=3)
    assert [head for head, _ in seen] == pytest.approx([0.5] * 6 + [0.05] * 9 + [0.005] * 6)
    with pytest.raises(ValueError, match="rising epochs"):
        ScheduleSettings(name="step", milestones=(5, 2))


@pytest.mark.parametrize("is_compiled", [False, True])
def test_a_model_is_compiled_where_that_is_asked_for(
    is_compiled: bool, tiny_config: ConfigMaker, data: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: asked.append({"of": type(self), **options}))
    config = tiny_config(runtime={"device": "cpu", "n_threads": 1, "compile": is_compiled})
    run = build_run(TrainingState(config, RecordingContext(tmp_path), data, accumulation=1))
    assert asked == ([{"of": type(run.model), "mode": "default"}] if is_compiled else [])
    assert config.digest() == tiny_config().digest()  # as of any other setting of the machine


def test_batches_have_the_memory_format_of_the_model(
    tiny_config: ConfigMaker, data: DataSource, tmp_path: Path
) -> None:
    run = build_run(TrainingState(tiny_config(), RecordingContext(tmp_path), data, accumulation=1))
    assert run.model.channels_last
    for loader in (run.train, run.val):
        images = next(loader.epoch(1)).images
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert run.arithmetic.place_images(next(loader.epoch(1))).images.shape == images.shape
