"""Which epoch is best, when patience ends; broken, foreign and missing checkpoints."""

from __future__ import annotations

import errno
import math
import os
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.data.loader import DataSource
from attnsearch.errors import ConfigError, StoreError, TransientStoreError
from attnsearch.models.checkpoint import read_model_checkpoint
from attnsearch.models.weights import read_checkpoint
from attnsearch.store.trial_layout import TrialLayout
from attnsearch.training import state
from attnsearch.training.state import TrainingState, load_optimizer
from attnsearch.training.trainer import fit
from attnsearch.types import EpochRecord, Split
from tests.search.faults import wait_for
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


@dataclass
class CopyingContext(RecordingContext):
    """Copies the two checkpoints of the first epoch to `first.pt` and `first.safetensors`, once they are written."""

    def report(self, value: float, epoch: int) -> None:
        if epoch == 1:
            wait_for(lambda: True if TrialLayout(self.directory).best.exists() else None)
            shutil.copy(TrialLayout(self.directory).resume(1), self.directory / "first.pt")
            shutil.copy(TrialLayout(self.directory).best, self.directory / "first.safetensors")


@pytest.fixture(scope="module")
def improving(
    tiny_config: ConfigMaker, data: DataSource, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ExperimentConfig, Path]:
    """A config whose second epoch is better than its first, and the folder of its run."""
    for direction in ("minimize", "maximize"):  # the loss moves one way or the other, whatever the machine
        directory = tmp_path_factory.mktemp(direction)
        config = tiny_config(monitor="val/loss", monitor_direction=direction)
        if fit(config, CopyingContext(directory), data=data).best_epoch == 2:
            return config, directory
    raise AssertionError("the loss of two epochs is the same")


@pytest.fixture(scope="module")
def config(improving: tuple[ExperimentConfig, Path]) -> ExperimentConfig:
    return improving[0]


@pytest.fixture(scope="module")
def finished(improving: tuple[ExperimentConfig, Path]) -> Path:
    return improving[1]


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "trial"))


def epochs_trained(context: RecordingContext) -> list[int]:
    """The epochs that the last call trained, from its log."""
    log = TrialLayout(context.directory).log.read_text().rpartition("attempt")[2]
    return [
        int(line.partition("INFO epoch ")[2].partition("/")[0]) for line in log.splitlines() if "INFO epoch" in line
    ]


def refit(folder: Path, config: ExperimentConfig, data: DataSource) -> list[int]:
    context = RecordingContext(folder, attempt=3)
    fit(config, context, data=data)
    return epochs_trained(context)


def assert_same_weights(folder: Path, finished: Path) -> None:
    (found, about), (expected, about_expected) = (
        read_checkpoint(TrialLayout(path).best) for path in (folder, finished)
    )
    assert about == about_expected
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_resume_checkpoint_holds_plain_values_only(finished: Path) -> None:
    content = torch.load(TrialLayout(finished).resume(1), weights_only=True)
    assert content["best_epoch"] == 2
    assert content["records"][0]["split"] == "train"


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_broken_newest_falls_back_to_the_one_before(
    damage: str, folder: Path, finished: Path, config: ExperimentConfig, data: DataSource
) -> None:
    layout = TrialLayout(folder)
    whole = layout.resume(1).read_bytes()
    middle = len(whole) // 2
    broken = {
        "cut": whole[:middle],
        "empty": b"",
        "flip": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
    }
    layout.resume(2).write_bytes(broken[damage])
    shutil.copy(folder / "first.pt", layout.resume(1))
    assert refit(folder, config, data) == [2]
    assert "resume.2.pt is broken and is passed over" in layout.log.read_text()
    assert list(layout.resumes()) == [3]
    assert_same_weights(folder, finished)


@pytest.mark.parametrize(
    "kind", [partial(torch.optim.Adam, fused=True), partial(torch.optim.SGD, momentum=0.9, fused=True)]
)
def test_optimizer_state_takes_the_memory_format_of_the_weights(kind: Callable[..., Optimizer]) -> None:
    """What a checkpoint holds may have been trained in another one; the next update must be the same."""
    own, other = (nn.Conv2d(3, 4, 3, bias=False) for _ in range(2))
    other.load_state_dict(own.state_dict())
    other.to(memory_format=torch.channels_last)
    first, second = (kind(model.parameters(), lr=0.5) for model in (own, other))
    gradient = torch.arange(108.0).reshape(4, 3, 3, 3) - 50
    for parameter, optimizer in ((own.weight, first), (other.weight, second)):
        parameter.grad = torch.empty_like(parameter).copy_(gradient)
        optimizer.step()
    load_optimizer(second, deepcopy(first.state_dict()))
    for parameter, optimizer in ((own.weight, first), (other.weight, second)):
        parameter.grad = torch.empty_like(parameter).copy_(gradient.flip(0))
        optimizer.step()
    torch.testing.assert_close(other.weight, own.weight)


def test_a_disk_that_does_not_answer_costs_no_epoch(
    folder: Path, config: ExperimentConfig, data: DataSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: Any, **_settings: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(state.torch, "load", refuse)
    with pytest.raises(TransientStoreError, match=r"resume\.1\.pt: Input/output error"):
        fit(config, RecordingContext(folder), data=data)


def test_a_best_checkpoint_that_was_not_written_is_made_from_the_resume_checkpoint(
    folder: Path, finished: Path, config: ExperimentConfig, data: DataSource
) -> None:
    shutil.copy(folder / "first.safetensors", TrialLayout(folder).best)  # killed just before the second one
    assert refit(folder, config, data) == []
    assert_same_weights(folder, finished)


def test_lost_weights_of_an_earlier_epoch_start_the_training_again(
    folder: Path, finished: Path, config: ExperimentConfig, data: DataSource
) -> None:
    layout = TrialLayout(folder)
    content = torch.load(layout.resume(1), weights_only=True)
    torch.save({**content, "best_epoch": 1}, layout.resume(1))
    layout.best.unlink()
    assert refit(folder, config, data) == [1, 2]
    assert_same_weights(folder, finished)


def test_other_settings_are_refused(folder: Path, config: ExperimentConfig, data: DataSource) -> None:
    other = config.model_copy(update={"seed": 2})
    with pytest.raises(
        ConfigError, match=rf"resume\.1\.pt was written under other settings.*now {other.digest()[:12]}"
    ):
        fit(other, RecordingContext(folder), data=data)


def test_another_device_or_thread_count_is_no_other_setting(
    folder: Path, config: ExperimentConfig, data: DataSource
) -> None:
    runtime = config.runtime.model_copy(update={"n_threads": None})
    context = RecordingContext(folder)
    fit(config.model_copy(update={"runtime": runtime}), context, data=data)
    assert epochs_trained(context) == []


def test_a_full_disk_is_a_store_error_and_leaves_the_old_checkpoint(
    tiny_config: ConfigMaker, data: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        """A file of a full disk."""

        def write(self, _: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def flush(self) -> None: ...

    save = torch.save
    monkeypatch.setattr(state.torch, "save", lambda content, file: save(content, Full()))
    with pytest.raises(StoreError, match=r"resume\.1\.pt: No space left on device"):
        fit(tiny_config(), RecordingContext(tmp_path), data=data)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epochs.csv", "film", "log.txt"]


def test_a_best_checkpoint_knows_its_run(finished: Path, config: ExperimentConfig, data: DataSource) -> None:
    kept = read_model_checkpoint(TrialLayout(finished).best)
    assert (kept.epoch, kept.accumulation, kept.class_names) == (2, 1, ("blue", "red"))
    assert kept.val_hash == data.tables.val_hash
    assert kept.config == config
