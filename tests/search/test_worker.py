"""What becomes of a trial, by how its run ends; the run itself is played by a function."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.trial import TrialState

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.errors import DataError, LeaseLost, NonFiniteLoss, TrialInterrupted
from attnsearch.search import worker as module
from attnsearch.search.context import SearchContext, Worker
from attnsearch.search.session import Session
from attnsearch.search.worker import OpenData, claim_next, run_claim, run_worker
from attnsearch.store.leases import HELD
from attnsearch.types import EpochRecord, TrialResult

Open = Callable[..., Session]
Run = Callable[[ExperimentConfig, SearchContext], TrialResult]


def record(epoch: int, accuracy: float) -> EpochRecord:
    return EpochRecord(
        epoch=epoch, split="val", n_images=4, loss=0.5, terms={}, metrics={"accuracy": accuracy},
        lr=0.1, seconds=1.0, images_per_s=4.0, peak_memory_mb=1.0,
    )  # fmt: skip


def result(state: str = "complete", **metrics: float) -> TrialResult:
    values = {key.replace("_", "/", 1): value for key, value in metrics.items()}
    return TrialResult(state=state, kept_epoch=2, epochs_run=3, metrics=values, seconds=1.0, images_per_s=9.0)  # type: ignore[arg-type]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], None]:
    """Puts a function in the place of training and evaluation."""

    def install(run: Run) -> None:
        monkeypatch.setattr(module, "fit", lambda config, context, data: run(config, context))

    monkeypatch.setattr(module, "evaluate_kept", lambda config, ended, layout, source, check: ended)
    monkeypatch.setattr(module, "list_files", lambda *arguments: None)
    monkeypatch.setattr(module, "attach_pictures", lambda *arguments, check: None)
    monkeypatch.setattr(OpenData, "of", lambda self, config: None)
    return install


def work(session: Session, *, started_at: float = 0.0) -> None:
    run_worker(session, Worker("here:1:a", None), started_at=started_at)


def test_budget_counts_complete_and_pruned_trials(open_tiny: Open, play: Callable[[Run], None]) -> None:
    ends = iter(["complete", "pruned", "complete", "pruned"])
    play(lambda config, context: result(next(ends), val_accuracy=0.5))
    session = open_tiny(n_trials=4)
    work(session)
    assert [trial.state.name for trial in session.trials()] == ["COMPLETE", "PRUNED", "COMPLETE", "PRUNED"]


def test_failed_trial_keeps_its_reason_and_the_study_goes_on(open_tiny: Open, play: Callable[[Run], None]) -> None:
    def run(config: ExperimentConfig, context: SearchContext) -> TrialResult:
        if context.number == 0:
            raise NonFiniteLoss("train/loss became nan in epoch 1")
        return result(val_accuracy=0.5)

    play(run)
    session = open_tiny(n_trials=2)
    work(session)
    assert [trial.state.name for trial in session.trials()] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert session.trials()[0].user_attrs["error"] == "train/loss became nan in epoch 1"


def test_three_failures_in_a_row_stop_the_worker(open_tiny: Open, play: Callable[[Run], None]) -> None:
    def run(config: ExperimentConfig, context: SearchContext) -> TrialResult:
        raise NonFiniteLoss("nan")

    play(run)
    session = open_tiny(n_trials=9)
    work(session)
    assert [trial.state.name for trial in session.trials()] == ["FAIL"] * 3


def test_data_error_fails_the_trial_and_stops_the_study(open_tiny: Open, play: Callable[[Run], None]) -> None:
    def run(config: ExperimentConfig, context: SearchContext) -> TrialResult:
        raise DataError("data/x.jpg is truncated")

    play(run)
    session = open_tiny()
    with pytest.raises(DataError, match=r"data/x\.jpg"):
        work(session)
    (trial,) = session.trials()
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["error"] == "data/x.jpg is truncated"


def test_unexpected_error_fails_the_trial_with_its_kind(open_tiny: Open, play: Callable[[Run], None]) -> None:
    def run(config: ExperimentConfig, context: SearchContext) -> TrialResult:
        raise KeyError("oops")

    play(run)
    session = open_tiny()
    with pytest.raises(KeyError):
        work(session)
    assert session.trials()[0].user_attrs["error"] == "unexpected KeyError: 'oops'"


def test_objective_that_is_not_finite_fails_the_trial(open_tiny: Open, play: Callable[[Run], None]) -> None:
    play(lambda config, context: result(val_accuracy=float("nan")))
    session = open_tiny(n_trials=1)
    work(session)
    assert session.trials()[0].user_attrs["error"] == "val/accuracy is not a finite number"


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
    session = open_tiny(n_trials=1)
    worker = Worker("here:1:a", None)
    claim = claim_next(session, worker, started_at=0.0)
    assert not isinstance(claim, str)
    run_claim(session, worker, claim, OpenData())
    assert session.trials()[0].state == TrialState.WAITING
    work(session)
    assert [trial.state for trial in session.trials()] == [TrialState.COMPLETE]
    (first, second) = seen
    assert first[::2] == second[::2]  # number and learning rate
    assert (first[1], second[1]) == (1, 2)


def test_lost_lease_ends_nothing(open_tiny: Open, play: Callable[[Run], None]) -> None:
    session = open_tiny(n_trials=1)
    worker = Worker("here:1:a", None)

    def run(config: ExperimentConfig, context: SearchContext) -> TrialResult:
        session.leases.take_back(0)
        session.leases.claim(0, "here:2:b", duration_s=100.0)
        return result(val_accuracy=0.9)

    play(run)
    claim = claim_next(session, worker, started_at=0.0)
    assert not isinstance(claim, str)
    run_claim(session, worker, claim, OpenData())
    assert session.trials()[0].state == TrialState.RUNNING
    assert session.leases.of_trial(0).worker == "here:2:b"  # type: ignore[union-attr]


def test_trial_that_another_attempt_has_ended_stays_as_it_is(open_tiny: Open, play: Callable[[Run], None]) -> None:
    session = open_tiny(n_trials=1)
    worker = Worker("here:1:a", None)

    def run(config: ExperimentConfig, context: SearchContext) -> TrialResult:
        session.leases.take_back(0)
        session.leases.claim(0, "here:2:b", duration_s=100.0)
        session.study.tell(0, 0.4)
        context.report(0.9, 1)
        raise AssertionError("a trial that has ended takes no report")

    play(run)
    claim = claim_next(session, worker, started_at=0.0)
    assert not isinstance(claim, str)
    run_claim(session, worker, claim, OpenData())
    assert session.trials()[0].value == 0.4


def test_full_budget_of_running_trials_makes_others_wait(open_tiny: Open) -> None:
    session = open_tiny(n_trials=1)
    assert claim_next(session, Worker("here:1:a", None), started_at=0.0) not in ("wait", "done")
    assert claim_next(session, Worker("here:2:b", None), started_at=0.0) == "wait"


def test_trial_seed_derives_from_its_number(open_tiny: Open, play: Callable[[Run], None]) -> None:
    seeds: list[int] = []

    def run(config: ExperimentConfig, context: SearchContext) -> TrialResult:
        seeds.append(config.seed)
        return result(val_accuracy=0.5)

    play(run)
    work(open_tiny(n_trials=3))
    assert len(set(seeds)) == 3


def test_constraint_is_the_distance_outside_the_bound(open_tiny: Open, play: Callable[[Run], None]) -> None:
    play(lambda config, context: result(val_accuracy=0.5, val_sparsity=0.4))
    session = open_tiny(n_trials=1, constraints={"val/sparsity": {"at_most": 0.3}, "val/accuracy": {"at_least": 0.4}})
    work(session)
    assert session.trials()[0].constraints == pytest.approx({"val/sparsity": 0.1, "val/accuracy": -0.1})


def context_of(session: Session, tmp_path: Path, clock: Callable[[], float] | None = None) -> SearchContext:
    worker = Worker("here:1:a", None)
    claim = claim_next(session, worker, started_at=0.0)
    assert not isinstance(claim, str)
    own = {} if clock is None else {"clock": clock}
    return SearchContext(session, worker, claim.trial, attempt=claim.attempt, seed=1, directory=tmp_path, **own)


def test_context_asks_for_its_lease_again_after_a_pause(open_tiny: Open, tmp_path: Path) -> None:
    session, now = open_tiny(), [0.0]
    context = context_of(session, tmp_path, lambda: now[0])
    session.leases.take_back(0)
    context.check()  # the last answer is fresh
    now[0] = 400.0  # the process was paused
    with pytest.raises(LeaseLost, match="trial 0"):
        context.check()


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="no clock that counts a machine's sleep")
def test_sleep_of_the_whole_machine_is_a_pause_too(
    open_tiny: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_tiny()
    context = context_of(session, tmp_path)
    session.leases.take_back(0)
    awake = time.clock_gettime(time.CLOCK_BOOTTIME)
    monkeypatch.setattr(time, "clock_gettime", lambda clock: awake + 400.0)  # `time.monotonic` stood still
    with pytest.raises(LeaseLost, match="trial 0"):
        context.check()


def test_epochs_of_a_lost_attempt_are_not_written(open_tiny: Open, tmp_path: Path) -> None:
    session = open_tiny()
    context = context_of(session, tmp_path, lambda: 0.0)
    session.leases.take_back(0)
    with pytest.raises(LeaseLost):
        context.record([record(1, 0.5)])


def test_record_renews_the_lease_for_three_slow_epochs(open_tiny: Open, tmp_path: Path) -> None:
    session = open_tiny(lease_s=1.0)
    context = context_of(session, tmp_path, lambda: 0.0)
    context.record([record(1, 0.5)])  # one second long
    assert session.leases.seconds_left(0) == pytest.approx(3.0, abs=0.5)
    lease = session.leases.of_trial(0)
    assert lease is not None
    assert (lease.state, lease.epoch) == (HELD, 1)


def test_resumed_trial_reports_no_epoch_twice(open_tiny: Open, tmp_path: Path) -> None:
    session = open_tiny(pruner={"name": "median"})
    context = context_of(session, tmp_path, lambda: 0.0)
    for epoch in (1, 2, 1, 2, 3):
        context.report(epoch / 10, epoch)
    assert session.trials()[0].intermediate_values == {0: 0.1, 1: 0.2, 2: 0.3}


@pytest.mark.parametrize("pruner", [{"name": "median", "n_startup_trials": 2}, {"name": "successive_halving"}])
@pytest.mark.parametrize(
    "objectives",
    [
        {"val/accuracy": "maximize"},
        {"val/sparsity": "minimize"},  # the monitor is still the accuracy, of which more is better
        {"val/accuracy": "maximize", "val/sparsity": "minimize"},
    ],
)
def test_poor_curve_is_pruned_whatever_the_objectives(
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
    session = open_tiny(n_trials=4, objectives=objectives, pruner=pruner)
    work(session)
    assert [trial.state.name for trial in session.trials()] == ["COMPLETE", "COMPLETE", "COMPLETE", "PRUNED"]
