"""What becomes of a trial, by how its run ends; the run itself is played by a function."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import load_study
from attnsearch.data.loader import BatchLoader, open_data
from attnsearch.data.tables import build_tables
from attnsearch.errors import (
    ConfigError,
    ConnectionLost,
    DataError,
    DeviceError,
    NonFiniteLoss,
    StoreError,
    TransientError,
    TrialInterrupted,
    UnexpectedError,
    UsageError,
)
from attnsearch.evaluation.evaluation import Evaluation
from attnsearch.models import build_model
from attnsearch.models.checkpoint import read_model_checkpoint
from attnsearch.search import space
from attnsearch.search import worker as module
from attnsearch.search.context import SearchContext, Worker
from attnsearch.search.handle import StudyHandle
from attnsearch.search.plan import SearchPlan
from attnsearch.search.publish import publish_study
from attnsearch.search.queue import claim_next
from attnsearch.search.study import RETURNED
from attnsearch.search.worker import run_claim, run_worker
from attnsearch.store.leases import RELEASED
from attnsearch.training import trainer as training
from attnsearch.training.loop import train_epoch
from attnsearch.types import EpochRecord, TrialResult
from tests.conftest import TINY
from tests.counting import counted_calls
from tests.search.studies import ON_EACH_DATABASE, PLAYED_DATA

Open = Callable[..., StudyHandle]
Run = Callable[[ExperimentConfig, SearchContext], TrialResult]


def record(epoch: int, accuracy: float) -> EpochRecord:
    return EpochRecord(
        epoch=epoch, split="val", n_images=4, loss=0.5, terms={}, metrics={"accuracy": accuracy},
        lr=0.1, seconds=1.0, images_per_s=4.0, peak_memory_mb=1.0,
    )  # fmt: skip


def result(state: str = "complete", **metrics: float) -> TrialResult:
    values = {key.replace("_", "/", 1): value for key, value in metrics.items()}
    return TrialResult(state=state, best_epoch=2, epochs_run=3, metrics=values, seconds=1.0, images_per_s=9.0)  # type: ignore[arg-type]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], None]:
    """Puts a function in the place of training and evaluation."""

    def install(run: Run) -> None:
        monkeypatch.setattr(module, "fit_together", lambda config, context, data, ranks: run(config, context))

    monkeypatch.setattr(module, "evaluate_best", lambda config, ended, context, source, spread: ended)
    monkeypatch.setattr(module, "list_files", lambda *arguments: None)
    monkeypatch.setattr(module, "attach_images", lambda *arguments, check: None)
    return install


def work(handle: StudyHandle) -> None:
    run_worker(handle, Worker("here:1:a", None), PLAYED_DATA)


@ON_EACH_DATABASE
def test_budget_counts_complete_and_pruned_trials(open_tiny: Open, play: Callable[[Run], None]) -> None:
    ends = iter(["complete", "pruned", "complete", "pruned"])
    play(lambda config, context: result(next(ends), val_accuracy=0.5))
    handle = open_tiny(n_trials=4)
    work(handle)
    assert [trial.state.name for trial in handle.trials()] == ["COMPLETE", "PRUNED", "COMPLETE", "PRUNED"]


@ON_EACH_DATABASE
def test_failed_trial_keeps_its_reason_and_the_study_goes_on(open_tiny: Open, play: Callable[[Run], None]) -> None:
    def run(config: ExperimentConfig, context: SearchContext) -> TrialResult:
        if context.number == 0:
            raise NonFiniteLoss("train/loss became nan in epoch 1")
        return result(val_accuracy=0.5)

    play(run)
    handle = open_tiny(n_trials=2)
    work(handle)
    assert [trial.state.name for trial in handle.trials()] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert handle.trials()[0].user_attrs["error"] == "train/loss became nan in epoch 1"


def test_three_failures_in_a_row_stop_the_worker(open_tiny: Open, play: Callable[[Run], None]) -> None:
    def run(config: ExperimentConfig, context: SearchContext) -> TrialResult:
        raise NonFiniteLoss("nan")

    play(run)
    handle = open_tiny(n_trials=9)
    work(handle)
    assert [trial.state.name for trial in handle.trials()] == ["FAIL"] * 3


@pytest.mark.parametrize(
    ("raised", "reported", "words"),
    [
        (DataError("data/x.jpg is truncated"), DataError, "data/x.jpg is truncated"),
        (ConfigError("train.teacher is gone"), ConfigError, "train.teacher is gone"),
        (StoreError("/disk: full"), StoreError, "/disk: full"),
        (OSError(errno.ENOSPC, "No space left", "/maps.npy"), StoreError, "/maps.npy: No space left; .* MiB are free"),
        (OSError(errno.EIO, "Input/output error", "/x.npy"), TransientError, "/x.npy: Input/output error"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), DeviceError, "illegal memory access"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), DeviceError, "CUDNN_STATUS_EXECUTION_FAILED"),
        (KeyError("oops"), UnexpectedError, "unexpected KeyError: 'oops'"),
        (UsageError("no map x"), UnexpectedError, "unexpected UsageError: no map x"),
    ],
)
def test_fault_that_is_not_the_settings_returns_the_trial(
    open_tiny: Open, play: Callable[[Run], None], raised: Exception, reported: type[Exception], words: str
) -> None:
    def run(config: ExperimentConfig, context: SearchContext) -> TrialResult:
        raise raised

    play(run)
    handle = open_tiny()
    with pytest.raises(reported, match=words):
        work(handle)
    (trial,) = handle.trials()
    assert trial.state == TrialState.WAITING
    assert re.search(words, trial.user_attrs[RETURNED]["reason"])
    assert handle.store.leases.stalled() == {0: 1}


def test_faults_between_epochs_are_forgiven(open_tiny: Open, play: Callable[[Run], None]) -> None:
    def run(config: ExperimentConfig, context: SearchContext) -> TrialResult:
        context.record([record(epoch, 0.5) for epoch in range(1, context.attempt + 1)])
        if context.attempt == 6:
            return result(val_accuracy=0.5)
        raise RuntimeError("CUDA error: unknown error")

    play(run)
    handle = open_tiny(n_trials=1)
    for _ in range(5):
        with pytest.raises(DeviceError):
            work(handle)
    work(handle)
    assert [trial.state.name for trial in handle.trials()] == ["COMPLETE"]
    assert handle.store.leases.of_trial(0).attempt == 6  # type: ignore[union-attr]


def test_trial_whose_every_attempt_faults_fails_after_three_while_others_run(
    open_tiny: Open, play: Callable[[Run], None]
) -> None:
    def run(config: ExperimentConfig, context: SearchContext) -> TrialResult:
        if context.number == 0:
            raise RuntimeError("CUDA error: device-side assert triggered")
        context.record([record(1, 0.5)])
        return result(val_accuracy=0.5)

    play(run)
    handle = open_tiny(n_trials=3)
    for _ in range(3):
        with pytest.raises(DeviceError):
            work(handle)
    work(handle)
    assert [trial.state.name for trial in handle.trials()] == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert "device-side assert" in handle.trials()[0].user_attrs["error"]


def test_drawn_values_that_do_not_fit_together_fail_their_trial_alone(
    open_tiny: Open, play: Callable[[Run], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    play(lambda config, context: result(val_accuracy=0.5))
    handle = open_tiny(n_trials=1)
    original = space.with_settings

    def refuse_first(experiment: ExperimentConfig, settings: Any) -> ExperimentConfig:
        if len(handle.trials()) == 1:
            raise ConfigError("model.stage must lie before the last one, got 4")
        return original(experiment, settings)

    monkeypatch.setattr(space, "with_settings", refuse_first)
    work(handle)
    assert [trial.state.name for trial in handle.trials()] == ["FAIL", "COMPLETE"]
    assert handle.trials()[0].user_attrs["error"] == "model.stage must lie before the last one, got 4"


def test_end_whose_answer_was_lost_is_told_once(
    open_tiny: Open, play: Callable[[Run], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    play(lambda config, context: result(val_accuracy=0.5))
    handle = open_tiny(n_trials=1)
    tell, answers = handle.study.tell, iter([ConnectionLost("server closed the connection")])

    def tell_without_answer(*arguments: Any, **settings: Any) -> Any:
        told = tell(*arguments, **settings)
        if lost := next(answers, None):
            raise lost
        return told

    monkeypatch.setattr(handle.study, "tell", tell_without_answer)
    work(handle)
    (trial,) = handle.trials()
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.5)
    assert handle.store.leases.of_trial(0).state == RELEASED  # type: ignore[union-attr]


@pytest.mark.parametrize("keep", [True, False])
def test_finished_trial_keeps_its_resume_checkpoint_only_if_asked(
    open_tiny: Open, play: Callable[[Run], None], keep: bool
) -> None:
    def run(config: ExperimentConfig, context: SearchContext) -> TrialResult:
        (context.directory / "resume.1.pt").touch()
        return result(val_accuracy=0.5)

    play(run)
    handle = open_tiny(n_trials=1, retention={"resume": keep})
    work(handle)
    assert bool(handle.layout.trial(0).resumes()) is keep


def test_objective_that_is_not_finite_fails_the_trial(open_tiny: Open, play: Callable[[Run], None]) -> None:
    play(lambda config, context: result(val_accuracy=float("nan")))
    handle = open_tiny(n_trials=1)
    work(handle)
    assert handle.trials()[0].user_attrs["error"] == "val/accuracy is not a finite number"


@ON_EACH_DATABASE
def test_interrupted_trial_continues_under_its_number_and_parameters(
    open_tiny: Open, play: Callable[[Run], None]
) -> None:
    seen: list[tuple[int, int, float]] = []

    def run(config: ExperimentConfig, context: SearchContext) -> TrialResult:
        seen.append((context.number, context.attempt, config.train.optimizer.lr))
        if context.attempt == 1:
            raise TrialInterrupted
        return result(val_accuracy=0.5)

    play(run)
    handle = open_tiny(n_trials=1)
    worker = Worker("here:1:a", None)
    claim = claim_next(handle, worker)
    assert not isinstance(claim, str)
    run_claim(handle, worker, claim, PLAYED_DATA)
    assert handle.trials()[0].state == TrialState.WAITING
    work(handle)
    assert [trial.state for trial in handle.trials()] == [TrialState.COMPLETE]
    (first, second) = seen
    assert first[::2] == second[::2]  # number and learning rate
    assert (first[1], second[1]) == (1, 2)


@ON_EACH_DATABASE
def test_lost_lease_ends_nothing(open_tiny: Open, play: Callable[[Run], None]) -> None:
    handle = open_tiny(n_trials=1)
    worker = Worker("here:1:a", None)

    def run(config: ExperimentConfig, context: SearchContext) -> TrialResult:
        handle.store.leases.take_back(0)
        handle.store.leases.claim(0, "here:2:b", duration_s=100.0)
        return result(val_accuracy=0.9)

    play(run)
    claim = claim_next(handle, worker)
    assert not isinstance(claim, str)
    run_claim(handle, worker, claim, PLAYED_DATA)
    assert handle.trials()[0].state == TrialState.RUNNING
    assert handle.store.leases.of_trial(0).worker == "here:2:b"  # type: ignore[union-attr]


@ON_EACH_DATABASE
def test_trial_that_another_attempt_has_ended_stays_as_it_is(open_tiny: Open, play: Callable[[Run], None]) -> None:
    handle = open_tiny(n_trials=1)
    worker = Worker("here:1:a", None)

    def run(config: ExperimentConfig, context: SearchContext) -> TrialResult:
        handle.store.leases.take_back(0)
        handle.store.leases.claim(0, "here:2:b", duration_s=100.0)
        handle.study.tell(0, 0.4)
        context.report(0.9, 1)
        raise AssertionError("a trial that has ended takes no report")

    play(run)
    claim = claim_next(handle, worker)
    assert not isinstance(claim, str)
    run_claim(handle, worker, claim, PLAYED_DATA)
    assert handle.trials()[0].value == 0.4


def test_trial_seed_derives_from_its_number(open_tiny: Open, play: Callable[[Run], None]) -> None:
    seeds: list[int] = []

    def run(config: ExperimentConfig, context: SearchContext) -> TrialResult:
        seeds.append(config.seed)
        return result(val_accuracy=0.5)

    play(run)
    work(open_tiny(n_trials=3))
    assert len(set(seeds)) == 3


@ON_EACH_DATABASE
def test_constraint_is_the_distance_outside_the_bound(open_tiny: Open, play: Callable[[Run], None]) -> None:
    play(lambda config, context: result(val_accuracy=0.5, val_sparsity=0.4))
    handle = open_tiny(n_trials=1, constraints={"val/sparsity": {"at_most": 0.3}, "val/accuracy": {"at_least": 0.4}})
    work(handle)
    assert handle.trials()[0].constraints == pytest.approx({"val/sparsity": 0.1, "val/accuracy": -0.1})


@pytest.mark.parametrize(
    "pruner", [{"name": "median", "n_startup_trials": 2}, {"name": "percentile", "n_startup_trials": 2}]
)
@pytest.mark.parametrize(
    "objectives",
    [
        {"val/accuracy": "maximize"},
        {"val/sparsity": "minimize"},  # the monitor is still the accuracy, of which more is better
    ],
)
def test_poor_curve_is_pruned_whatever_the_objective(
    open_tiny: Open, play: Callable[[Run], None], objectives: dict[str, str], pruner: dict[str, object]
) -> None:
    def run(config: ExperimentConfig, context: SearchContext) -> TrialResult:
        level = 0.1 if context.number == 3 else 0.8
        for epoch in (1, 2, 3):
            context.report(level + (context.number + epoch) / 100, epoch)
            if context.should_prune():
                return result("pruned", val_accuracy=level)
        return result(val_accuracy=level, val_sparsity=0.5)

    play(run)
    handle = open_tiny(n_trials=4, objectives=objectives, pruner=pruner)
    work(handle)
    assert [trial.state.name for trial in handle.trials()] == ["COMPLETE", "COMPLETE", "COMPLETE", "PRUNED"]


def test_trial_builds_two_models_and_three_loaders(tmp_path: Path) -> None:
    """One model is trained and one evaluated; loaders of training, of validation, and of the evaluation's split.

    Publication reads the checkpoint once more and builds one model for all splits.
    """
    steps = {"models": build_model, "loaders": BatchLoader.__init__, "checkpoints": read_model_checkpoint,
             "listings": build_tables, "epochs": train_epoch}  # fmt: skip
    overrides = [*TINY, "train.epochs=1", "n_trials=1"]
    plan = SearchPlan.check(load_study("br_npa_low_res", profile="demo", overrides=overrides), tmp_path)
    with counted_calls(steps) as counts:
        handle, data = plan.open(), plan.open_data()
        run_worker(handle, Worker("here:1:a", None), data)
    assert [trial.state for trial in handle.trials()] == [TrialState.COMPLETE]
    assert counts == {"models": 2, "loaders": 3, "checkpoints": 1, "epochs": 1}
    with counted_calls(steps) as counts:
        publish_study(handle, data)
    handle.database.close()
    assert counts["models"] == counts["checkpoints"] == 1
    assert counts["listings"] == 0


@pytest.mark.slow
def test_trial_whose_maps_found_a_full_disk_is_finished_without_training(
    open_tiny: Callable[..., StudyHandle], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    train_epoch, run = training.train_epoch, Evaluation.run

    def count(setup: Any, epoch: int, **settings: Any) -> Any:
        trained.append(epoch)
        return train_epoch(setup, epoch, **settings)

    def fill_disk(*arguments: Any, archive: Any, **settings: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device", str(archive.maps))

    monkeypatch.setattr(training, "train_epoch", count)
    handle = open_tiny(n_trials=1)
    monkeypatch.setattr(Evaluation, "run", fill_disk)
    with pytest.raises(StoreError, match=r"attMaps_val\.npy: No space left on device; .* prune-files"):
        run_worker(handle, Worker("here:1:a", None), open_data(handle.loaded.experiment.data))
    assert (handle.trials()[0].state, trained) == (TrialState.WAITING, [1, 2])

    monkeypatch.setattr(Evaluation, "run", run)
    run_worker(handle, Worker("here:2:b", None), open_data(handle.loaded.experiment.data))
    assert (handle.trials()[0].state, trained) == (TrialState.COMPLETE, [1, 2])
    assert handle.store.read_epochs()["epoch"].tolist() == [1, 2]
    assert not handle.layout.trial(0).resumes()
