"""Trials that pause at rungs: which continue, how they survive kills, and that pausing changes no number."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.errors import NonFiniteLoss
from attnsearch.search import brackets, queue
from attnsearch.search import worker as module
from attnsearch.search.brackets import (
    BRACKETS,
    PROMOTED,
    RUNG_VALUES,
    brackets_of,
    is_paused,
    n_finished,
    opened_brackets,
)
from attnsearch.search.context import ClaimedTrial, SearchContext, Worker
from attnsearch.search.halving import Value
from attnsearch.search.handle import StudyHandle
from attnsearch.search.queue import claim_next, return_to_queue
from attnsearch.search.recovery import reclaim_lost_trials
from attnsearch.search.worker import run_claim, run_worker
from attnsearch.store.leases import SqlLeases
from attnsearch.types import TrialResult
from tests.search.studies import EXPERIMENT, ON_EACH_DATABASE, PLAYED_DATA

Open = Callable[..., StudyHandle]
Run = Callable[[ExperimentConfig, SearchContext], TrialResult]

N_EPOCHS = 16
SPACE: dict[str, Any] = {"train.optimizer.lr": {"kind": "float", "low": 1e-4, "high": 1e-2, "log": True}}
HALVING: dict[str, Any] = {
    "base": {**EXPERIMENT, "train": {**EXPERIMENT["train"], "epochs": N_EPOCHS}},
    "space": SPACE,
    "pruner": {"name": "halving"},
    "sampler": {"name": "random"},
}


@pytest.fixture
def open_halving(open_tiny: Open, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens a study with halving, over trials of 16 epochs."""
    from tests.search import studies

    monkeypatch.setitem(studies.EXPERIMENT, "train", HALVING["base"]["train"])
    return lambda **study: open_tiny(**{**HALVING, **study})


def worth(number: int, epoch: int) -> float:
    """The monitor of a trial after an epoch: all rise, and some of the early leaders fall back."""
    return round(0.5 + 0.4 * math.sin(3.0 * number) + 0.01 * epoch + 0.2 * math.sin(number + epoch / 5) / epoch, 6)


class Trainer:
    """Plays training: an epoch of a trial is trained once, and a later claim continues after the last one."""

    def __init__(self) -> None:
        self.trained: dict[int, list[int]] = {}

    def __call__(self, config: ExperimentConfig, context: SearchContext) -> TrialResult:
        epochs = self.trained.setdefault(context.number, [])
        while True:
            if epochs and context.should_pause(epochs[-1]) and epochs[-1] < N_EPOCHS:
                return self._result("paused", context.number)
            if len(epochs) == N_EPOCHS:
                return self._result("complete", context.number)
            epochs.append(len(epochs) + 1)
            context.report(worth(context.number, epochs[-1]), epochs[-1])

    def _result(self, state: Any, number: int) -> TrialResult:
        epochs = self.trained[number]
        best = max(worth(number, epoch) for epoch in epochs)
        metrics = {"val/accuracy": best, "val/sparsity": 0.5 + 0.4 * math.cos(5.0 * number)}
        return TrialResult(state, len(epochs), len(epochs), metrics, seconds=1.0, images_per_s=9.0)


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """Stands in for training and evaluation."""
    played = Trainer()
    monkeypatch.setattr(module, "fit_together", lambda config, context, data, ranks: played(config, context))
    monkeypatch.setattr(module, "evaluate_best", lambda config, ended, context, source, spread, n_images=None: ended)
    monkeypatch.setattr(module, "list_files", lambda *arguments: None)
    monkeypatch.setattr(module, "attach_images", lambda *arguments, check: None)
    return played


def work(handle: StudyHandle) -> None:
    run_worker(handle, Worker("here:1:a", None), PLAYED_DATA)


def lengths(handle: StudyHandle) -> dict[int, tuple[str, int]]:
    """Number of a trial -> its state and epochs."""
    return {trial.number: (trial.state.name, int(trial.user_attrs["epochs_run"])) for trial in handle.trials()}


def test_half_of_a_bracket_continues_at_each_rung(open_halving: Open, trainer: Trainer) -> None:
    handle = open_halving(n_trials=9)
    work(handle)
    opened = opened_brackets(handle.study.user_attrs)
    assert [(rung.epoch, rung.n_continue) for rung in opened[0].rungs] == [(2, 5), (4, 3), (8, 2)]
    assert sorted(epochs for _, epochs in lengths(handle).values()) == [2, 2, 2, 2, 4, 4, 8, 16, 16]
    assert sum(state == "COMPLETE" for state, _ in lengths(handle).values()) == 2
    assert all(trained == list(range(1, len(trained) + 1)) for trained in trainer.trained.values())
    first = {trial.number: trial.user_attrs[RUNG_VALUES][0]["values"][0] for trial in handle.trials()}
    kept = {number for number, (_, epochs) in lengths(handle).items() if epochs > 2}
    assert kept == set(sorted(first, key=lambda number: -first[number])[:5])


def test_ended_trials_are_pruned_ones_with_their_curve(open_halving: Open, trainer: Trainer) -> None:
    handle = open_halving(n_trials=9)
    work(handle)
    for trial in handle.trials(TrialState.PRUNED):
        epochs = int(trial.user_attrs["epochs_run"])
        assert trial.intermediate_values == {e - 1: worth(trial.number, e) for e in range(1, epochs + 1)}
        assert trial.value == worth(trial.number, epochs)
        assert trial.user_attrs["paused"] is False
        assert not is_paused(trial)


def test_brackets_follow_one_another(open_halving: Open, trainer: Trainer) -> None:
    handle = open_halving(n_trials=25, pruner={"name": "halving", "bracket_trials": 9})
    work(handle)
    assert [one.n_trials for one in opened_brackets(handle.study.user_attrs)] == [9, 8, 8]
    assert n_finished(handle.trials()) == 25
    assert sum(epochs for _, epochs in lengths(handle).values()) == 152


def test_larger_budget_opens_another_bracket(open_halving: Open, trainer: Trainer) -> None:
    handle = open_halving(n_trials=4)
    work(handle)
    again = open_halving(n_trials=10)
    work(again)
    assert [one.n_trials for one in opened_brackets(again.study.user_attrs)] == [4, 6]
    assert n_finished(again.trials()) == 10


def test_enqueued_settings_are_trained_to_the_end(open_halving: Open, trainer: Trainer) -> None:
    handle = open_halving(n_trials=6, enqueue=[{"train.optimizer.lr": 1e-3}])
    work(handle)
    assert lengths(handle)[0] == ("COMPLETE", N_EPOCHS)
    assert [one.n_trials for one in opened_brackets(handle.study.user_attrs)] == [5]


def test_failure_before_the_first_rung_frees_the_place_and_a_later_one_counts(
    open_halving: Open, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = open_halving(n_trials=4)
    best = max(range(1, 5), key=lambda number: worth(number, 2))

    def failing(config: ExperimentConfig, context: SearchContext, data: Any, ranks: Any) -> TrialResult:
        n_rungs = len(handle.trials()[context.number].user_attrs.get(RUNG_VALUES, []))
        if (context.number == 0 and not n_rungs) or (context.number == best and n_rungs):
            raise NonFiniteLoss("train/loss became nan")
        return trainer(config, context)

    monkeypatch.setattr(module, "fit_together", failing)
    work(handle)
    states = {trial.number: trial.state.name for trial in handle.trials()}
    assert states[0] == states[best] == "FAIL"
    assert len(states) == 5
    assert sum(state == "COMPLETE" for state in states.values()) == 1


def test_lowered_budget_leaves_no_trial_waiting_for_ever(open_halving: Open, trainer: Trainer) -> None:
    handle = open_halving(n_trials=9)
    for name in ("a", "b", "c"):
        claim = claim_next(handle, Worker(f"here:1:{name}", None))
        assert isinstance(claim, ClaimedTrial)
        run_claim(handle, Worker(f"here:1:{name}", None), claim, PLAYED_DATA)
    assert sum(map(is_paused, handle.trials())) == 3
    lowered = open_halving(n_trials=3)
    work(lowered)
    assert n_finished(lowered.trials()) == 3


def begin(handle: StudyHandle, n_trials: int) -> list[ClaimedTrial]:
    """Claims of as many new trials, each by a worker of its own."""
    claims = [claim_next(handle, Worker(f"here:1:{index}", None)) for index in range(n_trials)]
    return [claim for claim in claims if isinstance(claim, ClaimedTrial)]


def test_bracket_that_has_begun_is_decided_though_the_budget_was_lowered(open_halving: Open, trainer: Trainer) -> None:
    handle = open_halving(n_trials=9)
    *others, last = begin(handle, 8)
    for claim in others:
        run_claim(handle, Worker("here:1:a", None), claim, PLAYED_DATA)
    return_to_queue(handle, last)  # interrupted, and the others wait for it
    lowered = open_halving(n_trials=3)
    assert queue.is_over(lowered) is False
    work(lowered)
    assert sorted(epochs for _, epochs in lengths(lowered).values()) == [2, 2, 2, 4, 4, 8, 16, 16]
    assert all(trial.state.is_finished() for trial in lowered.trials())
    assert queue.is_over(lowered)


def test_trial_that_another_pruner_ended_keeps_nobody_waiting(
    open_halving: Open, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (claim,) = begin(handle := open_halving(n_trials=4), 1)
    return_to_queue(handle, claim)
    other = open_halving(n_trials=4, pruner={"name": "median"})
    pruned = TrialResult("pruned", 1, 1, {"val/accuracy": 0.1}, seconds=1.0, images_per_s=9.0)
    with monkeypatch.context() as patch:
        patch.setattr(module, "fit_together", lambda config, context, data, ranks: pruned)
        (claim,) = begin(other, 1)
        run_claim(other, Worker("here:1:a", None), claim, PLAYED_DATA)
    again = open_halving(n_trials=4)
    work(again)
    assert [state for state, _ in lengths(again).values()].count("COMPLETE") == 2
    assert n_finished(again.trials()) == 4


def test_without_a_pruner_paused_trials_are_trained_to_the_end(open_halving: Open, trainer: Trainer) -> None:
    handle = open_halving(n_trials=3)
    claim = claim_next(handle, Worker("here:1:a", None))
    assert isinstance(claim, ClaimedTrial)
    run_claim(handle, Worker("here:1:a", None), claim, PLAYED_DATA)
    assert is_paused(handle.trials()[0])
    plain = open_halving(n_trials=3, pruner=None)
    work(plain)
    assert set(lengths(plain).values()) == {("COMPLETE", N_EPOCHS)}


def test_quarter_of_the_trials_with_several_objectives_finishes(open_halving: Open, trainer: Trainer) -> None:
    handle = open_halving(n_trials=12, objectives={"val/accuracy": "maximize", "val/sparsity": "minimize"})
    work(handle)
    (bracket,) = opened_brackets(handle.study.user_attrs)
    assert [rung.n_continue for rung in bracket.rungs] == [6, 3]
    complete = handle.trials(TrialState.COMPLETE)
    assert len(complete) == 3
    fine = min(range(12), key=lambda number: 0.5 + 0.4 * math.cos(5.0 * number))
    assert fine in {trial.number for trial in complete}  # the end of the front in the other objective


def reference(open_halving: Open, trainer: Trainer, **study: Any) -> dict[int, tuple[str, int]]:
    """What one worker decides, whom nobody disturbs."""
    handle = open_halving(name="undisturbed", **study)
    work(handle)
    trainer.trained.clear()
    return lengths(handle)


@pytest.mark.parametrize("seed", range(4))
def test_several_workers_decide_as_one_would(open_halving: Open, trainer: Trainer, seed: int) -> None:
    expected = reference(open_halving, trainer, n_trials=9)
    handle, rng = open_halving(n_trials=9), random.Random(seed)
    claims: dict[str, ClaimedTrial] = {}
    while n_finished(handle.trials()) < 9:
        name = f"here:1:{rng.randrange(4)}"
        if name in claims:
            run_claim(handle, Worker(name, None), claims.pop(name), PLAYED_DATA)
        else:
            claim = claim_next(handle, Worker(name, None))
            if isinstance(claim, ClaimedTrial):
                claims[name] = claim
    assert lengths(handle) == expected


class Killed(BaseException):
    """The worker is gone."""


@contextmanager
def killed_at_write(monkeypatch: pytest.MonkeyPatch, storage: BaseStorage, index: int) -> Iterator[list[int]]:
    """The process ends before or after its `index`-th write of a trial's state: even before, odd after it."""
    seen = [0]

    def patched(write: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            place, seen[0] = seen[0], seen[0] + 1
            if place == index // 2 and index % 2 == 0:
                raise Killed
            answer = write(*arguments, **named)
            if place == index // 2:
                raise Killed
            return answer

        return run

    with monkeypatch.context() as patch:
        for name in ("set_trial_state_values", "set_trial_user_attr", "set_study_user_attr", "create_new_trial"):
            patch.setattr(storage, name, patched(getattr(storage, name)))
        for name in ("claim", "release"):
            patch.setattr(SqlLeases, name, patched(getattr(SqlLeases, name)))
        yield seen


def n_writes(handle: StudyHandle, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often a whole search writes."""
    with killed_at_write(monkeypatch, handle.database.storage, -2) as seen:
        work(handle)
    return seen[0]


@pytest.mark.parametrize("offset", [0, 7, 13])
def test_kill_at_any_write_loses_and_repeats_nothing(
    open_halving: Open, trainer: Trainer, monkeypatch: pytest.MonkeyPatch, offset: int
) -> None:
    whole = open_halving(name="undisturbed", n_trials=4)
    total = 2 * n_writes(whole, monkeypatch)
    expected = lengths(whole)
    assert {state for state, _ in expected.values()} == {"COMPLETE", "PRUNED"}
    for index in range(offset, total, 32):
        trainer.trained.clear()
        handle = open_halving(name=f"killed{index}", n_trials=4)
        with pytest.raises(Killed), killed_at_write(monkeypatch, handle.database.storage, index):
            work(handle)
        reclaim_lost_trials(handle, is_dead=lambda worker: True)
        stalled = handle.store.leases.stalled()
        assert all(n <= 1 for n in stalled.values())
        run_worker(handle, Worker("here:2:b", None), PLAYED_DATA)
        assert lengths(handle) == expected, index
        assert all(trained == list(range(1, len(trained) + 1)) for trained in trainer.trained.values())


@ON_EACH_DATABASE
def test_paused_trial_waits_and_is_promoted_from_its_rung(open_halving: Open, trainer: Trainer) -> None:
    handle = open_halving(n_trials=3)
    for _ in range(2):
        claim = claim_next(handle, Worker("here:1:a", None))
        assert isinstance(claim, ClaimedTrial)
        assert (claim.pause_at, claim.n_rungs) == (2, 0)
        run_claim(handle, Worker("here:1:a", None), claim, PLAYED_DATA)
    promoted = claim_next(handle, Worker("here:1:a", None))
    assert isinstance(promoted, ClaimedTrial)
    frozen = handle.trials()[promoted.trial.number]
    assert frozen.state == TrialState.RUNNING
    assert (promoted.attempt, promoted.pause_at, promoted.n_rungs) == (2, None, 1)
    assert frozen.user_attrs[PROMOTED] == 1
    assert frozen.user_attrs["paused"] is False
    assert [trial.number for trial in paused(handle)] == [1 - promoted.trial.number]


def test_damaged_attributes_are_refused() -> None:
    study = optuna.create_study()
    study.set_user_attr(BRACKETS, [{"n_trials": 3}])
    with pytest.raises(ValueError, match="brackets must be what a search has written"):
        brackets_of(study, study.trials, n_left=0)


def test_undefined_values_and_endless_excess_can_be_stored(open_halving: Open) -> None:
    handle = open_halving(n_trials=2)
    claim = claim_next(handle, Worker("here:1:a", None))
    assert isinstance(claim, ClaimedTrial)
    brackets.write_rung(claim.trial, 2, Value((math.nan,), math.inf))
    brackets.write_rung(claim.trial, 2, Value((0.5,)))  # a repetition
    (reached,) = handle.trials()[0].user_attrs[RUNG_VALUES]
    assert reached["values"] == [None]
    (value,) = brackets.halving_trial(handle.study, handle.trials()[0]).values
    assert value.objectives == (-math.inf,)
    assert value.excess > 1e300


def test_warm_up_that_is_searched_moves_the_first_rung(open_halving: Open, trainer: Trainer) -> None:
    space = {**SPACE, "train.schedule.warmup_epochs": {"kind": "int", "low": 0, "high": 4}}
    handle = open_halving(n_trials=4, space=space)
    work(handle)
    assert opened_brackets(handle.study.user_attrs)[0].rungs[0].epoch == 5


@pytest.mark.parametrize(
    ("study", "is_warned"),
    [
        ({}, False),
        ({"pruner": None}, False),
        ({"pruner": {"name": "halving", "first_epochs": N_EPOCHS}}, True),
        ({"pruner": {"name": "halving", "n_finish": 9}}, True),
        ({"n_trials": 4, "enqueue": [{"train.optimizer.lr": 1e-3}] * 2}, True),  # the two others both finish
    ],
)
def test_halving_that_pauses_nobody_is_warned_of(open_halving: Open, study: dict[str, Any], is_warned: bool) -> None:
    handle = open_halving(**{"n_trials": 9, **study})
    warnings = brackets.check_halving(handle.loaded)
    assert len(warnings) == is_warned
    assert all("pauses no trial" in text and "pruner: null" in text for text in warnings)


def paused(handle: StudyHandle) -> list[FrozenTrial]:
    return [trial for trial in handle.trials() if is_paused(trial)]


def test_budget_counts_no_paused_trial(open_halving: Open, trainer: Trainer) -> None:
    handle = open_halving(n_trials=4)
    for _ in range(2):
        claim = claim_next(handle, Worker("here:1:a", None))
        assert isinstance(claim, ClaimedTrial)
        run_claim(handle, Worker("here:1:a", None), claim, PLAYED_DATA)
    assert len(paused(handle)) == 2
    assert n_finished(handle.trials()) == 0
    assert queue.is_over(handle) is False


def test_resume_checkpoints_of_ended_trials_are_removed(open_halving: Open, trainer: Trainer, tmp_path: Path) -> None:
    handle = open_halving(n_trials=4)
    for number in range(4):
        path = handle.layout.trial(number).resume(1)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    work(handle)
    assert not list(tmp_path.rglob("resume.*.pt"))
