"""Which epoch is kept, and when patience ends."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from attnsearch.errors import ConfigError
from attnsearch.training.state import TrainingState
from attnsearch.types import EpochRecord, Split
from tests.tiny import ConfigMaker, RecordingContext


def record(epoch: int, split: Split, loss: float, accuracy: float = 0.5) -> EpochRecord:
    return EpochRecord(
        epoch=epoch,
        split=split,
        n_images=10,
        loss=loss,
        terms={"cross_entropy": loss},
        metrics={"accuracy": accuracy},
        lr=0.1,
        seconds=2.0 if split == "train" else 1.0,
        images_per_s=5.0,
        peak_memory_mb=1.0,
    )


def played(config: Any, values: list[float], tmp_path: Path) -> TrainingState:
    """A trial after epochs with these validation losses; accuracy is one minus the loss."""
    trial = TrainingState(config, RecordingContext(tmp_path), None, accumulation=1)  # type: ignore[arg-type]
    for epoch, value in enumerate(values, start=1):
        trial.add(record(epoch, "train", 9.0), record(epoch, "val", value, 1 - value))
    return trial


@pytest.mark.parametrize(
    ("losses", "best"),
    [([0.5, 0.3, 0.4], 2), ([0.5, 0.3, 0.3], 2), ([math.nan, 0.3, math.nan], 2), ([0.2, 0.3], 1), ([math.nan], 0)],
)
def test_the_first_best_epoch_is_taken_in_either_direction(
    losses: list[float], best: int, tiny_config: ConfigMaker, tmp_path: Path
) -> None:
    assert played(tiny_config(), losses, tmp_path).best_epoch == best
    by_loss = tiny_config(monitor="val/loss", monitor_direction="minimize")
    assert played(by_loss, losses, tmp_path).best_epoch == best


@pytest.mark.parametrize(
    ("losses", "is_exhausted"), [([0.3, 0.4], False), ([0.3, 0.4, 0.3], True), ([0.3, 0.4, 0.2], False)]
)
def test_patience_counts_epochs_without_a_better_one(
    losses: list[float], is_exhausted: bool, tiny_config: ConfigMaker, tmp_path: Path
) -> None:
    config = tiny_config(train={"early_stopping_epochs": 2})
    assert played(config, losses, tmp_path).is_exhausted() is is_exhausted


def test_patience_also_ends_a_trial_without_any_defined_value(tiny_config: ConfigMaker, tmp_path: Path) -> None:
    config = tiny_config(train={"early_stopping_epochs": 2})
    assert played(config, [math.nan, math.nan], tmp_path).is_exhausted()


def test_patience_starts_again_where_the_best_epoch_was_lost(tiny_config: ConfigMaker, tmp_path: Path) -> None:
    trial = played(tiny_config(train={"early_stopping_epochs": 2}), [0.3, 0.2, 0.4], tmp_path)
    trial.best_epoch, trial.patient_from = 0, 3
    assert not trial.is_exhausted()


def test_the_result_is_that_of_the_best_epoch(tiny_config: ConfigMaker, tmp_path: Path) -> None:
    result = played(tiny_config(), [0.5, 0.3, 0.4], tmp_path).result("complete")
    assert (result.best_epoch, result.epochs_run) == (2, 3)
    assert result.metrics["val/loss"] == 0.3
    assert result.metrics["val/accuracy"] == 0.7
    assert result.metrics["train/loss"] == 9.0
    assert result.seconds == 9.0  # three epochs of 2 s training and 1 s validation
    assert result.images_per_s == 5.0  # 30 images in 6 s


def test_an_unknown_monitor_names_what_is_measured(tiny_config: ConfigMaker, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'val/sharpness' is not measured for this model, use one of val/accuracy"):
        played(tiny_config(monitor="val/sharpness"), [0.5], tmp_path)
