"""One trial from end to end: what it writes, how it continues, how it ends."""

from __future__ import annotations

import json
import logging
import re
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.data.loader import DataSource
from attnsearch.errors import (
    ConfigError,
    DataError,
    LeaseLost,
    NonFiniteLoss,
    OutOfMemory,
    StoreError,
    TrialError,
    TrialInterrupted,
)
from attnsearch.files import is_temporary
from attnsearch.models.weights import read_checkpoint
from attnsearch.store.epochs import read_csv
from attnsearch.store.trial_layout import TrialLayout
from attnsearch.training import loop, trainer
from attnsearch.training.trainer import fit, log_to
from attnsearch.types import EpochRecord
from tests.search.faults import wait_for
from tests.tiny import ConfigMaker, RecordingContext

#: All that a stored generator state would be needed for: dropout, random seed pixels, augmentation, shuffling.
RANDOM_MODEL = {"name": "br_npa", "dropout": 0.3, "random_vectors": True}
ADAPTIVE = {"optimizer": {"name": "amsgrad", "lr": 0.01}, "schedule": {"name": "cosine", "warmup_epochs": 0.5}}


def timeless(records: list[EpochRecord]) -> list[EpochRecord]:
    return [replace(record, seconds=0.0, images_per_s=0.0, peak_memory_mb=0.0) for record in records]


def final_state(directory: Path, attempt: int) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(TrialLayout(directory).resume(attempt), weights_only=True)
    return state


def assert_same(found: Any, expected: Any, place: str = "") -> None:
    """Compares nested dicts, lists and tuples of tensors and plain values bit for bit, but for the costs of epochs."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), place
        for key in expected.keys() - {"seconds", "images_per_s", "peak_memory_mb"}:
            assert_same(found[key], expected[key], f"{place}/{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), place
        for index, (left, right) in enumerate(zip(found, expected, strict=True)):
            assert_same(left, right, f"{place}/{index}")
    else:
        assert torch.equal(found, expected) if isinstance(expected, Tensor) else found == expected, place


def film_of(directory: Path) -> dict[str, bytes]:
    """Name of each file of the film strip -> its content; none may be half written or left over."""
    return {path.name: path.read_bytes() for path in TrialLayout(directory).film_images.parent.iterdir()}


def stop_at(n_checks: int, error: type[Exception] = TrialInterrupted) -> Callable[[], None]:
    """Raises at the n-th check, from 0, and at all later ones, as a stop and a lost lease do."""
    calls = iter(range(10_000))

    def check() -> None:
        if next(calls) >= n_checks:
            raise error

    return check


@pytest.fixture(scope="module")
def three_epochs(tiny_config: ConfigMaker) -> ExperimentConfig:
    return tiny_config(model=RANDOM_MODEL, train={"epochs": 3, **ADAPTIVE})


@pytest.fixture(scope="module")
def uninterrupted(
    three_epochs: ExperimentConfig, data: DataSource, tmp_path_factory: pytest.TempPathFactory
) -> RecordingContext:
    context = RecordingContext(tmp_path_factory.mktemp("uninterrupted"))
    fit(three_epochs, context, data=data)
    return context


def test_a_run_leaves_its_files(uninterrupted: RecordingContext, three_epochs: ExperimentConfig) -> None:
    layout = TrialLayout(uninterrupted.directory)
    assert {path.name for path in layout.directory.iterdir()} == {
        "log.txt",
        "epochs.csv",
        "best.safetensors",
        "resume.1.pt",
        "film",
    }
    assert layout.film_epochs() == [1, 2, 3]
    assert [(record.epoch, record.split) for record in uninterrupted.records] == [
        (epoch, split) for epoch in (1, 2, 3) for split in ("train", "val")
    ]
    assert list(read_csv(layout.epochs_csv)["epoch"]) == [1, 2, 3]
    _, metadata = read_checkpoint(layout.best)
    assert json.loads(metadata["class_names"]) == ["blue", "red"]
    assert ExperimentConfig.model_validate_json(metadata["config"]) == three_epochs
    assert [epoch for _, epoch in uninterrupted.reports] == [1, 2, 3]


def test_the_log_has_a_line_per_epoch(uninterrupted: RecordingContext) -> None:
    lines = TrialLayout(uninterrupted.directory).log.read_text().splitlines()
    assert sum("INFO epoch " in line for line in lines) == 3
    assert not logging.getLogger("attnsearch").handlers


# Checks of an epoch: 3 updates, 1 validation batch, CSV, and of the other thread resume file and kept file where the
# epoch is the best so far. The first epoch is, so its checks, the first 4 and 3 in some order, are 0 to 6, and those of
# its two files may come later; where a later one is, the places shift by one.
@pytest.mark.parametrize("n_checks", [1, 4, 5, 6, 8, 11, 12, 16])
def test_resuming_equals_not_stopping(
    n_checks: int,
    three_epochs: ExperimentConfig,
    uninterrupted: RecordingContext,
    data: DataSource,
    tmp_path: Path,
) -> None:
    with pytest.raises(TrialInterrupted):
        fit(three_epochs, RecordingContext(tmp_path, on_check=stop_at(n_checks)), data=data)
    torch.manual_seed(n_checks)  # a new process starts elsewhere
    context = RecordingContext(tmp_path, attempt=2)
    fit(three_epochs, context, data=data)
    assert timeless(context.records) == timeless(uninterrupted.records)
    assert context.reports == uninterrupted.reports
    assert list(TrialLayout(tmp_path).resumes()) == [2]
    assert film_of(tmp_path) == film_of(uninterrupted.directory)
    assert_same(final_state(tmp_path, 2), final_state(uninterrupted.directory, 1))
    assert_same(read_checkpoint(TrialLayout(tmp_path).best), read_checkpoint(TrialLayout(uninterrupted.directory).best))


def test_epoch_that_the_database_knows_and_the_disk_does_not_is_trained_again(
    three_epochs: ExperimentConfig, uninterrupted: RecordingContext, data: DataSource, tmp_path: Path
) -> None:
    def stop_the_second_write() -> None:
        is_writer = threading.current_thread() is not threading.main_thread()
        if is_writer and TrialLayout(tmp_path).best.exists():
            raise TrialInterrupted

    stopped = RecordingContext(tmp_path, on_check=stop_the_second_write)
    with pytest.raises(TrialInterrupted):
        fit(three_epochs, stopped, data=data)
    assert [epoch for _, epoch in stopped.reports] == [1, 2]
    assert torch.load(TrialLayout(tmp_path).resume(1), weights_only=True)["n_updates"] == 3
    context = RecordingContext(tmp_path, attempt=2)
    fit(three_epochs, context, data=data)
    assert timeless(context.records) == timeless(uninterrupted.records)
    assert_same(final_state(tmp_path, 2), final_state(uninterrupted.directory, 1))


def test_a_finished_run_is_not_trained_again(
    three_epochs: ExperimentConfig, uninterrupted: RecordingContext, data: DataSource
) -> None:
    again = RecordingContext(uninterrupted.directory)
    before = TrialLayout(again.directory).best.stat().st_mtime_ns
    result = fit(three_epochs, again, data=data)
    assert again.records == uninterrupted.records  # with their timings
    assert again.reports == uninterrupted.reports
    assert TrialLayout(again.directory).best.stat().st_mtime_ns == before
    assert result.seconds == sum(record.seconds for record in uninterrupted.records)


def test_the_seed_decides_everything(
    three_epochs: ExperimentConfig, uninterrupted: RecordingContext, data: DataSource, tmp_path: Path
) -> None:
    other = RecordingContext(tmp_path)
    fit(three_epochs.model_copy(update={"seed": 2}), other, data=data)
    assert timeless(other.records) != timeless(uninterrupted.records)


def test_a_lost_lease_writes_nothing(tiny_config: ConfigMaker, data: DataSource, tmp_path: Path) -> None:
    config = tiny_config(train={"epochs": 1})
    with pytest.raises(LeaseLost):  # checks: 3 updates, validation, then the rename of the resume checkpoint
        fit(config, RecordingContext(tmp_path, on_check=stop_at(4, LeaseLost)), data=data)
    assert not TrialLayout(tmp_path).best.exists()
    assert not TrialLayout(tmp_path).resumes()
    assert not [path for path in tmp_path.iterdir() if is_temporary(path)]


def test_pruning_ends_the_trial_after_all_is_written(
    tiny_config: ConfigMaker, data: DataSource, tmp_path: Path
) -> None:
    context = RecordingContext(tmp_path, prune_after=2)
    result = fit(tiny_config(train={"epochs": 5}), context, data=data)
    assert (result.state, result.epochs_run) == ("pruned", 2)
    assert list(read_csv(TrialLayout(tmp_path).epochs_csv)["epoch"]) == [1, 2]
    assert TrialLayout(tmp_path).resume(1).exists()


def test_copies_of_a_state_go_once_they_are_written(
    three_epochs: ExperimentConfig, data: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    copy = trainer.copy_checkpoints

    def noted(*arguments: Any, **settings: Any) -> Any:
        copies = copy(*arguments, **settings)
        made.append(weakref.ref(copies))
        return copies

    def wait_until_they_are_gone() -> None:
        if made and threading.current_thread() is threading.main_thread():
            wait_for(lambda: True if made[-1]() is None else None)

    monkeypatch.setattr(trainer, "copy_checkpoints", noted)
    fit(three_epochs, RecordingContext(tmp_path, on_check=wait_until_they_are_gone), data=data)
    assert len(made) == 3


def test_a_trial_that_paused_twice_ends_as_one_that_did_not(
    three_epochs: ExperimentConfig, uninterrupted: RecordingContext, data: DataSource, tmp_path: Path
) -> None:
    for attempt, pause_after in ((1, 1), (2, 2)):
        paused = RecordingContext(tmp_path, attempt=attempt, pause_after=pause_after)
        result = fit(three_epochs, paused, data=data)
        assert (result.state, result.epochs_run) == ("paused", pause_after)
        assert list(read_csv(TrialLayout(tmp_path).epochs_csv)["epoch"]) == list(range(1, pause_after + 1))
    again = RecordingContext(tmp_path, attempt=3, pause_after=2)
    assert fit(three_epochs, again, data=data).state == "paused"  # killed before it was written; nothing is trained
    assert again.reports == paused.reports
    context = RecordingContext(tmp_path, attempt=4)
    result = fit(three_epochs, context, data=data)
    assert result.state == "complete"
    assert timeless(context.records) == timeless(uninterrupted.records)
    assert film_of(tmp_path) == film_of(uninterrupted.directory)
    assert_same(final_state(tmp_path, 4), final_state(uninterrupted.directory, 1))
    assert_same(read_checkpoint(TrialLayout(tmp_path).best), read_checkpoint(TrialLayout(uninterrupted.directory).best))


def test_a_trial_pauses_at_no_epoch_that_is_its_last(
    tiny_config: ConfigMaker, data: DataSource, tmp_path: Path
) -> None:
    result = fit(tiny_config(train={"epochs": 2}), RecordingContext(tmp_path, pause_after=2), data=data)
    assert (result.state, result.epochs_run) == ("complete", 2)


def test_early_stopping_ends_the_run(tiny_config: ConfigMaker, data: DataSource, tmp_path: Path) -> None:
    optimizer = {"name": "sgd", "lr": 1e-30}  # nothing changes, so nothing improves after the first epoch
    config = tiny_config(
        model={"dropout": 0.0},
        train={"epochs": 9, "early_stopping_epochs": 2, "optimizer": optimizer},
        monitor="val/accuracy",
    )
    result = fit(config, RecordingContext(tmp_path), data=data)
    assert result.epochs_run == result.best_epoch + 2


def test_a_misspelled_monitor_is_refused_before_the_first_epoch(
    tiny_config: ConfigMaker, data: DataSource, tmp_path: Path
) -> None:
    context = RecordingContext(tmp_path)
    with pytest.raises(ConfigError, match="monitor 'val/acuracy' is not measured"):
        fit(tiny_config(monitor="val/acuracy"), context, data=data)
    assert not context.records


def test_a_monitor_that_is_never_defined_fails_the_trial(
    tiny_config: ConfigMaker, data: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate = loop.validate_epoch

    def undefined(*arguments: Any, **options: Any) -> EpochRecord:
        record = validate(*arguments, **options)
        return replace(record, metrics={**record.metrics, "sparsity": float("nan")})

    monkeypatch.setattr(trainer, "validate_epoch", undefined)
    config = tiny_config(train={"epochs": 1}, monitor="val/sparsity", monitor_direction="minimize")
    with pytest.raises(TrialError, match="'val/sparsity' was undefined"):
        fit(config, RecordingContext(tmp_path), data=data)


def test_a_diverging_run_is_a_typed_failure(tiny_config: ConfigMaker, data: DataSource, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLoss, match=r"learning rate 1e\+30"):
        fit(tiny_config(train={"optimizer": {"name": "sgd", "lr": 1e30}}), RecordingContext(tmp_path), data=data)


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that has room for parts of two images in training, from the second epoch on."""
    forward = loop.forward

    def limited(this: loop.TrainingSetup, batch: Any, **options: Any) -> Any:
        is_second = this.schedule.optimizer.state_dict()["state"] != {} and this.model.training
        if is_second and len(batch.labels) > 2:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            )
        return forward(this, batch, **options)

    monkeypatch.setattr(loop, "forward", limited)


@pytest.mark.usefixtures("small_memory")
def test_too_little_memory_is_a_typed_failure(tiny_config: ConfigMaker, data: DataSource, tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory, match=r"8 images of 32 x 32 px .*set train\.halve_on_oom=true") as caught:
        fit(tiny_config(), RecordingContext(tmp_path), data=data)
    assert caught.value.__context__ is None  # nothing holds the tensors of the failed step


def test_halving_ends_at_pairs_where_images_are_paired(
    tiny_config: ConfigMaker, data: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def starved(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(loop, "forward", starved)
    model = {"name": "dcal", "backbone": "deit_tiny_patch16_224", "width": 0.34, "depth": 2}
    config = tiny_config(model=model, train={"halve_on_oom": True})
    with pytest.raises(OutOfMemory, match=r"with 2 images .*cannot be halved"):
        fit(config, RecordingContext(tmp_path), data=data)


@pytest.mark.usefixtures("small_memory")
def test_parts_are_halved_until_they_fit(tiny_config: ConfigMaker, data: DataSource, tmp_path: Path) -> None:
    context = RecordingContext(tmp_path)
    result = fit(tiny_config(train={"halve_on_oom": True}), context, data=data)
    assert result.metrics["train/accumulation"] == 4.0  # 8 images in parts of 2
    assert result.epochs_run == 2
    assert "starts again with accumulation 4" in TrialLayout(tmp_path).log.read_text()
    assert final_state(tmp_path, 1)["accumulation"] == 4
    _, metadata = read_checkpoint(TrialLayout(tmp_path).best)
    assert metadata["accumulation"] == "4"


def test_halving_ends_at_single_images(
    tiny_config: ConfigMaker, data: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def starved(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(loop, "forward", starved)
    with pytest.raises(OutOfMemory, match=r"with 1 images .*cannot be halved"):
        fit(tiny_config(train={"halve_on_oom": True}), RecordingContext(tmp_path), data=data)


def test_other_runtime_errors_pass_unchanged(
    tiny_config: ConfigMaker, data: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(loop, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        fit(tiny_config(), RecordingContext(tmp_path), data=data)


def test_validation_images_must_be_the_same_on_resume(
    tiny_config: ConfigMaker, data: DataSource, tmp_path: Path
) -> None:
    fit(tiny_config(train={"epochs": 1}), RecordingContext(tmp_path), data=data)
    other = replace(data, tables=replace(data.tables, val_hash="f" * 64))
    with pytest.raises(DataError, match="now ffffffffffff"):
        fit(tiny_config(train={"epochs": 1}), RecordingContext(tmp_path), data=other)


def test_only_the_package_is_logged_and_only_during_the_block(tmp_path: Path) -> None:
    path, package = tmp_path / "log.txt", logging.getLogger("attnsearch")
    level = package.level
    with log_to(path):
        logging.getLogger("attnsearch.training.trainer").info("epoch %d", 1)
        logging.getLogger("attnsearch.training.trainer").debug("detail")
        logging.getLogger("another").warning("not ours")
    logging.getLogger("attnsearch").warning("too late")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ INFO epoch 1\n", path.read_text())
    assert (package.handlers, package.level) == ([], level)


def test_a_second_attempt_appends(tmp_path: Path) -> None:
    for attempt in (1, 2):
        with log_to(tmp_path / "new" / "log.txt"):
            logging.getLogger("attnsearch").info("attempt %d", attempt)
    assert len((tmp_path / "new" / "log.txt").read_text().splitlines()) == 2


def test_the_handler_goes_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), log_to(tmp_path / "log.txt"):
        raise KeyError
    assert not logging.getLogger("attnsearch").handlers


def test_a_folder_that_cannot_be_made_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"/file: File exists"), log_to(tmp_path / "file" / "log.txt"):
        pass
