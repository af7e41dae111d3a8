"""The rules that `replay.py` compares: each trains one study of recorded curves, in a given order of its settings.

Our halving is that of the package (`attnsearch.search.halving`), Optuna's pruners are its own classes on a study in
memory. A replay knows the future of each curve but gives a rule only what it has paid for.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.pruners import BasePruner
from optuna.trial import TrialState

from attnsearch.search.brackets import OpenedBracket
from attnsearch.search.halving import (
    BRACKET_TRIALS,
    Bracket,
    HalvingTrial,
    Rung,
    Value,
    bracket_sizes,
    first_rung,
    n_finishing,
    rungs_of,
)

Measured = NDArray[np.float64]
"""(n, E, 3) accuracy of the settings of one study after each epoch, in the order in which they are drawn: on validation
and on its two halves."""


@dataclass(frozen=True)
class Outcome:
    """One study.

    Attributes:
        epochs: that were trained.
        best: accuracy of the best trial that was trained to its end, at its best epoch.
        n_complete: trials that were.
        wall: length by the simulated clock, in epochs of an average trial; with one worker about `epochs`.
        idle: fraction of the workers' time in which they had nothing to do.
        peak_paused: most trials that were paused at one time.
    """

    epochs: int
    best: float
    n_complete: int
    wall: float = 0.0
    idle: float = 0.0
    peak_paused: int = 0


Rule = Callable[[Measured, int], Outcome]
"""(curves, number of the order) -> outcome."""


def all_trials(measured: Measured, _order: int) -> Outcome:
    """Everything trained in full."""
    accuracy = measured[..., 0]
    return Outcome(accuracy.size, float(accuracy.max()), len(accuracy))


def fewer_trials(factor: float) -> Rule:
    """The first 1/factor of the settings in full: what any rule must beat."""

    def run(measured: Measured, order: int) -> Outcome:
        return all_trials(measured[: max(1, round(len(measured) / factor))], order)

    return run


def with_patience(patience: int) -> Rule:
    """Trials in full, until so many in a row were no better than the best before them."""

    def run(measured: Measured, order: int) -> Outcome:
        best, n_idle, n_run = -1.0, 0, 0
        for value in measured[..., 0].max(axis=1):
            n_run += 1
            best, n_idle = (value, 0) if value > best else (best, n_idle + 1)
            if n_idle == patience:
                break
        return all_trials(measured[:n_run], order)

    return run


def optunas(make: Callable[[], BasePruner]) -> Rule:
    """A pruner of Optuna, which ends trials for good; it is asked after every epoch."""

    def run(measured: Measured, order: int) -> Outcome:
        # Hyperband takes the bracket of a trial from the name of the study and the number of the trial.
        study = optuna.create_study(direction="maximize", pruner=make(), study_name=f"order {order}")
        epochs, finished = 0, [0.0]
        for curve in measured[..., 0].tolist():
            trial = study.ask()
            for step, value in enumerate(curve):
                trial.report(value, step)
                if step + 1 < len(curve) and trial.should_prune():
                    study.tell(trial, state=TrialState.PRUNED)
                    break
            else:
                study.tell(trial, max(curve))
                finished.append(max(curve))
            epochs += step + 1
        return Outcome(epochs, max(finished), len(finished) - 1)

    return run


@dataclass(frozen=True)
class Halving:
    """How our halving is set; the defaults are those of the package.

    Attributes:
        size: trials of a bracket, about.
        n_finish: trials of a bracket that are trained to the end; None as the package takes it.
        first: fraction of the epochs before the first rung; None as the package takes it.
        keep: fraction that continues at each rung; the package knows a half only.
        asks_halves: whether a rung where two halves of validation disagree on the ranks decides nothing.
        n_workers: with epoch times of trials spread by `spread`, standard deviation over mean.
    """

    size: int = BRACKET_TRIALS
    n_finish: int | None = None
    first: float | None = None
    keep: float = 0.5
    asks_halves: bool = True
    n_workers: int = 1
    spread: float = 0.3

    def __call__(self, measured: Measured, order: int) -> Outcome:
        return _HalvedStudy(self, measured, order).run()

    def rungs(self, n_trials: int, epochs: int) -> tuple[Rung, ...]:
        """The rungs of a bracket; fewer than half of the trials continue only here, for comparison."""
        first = first_rung(epochs, warmup_epochs=0) if self.first is None else round(self.first * epochs)
        n_finish = n_finishing(n_trials, has_several=False) if self.n_finish is None else self.n_finish
        if self.keep == 0.5:
            return rungs_of(n_trials, epochs, first=first, n_finish=n_finish)
        rungs, epoch, remaining = [], first, n_trials
        while epoch < epochs and (n := max(n_finish, int(np.ceil(self.keep * remaining)))) < remaining:
            rungs.append(Rung(epoch, n))
            epoch, remaining = 2 * epoch, n
        return tuple(rungs)


class _HalvedStudy:
    """One study under our halving, by a simulated clock."""

    def __init__(self, rule: Halving, measured: Measured, order: int) -> None:
        self._measured, self._epochs, self._rule = measured, measured.shape[1], rule
        rng = np.random.default_rng((order, 17))
        self._seconds = np.maximum(0.2, rng.normal(1.0, rule.spread, len(measured)))  # of an epoch of each trial
        sizes = bracket_sizes(len(measured), size=rule.size)
        self._opened = [OpenedBracket(size, self._epochs, rule.rungs(size, self._epochs)) for size in sizes]
        self._brackets = [one.filled(number, (), n_left=one.n_trials) for number, one in enumerate(self._opened, 1)]
        self._running: list[tuple[float, int, int]] = []  # (end, trial, its bracket's index)
        self._n_new = self._trained = self._peak = 0
        self._busy = 0.0

    def run(self) -> Outcome:
        """Trains the study."""
        now, n_free = 0.0, self._rule.n_workers
        while True:
            while n_free and self._start(now):
                n_free -= 1
            if not self._running:
                break
            now, number, index = heapq.heappop(self._running)
            self._end(number, index)
            n_free += 1
        complete = [
            one.final.objectives[0] for bracket in self._brackets for one in bracket.trials if one.final is not None
        ]
        idle = 1 - self._busy / (now * self._rule.n_workers)
        return Outcome(self._trained, max(complete), len(complete), now, idle, self._peak)

    def _start(self, now: float) -> bool:
        """Starts the highest possible promotion, else a new trial; whether there was one."""
        index, trial = self._promotion() or self._new() or (-1, None)
        if trial is None:
            return False
        bracket, reached = self._brackets[index], len(trial.values)
        begin = bracket.rungs[reached - 1].epoch if reached else 0
        seconds = (self._leg_end(index, trial) - begin) * self._seconds[trial.number]
        self._trained += self._leg_end(index, trial) - begin
        self._busy += seconds
        heapq.heappush(self._running, (now + seconds, trial.number, index))
        self._put(index, replace(trial, status="running"))
        return True

    def _promotion(self) -> tuple[int, HalvingTrial] | None:
        open_now = [(index, one) for index, one in enumerate(self._brackets) if self._has_paused(one)]
        decided = [(index, *bracket.decided()) for index, bracket in open_now]
        for index, _, ending in decided:
            for trial in ending:
                self._put(index, replace(trial, status="pruned"))
        found = [(index, trial) for index, continuing, _ in decided for trial in continuing]
        return max(found, key=lambda one: (len(one[1].values), -one[0]), default=None)

    @staticmethod
    def _has_paused(bracket: Bracket) -> bool:
        return any(trial.status == "paused" for trial in bracket.trials)

    def _new(self) -> tuple[int, HalvingTrial] | None:
        for index, bracket in enumerate(self._brackets):
            if bracket.n_open:
                self._n_new += 1
                return index, HalvingTrial(self._n_new - 1, bracket.number, "running")
        return None

    def _leg_end(self, index: int, trial: HalvingTrial) -> int:
        rungs, reached = self._brackets[index].rungs, len(trial.values)
        return rungs[reached].epoch if reached < len(rungs) else self._epochs

    def _end(self, number: int, index: int) -> None:
        """Pauses a trial at its rung, or completes it."""
        trial = next(one for one in self._brackets[index].trials if one.number == number)
        epoch = self._leg_end(index, trial)
        value = self._value(number, epoch)
        if epoch == self._epochs:
            self._put(index, replace(trial, status="complete", final=value))
            return
        self._put(index, replace(trial, status="paused", values=(*trial.values, value)))
        n_paused = sum(one.status == "paused" for bracket in self._brackets for one in bracket.trials)
        self._peak = max(self._peak, n_paused)

    def _value(self, number: int, epoch: int) -> Value:
        """That of the best epoch so far."""
        so_far = self._measured[number, :epoch]  # (epoch, 3)
        best, half_a, half_b = so_far[so_far[:, 0].argmax()].tolist()
        return Value((best,), halves=(half_a, half_b) if self._rule.asks_halves else None)

    def _put(self, index: int, trial: HalvingTrial) -> None:
        bracket = self._brackets[index]
        others = tuple(one for one in bracket.trials if one.number != trial.number)
        opened, trials = self._opened[index], (*others, trial)
        self._brackets[index] = opened.filled(bracket.number, trials, n_left=opened.n_trials)


def rules_of(epochs: int) -> dict[str, Rule]:
    """Every rule by its name, those that spend most first within each group."""
    pruners = optuna.pruners

    def median(n_startup: int, n_warmup: int) -> Rule:
        return optunas(lambda: pruners.MedianPruner(n_startup, n_warmup))

    fifth, tenth = epochs // 5, epochs // 10
    return {
        "none": all_trials,
        **{f"1/{factor} of the trials": fewer_trials(factor) for factor in (1.5, 2, 3, 4, 6)},
        "median(8, E/5)": median(8, fifth),
        "median(5, E/10)": median(5, tenth),
        "median(5, 0)": median(5, 0),
        "percentile 25 (5, E/10)": optunas(lambda: pruners.PercentilePruner(25.0, 5, tenth)),
        "patient median (5, E/10, E/10)": optunas(
            lambda: pruners.PatientPruner(pruners.MedianPruner(5, tenth), max(1, tenth))
        ),
        "Optuna SHA(1, 4)": optunas(lambda: pruners.SuccessiveHalvingPruner(1, 4)),
        "Optuna SHA(2, 2)": optunas(lambda: pruners.SuccessiveHalvingPruner(2, 2)),
        "Hyperband(1, E, 3)": optunas(lambda: pruners.HyperbandPruner(1, epochs, 3)),
        "halving": Halving(),
        "halving, 2 finish": Halving(n_finish=2),
        "halving, 3 finish": Halving(n_finish=3),
        "halving, 8 finish": Halving(n_finish=8),
        "halving, first rung E/5": Halving(first=0.2),
        "halving, keep 1/3": Halving(keep=1 / 3),
        "halving, every rung decides": Halving(asks_halves=False),
        "halving, brackets of 13, 3 finish": Halving(size=13, n_finish=3),
        "halving, brackets of 13, 4 finish": Halving(size=13, n_finish=4),
        "halving, brackets of 9, 2 finish": Halving(size=9, n_finish=2),
        "halving, brackets of 9, 3 finish": Halving(size=9, n_finish=3),
        "halving, brackets of 9, keep 1/3": Halving(size=9, n_finish=2, keep=1 / 3),
    }
