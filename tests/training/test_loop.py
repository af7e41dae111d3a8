"""The two loops, on a model without batch norm whose gradients have closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attnsearch.data.tables import ImageTable
from attnsearch.device import Arithmetic
from attnsearch.errors import NonFiniteLoss, TrialInterrupted
from attnsearch.models.base import AttentionModel
from attnsearch.tasks.base import build_task
from attnsearch.tasks.classification import LinearHead
from attnsearch.training import loop
from attnsearch.training.loop import LossWatch, TrainingSetup, train_epoch, validate_epoch
from attnsearch.training.setup import build_optimizer, build_schedule, freeze_backbone
from attnsearch.types import AttentionOutput, Batch
from tests.tiny import ConfigMaker


class Linear(AttentionModel):
    """Classifies by a linear map of the mean colour; its map is the sum over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(0.0))
        self.head = LinearHead(4, 2)
        for index, parameter in enumerate(self.parameters()):
            values = torch.arange(parameter.numel(), dtype=torch.float32)
            parameter.data = torch.sin(values + index).view_as(parameter)

    def forward(self, batch: Batch, *, maps: tuple[str, ...] | None = None) -> AttentionOutput:
        features = self.backbone(batch.images)
        head = self.head(features.mean(dim=(2, 3)))
        if maps is None:
            return AttentionOutput(head)
        return AttentionOutput(head, maps=features.relu().sum(dim=1, keepdim=True), map_names=("sum",))

    def saliency(self, output: AttentionOutput, target: Tensor) -> Tensor:
        assert output.maps is not None
        return output.maps[:, 0]


@dataclass
class Fixed:
    """A loader of the same 11 images each epoch."""

    batch_size: int
    scale: float = 1.0
    table: ImageTable = field(
        default_factory=lambda: ImageTable("train", ("a", "b"), tuple("abcdefghijk"), (Path(),) * 11, np.arange(11) % 2)
    )

    def __len__(self) -> int:
        return len(self.sizes())

    def sizes(self) -> list[int]:
        return [min(self.batch_size, 11 - start) for start in range(0, 11, self.batch_size)]

    def epoch(self, epoch: int, share: object = None) -> Iterator[Batch]:
        images = torch.sin(torch.arange(11 * 3 * 4 * 4, dtype=torch.float32)).view(11, 3, 4, 4) * self.scale
        whole = Batch(images, torch.arange(11) % 2, tuple(map(str, range(11))), torch.arange(11))
        for start in range(0, 11, self.batch_size):
            rows = slice(start, start + self.batch_size)
            yield Batch(images[rows], whole.labels[rows], whole.image_ids[rows], whole.rows[rows])


@pytest.fixture
def new_run(tiny_config: ConfigMaker) -> Callable[..., TrainingSetup]:
    def make(*, batch_size: int = 8, precision: str = "fp32", scale: float = 1.0, **train: Any) -> TrainingSetup:
        config = tiny_config(train={"batch_size": batch_size, "precision": precision, **train})
        model = Linear()
        freeze_backbone(model, config.train.optimizer)
        optimizer = build_optimizer(model, config.train.optimizer)
        loader: Any = Fixed(batch_size, scale)
        schedule = build_schedule(
            config.train.schedule, optimizer, lr=config.train.optimizer.lr, epochs=2, updates_per_epoch=len(loader)
        )
        arithmetic = Arithmetic(torch.device("cpu"), "bf16" if precision == "bf16" else "fp32")
        return TrainingSetup(config, build_task(config.task), model, arithmetic, optimizer, schedule, loader, loader)

    return make


def nothing() -> None: ...


def weights(run: TrainingSetup) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in run.model.parameters()])


@pytest.mark.parametrize("accumulation", [2, 4, 8])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_accumulating_parts_equals_one_large_batch(
    new_run: Callable[..., TrainingSetup], accumulation: int, optimizer: str
) -> None:
    # 11 images in batches of 8: the last batch has 3 images, which the parts divide unevenly
    settings = {"optimizer": {"name": optimizer, "lr": 0.1}, "clip_norm": 0.5}
    whole, parts = new_run(**settings), new_run(**settings)
    at_once = train_epoch(whole, 1, accumulation=1, check=nothing)
    in_parts = train_epoch(parts, 1, accumulation=accumulation, check=nothing)
    # the order of float32 sums differs, nothing else
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-5, atol=1e-6)
    assert in_parts.loss == pytest.approx(at_once.loss, rel=1e-6)
    assert in_parts.metrics == at_once.metrics


def test_losses_are_means_over_images_also_with_a_short_last_batch(new_run: Callable[..., TrainingSetup]) -> None:
    run = new_run(optimizer={"name": "sgd", "lr": 1e-30})  # weights stay as they are
    record = train_epoch(run, 1, accumulation=1, check=nothing)
    everything = next(Fixed(11).epoch(1))
    logits = run.model(everything).logits.detach()
    expected = float(nn.functional.cross_entropy(logits, everything.labels))
    assert record.loss == pytest.approx(expected, rel=1e-6)
    assert record.terms == {"cross_entropy": pytest.approx(expected, rel=1e-6)}
    assert record.metrics["accuracy"] == int((logits.argmax(1) == everything.labels).sum()) / 11
    assert record.n_images == 11


def test_label_smoothing_counts_in_training_and_not_in_validation(new_run: Callable[..., TrainingSetup]) -> None:
    settings = {"optimizer": {"name": "sgd", "lr": 1e-30}}
    plain, smooth = new_run(**settings), new_run(label_smoothing=0.4, **settings)
    trained = train_epoch(smooth, 1, accumulation=1, check=nothing)
    everything = next(Fixed(11).epoch(1))
    expected = nn.functional.cross_entropy(
        smooth.model(everything).logits.detach(), everything.labels, label_smoothing=0.4
    )
    assert trained.loss == pytest.approx(float(expected), rel=1e-6)
    assert validate_epoch(smooth, 1, check=nothing).loss == validate_epoch(plain, 1, check=nothing).loss


def test_validation_measures_what_the_model_shows(new_run: Callable[..., TrainingSetup]) -> None:
    run = new_run()
    record = validate_epoch(run, 1, check=nothing)
    halves = {"accuracy_half_a", "accuracy_half_b"}
    assert set(record.metrics) == {"accuracy", "mean_class_accuracy", "cross_entropy", "sparsity"} | halves
    assert record.metrics["cross_entropy"] == pytest.approx(record.loss)
    assert all(parameter.grad is None for parameter in run.model.parameters())


def test_validation_leaves_weights_alone(new_run: Callable[..., TrainingSetup]) -> None:
    run = new_run()
    before = weights(run).clone()
    validate_epoch(run, 1, check=nothing)
    assert torch.equal(weights(run), before)


def test_clipping_limits_the_gradient_of_the_whole_batch(new_run: Callable[..., TrainingSetup]) -> None:
    run = new_run(batch_size=12, clip_norm=0.01, optimizer={"name": "sgd", "lr": 1.0, "momentum": 0.0})
    before = weights(run).clone()
    train_epoch(run, 1, accumulation=3, check=nothing)
    # one update of plain SGD at rate 1 moves the weights by the gradient itself
    assert float((weights(run) - before).norm()) == pytest.approx(0.01, rel=1e-3)


def test_a_frozen_backbone_neither_moves_nor_changes_mode(new_run: Callable[..., TrainingSetup]) -> None:
    run = new_run(optimizer={"name": "sgd", "lr": 0.1, "backbone_lr_factor": 0.0, "weight_decay": 0.1})
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    train_epoch(run, 1, accumulation=1, check=nothing)
    changed = {name for name, value in run.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", "head.bias"}
    assert not run.model.backbone.training  # type: ignore[union-attr]
    assert run.model.head.training  # type: ignore[union-attr]


def test_bf16_trains_master_weights_in_fp32(new_run: Callable[..., TrainingSetup]) -> None:
    run = new_run(precision="bf16")
    record = train_epoch(run, 1, accumulation=1, check=nothing)
    exact = train_epoch(new_run(), 1, accumulation=1, check=nothing)
    assert weights(run).dtype == torch.float32
    assert record.loss == pytest.approx(exact.loss, rel=0.02)  # bf16 has 8 bits of mantissa
    assert record.loss != exact.loss


def test_a_loss_that_overflows_names_epoch_rate_and_value(new_run: Callable[..., TrainingSetup]) -> None:
    run = new_run(scale=math.inf)
    with pytest.raises(NonFiniteLoss, match=r"train/loss became (nan|inf) in epoch 2 at learning rate 0\.05"):
        train_epoch(run, 2, accumulation=1, check=nothing)


def test_a_loss_that_overflows_in_an_epoch_names_the_last_finite_value(
    new_run: Callable[..., TrainingSetup], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECK_LOSS_EVERY", 1)
    run = new_run(optimizer={"name": "sgd", "lr": 1e30})
    with pytest.raises(NonFiniteLoss, match=r"last finite mean was \d\.\d+; lower train\.optimizer\.lr"):
        train_epoch(run, 1, accumulation=1, check=nothing)


def test_a_look_at_the_loss_judges_that_of_the_look_before(new_run: Callable[..., TrainingSetup]) -> None:
    run = new_run(optimizer={"name": "sgd", "lr": 0.25})
    watch = LossWatch(run, 3)
    for loss in (7.0, 1.5, math.inf):
        watch.look(torch.tensor(loss))
    run.optimizer.param_groups[0]["lr"] = 9.0  # the rate of a later update
    expected = r"train/loss became inf in epoch 3 at learning rate 0\.25, its last finite mean was 1\.5;"
    with pytest.raises(NonFiniteLoss, match=expected):
        watch.look(torch.tensor(math.nan))
    watch = LossWatch(run, 3)
    watch.look(torch.tensor(math.nan))
    with pytest.raises(NonFiniteLoss, match="became nan in epoch 3 at learning rate 9;"):
        watch.end(2.0)


def test_validation_refuses_a_loss_that_overflows(new_run: Callable[..., TrainingSetup]) -> None:
    with pytest.raises(NonFiniteLoss, match="val/loss became"):
        validate_epoch(new_run(scale=math.inf), 1, check=nothing)


def test_a_stop_comes_between_two_updates(new_run: Callable[..., TrainingSetup]) -> None:
    run = new_run()
    n_checks = iter(range(10))

    def check() -> None:
        if next(n_checks) == 1:
            raise TrialInterrupted

    with pytest.raises(TrialInterrupted):
        train_epoch(run, 1, accumulation=1, check=check)
    once = new_run()
    with pytest.raises(StopIteration):
        train_epoch(once, 1, accumulation=1, check=iter([None]).__next__)  # type: ignore[arg-type]
    assert torch.equal(weights(run), weights(once))
    assert not torch.equal(weights(run), weights(new_run()))
