"""Between two looks at the loss, nothing in an epoch waits for the device."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.data import augment, rand_augment
from attnsearch.data.loader import BatchLoader, DataSource, TrainingOrder, open_data
from attnsearch.device import Arithmetic
from attnsearch.models import build_model
from attnsearch.models.base import AttentionModel
from attnsearch.tasks.base import Task, build_task
from attnsearch.training import loop
from attnsearch.training.loop import TrainingSetup, train_epoch, validate_epoch
from attnsearch.training.setup import build_optimizer, build_schedule
from attnsearch.types import AttentionOutput
from tests.fake_gpu import GPU, fake_gpu, put_on_gpu
from tests.tiny import data, picture_root, reid_config, tiny_config

__all__ = ["data", "picture_root", "tiny_config"]

SMALL = {"backbone": "resnet10t", "width": 0.25}
MODELS: dict[str, dict[str, Any]] = {
    "cnn": {"name": "cnn", **SMALL},
    "br_npa": {"name": "br_npa", **SMALL},
    "b_cnn": {"name": "b_cnn", **SMALL},
    "intr": {"name": "intr", **SMALL, "d_model": 16, "n_heads": 2, "feedforward_width": 16},
    "dcal": {"name": "dcal", "backbone": "deit_tiny_patch16_224", "width": 0.34, "depth": 2, "position_grid": 4},
    "plain": {"name": "plain", **SMALL},
}


def run_on_gpu(config: ExperimentConfig, task: Task, model: Any, data: DataSource) -> TrainingSetup:
    optimizer = build_optimizer(model, config.train.optimizer)
    for group in optimizer.param_groups:  # torch has no shapes of the fused kernel of SGD
        group.update(fused=False, foreach=True)
    order = TrainingOrder(task.row_order, config.seed)
    train, val = (
        BatchLoader(data, split, batch_size=4, device=GPU, order=given, with_masks=model.needs_masks)  # type: ignore[arg-type]
        for split, given in (("train", order), ("val", None))
    )
    schedule = build_schedule(config.train.schedule, optimizer, lr=0.1, epochs=2, updates_per_epoch=len(train))
    return TrainingSetup(config, task, model, Arithmetic(GPU), optimizer, schedule, train, val)


def make_up_gradients(model: nn.Module, loss: Tensor) -> None:
    """Gradients of the right shapes for what a loss depends on."""
    assert loss.requires_grad
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)


def waits_of_a_pass(
    config: ExperimentConfig,
    data: DataSource,
    monkeypatch: pytest.MonkeyPatch,
    *,
    in_training: bool,
    is_resident: bool = False,
) -> list[str]:
    """What waits in a pass after its first batch, when constants have been copied, but for the scores at its end."""
    n_batches = 0
    task = build_task(config.task)
    model = build_model(config.model, task.heads(len(data.tables.class_names)))
    with fake_gpu(monkeypatch, is_resident=is_resident) as waits:
        run = run_on_gpu(config, task, put_on_gpu(model), data)

        def check() -> None:
            nonlocal n_batches
            n_batches += 1
            if n_batches == 1:
                waits.found.clear()

        # torch's engine needs a true device
        monkeypatch.setattr(torch.autograd, "backward", partial(make_up_gradients, run.model))
        run_pass = partial(train_epoch, accumulation=2) if in_training else validate_epoch
        with pytest.raises(DataDependentOutputException):  # the scores of the pass are read
            run_pass(run, 1, check=check)
    assert n_batches == len(run.train if in_training else run.val)
    assert n_batches > 1
    assert waits.n_operations > 100
    assert waits.found.pop().startswith("aten._local_scalar_dense")
    return waits.found


@pytest.fixture(autouse=True)
def constants_of_no_other_device() -> Any:
    """Constants that are copied to a device once are not kept from or for other tests."""
    caches = [augment._mean_and_std, rand_augment._fill, rand_augment._halves, rand_augment._blur_kernel]
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.parametrize("in_training", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_no_family_waits(
    name: str, in_training: bool, tiny_config: Any, data: DataSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECK_LOSS_EVERY", 1)
    config = tiny_config(model=MODELS[name])
    assert waits_of_a_pass(config, data, monkeypatch, in_training=in_training) == []


AUGMENTATION: dict[str, dict[str, Any]] = {
    "randaugment": {"rand_augment": 9},
    "erased and deleted": {"erase": 0.5, "cell_deletion": 0.5, "pad_px": 2},
    "windows": {"crop_scale": [0.3, 1.0]},
    "padding": {"resize": "pad", "crop_ratio": 1.0, "image_size_px": [32, 40]},
}


@pytest.mark.parametrize("is_resident", [True, False])
@pytest.mark.parametrize("name", AUGMENTATION)
def test_no_augmentation_waits(
    name: str, is_resident: bool, tiny_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTNSEARCH_CACHE", str(tmp_path))
    config = tiny_config(data=AUGMENTATION[name])
    data = open_data(config.data)
    assert waits_of_a_pass(config, data, monkeypatch, in_training=True, is_resident=is_resident) == []


def test_part_masks_do_not_wait(tmp_path: Path, tiny_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNSEARCH_CACHE", str(tmp_path))
    birds = {"name": "synthetic", "n_classes": 2, "n_train_per_class": 5, "n_val_per_class": 3, "image_size_px": 64}
    changes = {"data": birds, "model": {"name": "loupe", **SMALL}}
    settings = {**tiny_config().model_dump(mode="json"), **changes, "monitor": "val/accuracy"}
    config = ExperimentConfig.model_validate_json(json.dumps(settings))
    data = open_data(config.data)
    for in_training in (True, False):
        assert waits_of_a_pass(config, data, monkeypatch, in_training=in_training) == []


def test_identities_do_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNSEARCH_CACHE", str(tmp_path))
    config = reid_config()
    data = open_data(config.data)
    for in_training in (True, False):
        assert waits_of_a_pass(config, data, monkeypatch, in_training=in_training) == []


def test_what_waits_is_found(tiny_config: Any, data: DataSource, monkeypatch: pytest.MonkeyPatch) -> None:
    weigh = AttentionModel.weigh_losses

    def waiting(self: AttentionModel, losses: Any, output: AttentionOutput) -> Any:
        torch.ones(3).to(output.logits.device)
        return weigh(self, losses, output)

    monkeypatch.setattr(AttentionModel, "weigh_losses", waiting)
    found = waits_of_a_pass(tiny_config(), data, monkeypatch, in_training=True)
    assert len(found) == 5  # one in each batch
    assert all(line.startswith("aten._to_copy cpu to cuda at ") for line in found)
