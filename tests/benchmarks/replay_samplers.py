"""Samplers on a surrogate: whatever settings a sampler draws, the curves of the nearest recorded ones answer.

A replay cannot adapt its settings, so what a sampler learns from halved trials is asked of an interpolation: the mean
of the three nearest recorded curves in the unit cube of the space, weighted by the inverse of their distance. It is a
surrogate, smoother than a training and never better than the best recorded curve: it compares samplers, no more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import TrialState

from attnsearch.config.load import LoadedStudy, load_study
from attnsearch.config.study import ChoiceParameter, Parameter
from attnsearch.results.reader import load_study as load_study_results
from attnsearch.search.brackets import (
    BRACKET,
    brackets_of,
    end_paused,
    open_brackets,
    pause_at,
    write_promotion,
    write_rung,
)
from attnsearch.search.halving import Value
from attnsearch.search.samplers import build_sampler, sampler_of
from attnsearch.search.space import suggest_settings
from attnsearch.search.study import derive_seed, take_trial
from tests.benchmarks.curves import FOLDER, Curve, Pool

N_NEIGHBOURS = 3
N_TRIALS = 25
SHARPEST = 1e-3
"""Distance below which a recorded curve answers as if it were this far away."""


class Surrogate:
    """The curves of a pool as a function of the settings."""

    def __init__(self, pool: Pool, space: Mapping[str, Parameter]) -> None:
        self._space, self._measured = space, pool.measured
        self._cells = [self._cell(curve.settings) for curve in pool.curves]

    def curve(self, settings: Mapping[str, Any]) -> NDArray[np.float64]:
        """(E, 3) accuracy after each epoch: on validation and on its two halves."""
        cell = self._cell(settings)
        distances = np.array([math.sqrt(sum(map(_squared, cell, other))) for other in self._cells])
        nearest = np.argsort(distances, kind="stable")[:N_NEIGHBOURS]
        weights = 1 / np.maximum(distances[nearest], SHARPEST)
        return np.asarray(np.tensordot(weights, self._measured[nearest], axes=1) / weights.sum())

    def _cell(self, settings: Mapping[str, Any]) -> list[Any]:
        return [_unit(parameter, settings.get(key)) for key, parameter in self._space.items()]


def _unit(parameter: Parameter, value: Any) -> Any:
    """A number as its place in its range, in [0, 1]; a choice as it is; None where there is none."""
    if value is None or isinstance(parameter, ChoiceParameter):
        return None if value is None else str(value)
    if parameter.log:
        return math.log(value / parameter.low) / math.log(parameter.high / parameter.low)
    return (value - parameter.low) / (parameter.high - parameter.low)


def _squared(first: Any, second: Any) -> float:
    if isinstance(first, float) and isinstance(second, float):
        return (first - second) ** 2
    return 0.0 if first == second else 1.0


class _Search:
    """One search of one worker on the surrogate, with the package's brackets and samplers."""

    def __init__(self, loaded: LoadedStudy, surrogate: Surrogate, *, sees_paused: bool) -> None:
        self._loaded, self._config, self._sees_paused = loaded, loaded.study, sees_paused
        self._surrogate, self._curves = surrogate, dict[int, NDArray[np.float64]]()
        self._study = optuna.create_study(direction="maximize")
        self._study.set_metric_names(list(loaded.study.objectives))
        self.epochs = 0

    def run(self) -> float:
        """Runs all trials; returns the best value of a complete one."""
        while (trial := self._promoted() or self._new()) is not None:
            self._train(trial)
        return float(self._study.best_value)

    def _n_left(self) -> int:
        return self._config.n_trials - len(self._study.get_trials(deepcopy=False))

    def _brackets(self) -> list[Any]:
        return brackets_of(self._study, self._study.get_trials(deepcopy=False), n_left=self._n_left())

    def _promoted(self) -> optuna.Trial | None:
        brackets, trials = self._brackets(), self._study.get_trials(deepcopy=False)
        decided = [bracket.decided() for bracket in brackets]
        for ending in (trial for _, endings in decided for trial in endings):
            end_paused(self._study, trials[ending.number])
        found = [trial for continuing, _ in decided for trial in continuing]
        if not found:
            return None
        best = max(found, key=lambda trial: (len(trial.values), -trial.bracket))
        trial = take_trial(self._study, trials[best.number])
        write_promotion(trial)
        return trial

    def _new(self) -> optuna.Trial | None:
        if not self._n_left():
            return None
        seed = derive_seed(self._config.seed, "sampler", self._config.n_trials - self._n_left())
        make = sampler_of if self._sees_paused else build_sampler
        self._study.sampler = make(self._config, seed=seed)
        if self._config.pruner is None:
            trial = take_trial(self._study, None)
        else:
            if not any(bracket.n_open for bracket in self._brackets()):
                open_brackets(self._study, self._loaded, n_left=self._n_left())
            number = next(bracket.number for bracket in self._brackets() if bracket.n_open)
            trial = take_trial(self._study, None, attributes={BRACKET: number})
        self._curves[trial.number] = self._surrogate.curve(suggest_settings(trial, self._config.space))
        return trial

    def _train(self, trial: optuna.Trial) -> None:
        curve, frozen = self._curves[trial.number], self._study.get_trials(deepcopy=False)[trial.number]
        begin = len(frozen.intermediate_values)
        end = pause_at(self._brackets(), frozen) or len(curve)
        for step in range(begin, end):
            trial.report(float(curve[step, 0]), step)
        self.epochs += end - begin
        best, half_a, half_b = curve[curve[:end, 0].argmax()].tolist()
        if end == len(curve):
            self._study.tell(trial, best)
            return
        write_rung(trial, end, Value((best,), halves=(half_a, half_b)))
        self._study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)


NINE = "{name: halving, bracket_trials: 9, n_finish: 2}"
VARIANTS = {
    "none, random": ("random", None, False, 1.0),
    "none, TPE": ("tpe", None, False, 1.0),
    "none, TPE, a third of the trials": ("tpe", None, False, 1 / 3),
    "halving, random": ("random", "halving", False, 1.0),
    "halving, TPE that sees paused trials": ("tpe", "halving", True, 1.0),
    "halving, TPE that ignores them": ("tpe", "halving", False, 1.0),
    "brackets of 9, 2 finish, random": ("random", NINE, False, 1.0),
    "brackets of 9, 2 finish, TPE that sees them": ("tpe", NINE, True, 1.0),
    "brackets of 9, 2 finish, TPE that ignores them": ("tpe", NINE, False, 1.0),
}
"""Name -> sampler, pruner, whether the sampler sees paused trials, fraction of the trials."""


def random_study(pool: Pool, n_trials: int, seed: int) -> NDArray[np.float64]:
    """(n, E, 3) curves of random settings on the surrogate, where a pool has too few of its own."""
    loaded = load_study(str(FOLDER / f"{pool.name}.yaml"))
    surrogate = Surrogate(pool, loaded.study.space)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return np.array(
        [surrogate.curve(suggest_settings(study.ask(), loaded.study.space)) for _ in range(n_trials)], dtype=np.float64
    )


def pool_of_searches(results: Path, name: str) -> Pool:
    """The trials of the searches without pruning that `halving.py` has run, as a pool.

    A sampler has chosen most of them, so that this one knows more of where samplers look. Halves of validation are not
    measured there: both are the whole, and every rung decides.
    """
    curves, measured = [], []
    for folder in sorted(results.glob(f"*/{name}_none_*")):
        study = load_study_results(folder)
        accuracies = study.epochs.pivot(index="trial", columns="epoch", values="val/accuracy")
        for trial in study.rows.complete:
            accuracy = accuracies.loc[trial.number].to_numpy(dtype=np.float64)
            measured.append(np.repeat(accuracy[:, None], 3, axis=1))
            curves.append(Curve(trial.number, study.settings.seed, trial.params, (0, 0), (), (), trial.seconds))
    if not curves:
        raise SystemExit(f"{results} has no search {name} without pruning; run halving.py {name} --pruners none first")
    return Pool(name, tuple(curves), np.stack(measured))


def print_samplers(pools: Sequence[Pool], n_seeds: int) -> None:
    """A table for each pool: epochs and the best accuracy, with the standard error over seeds."""
    for pool in pools:
        print(f"\n{pool.name}: surrogate of {len(pool)} settings, {pool.n_epochs} epochs, {n_seeds} seeds")
        unpruned = None
        for name, (sampler, pruner, sees, part) in VARIANTS.items():
            found = []
            for seed in range(n_seeds):
                search = _search(pool, f"{sampler}", pruner, sees=sees, n_trials=round(part * N_TRIALS), seed=seed)
                found.append((search.run(), search.epochs))
            best, epochs = np.array(found).T
            unpruned = best if name == "none, TPE" else unpruned
            against = "" if unpruned is None else _difference(100 * (best - unpruned))
            print(
                f"{name:46} {epochs.mean():6.0f} epochs, best {100 * best.mean():6.2f} +- "
                f"{100 * best.std(ddof=1) / math.sqrt(n_seeds):4.2f}{against}",
                flush=True,
            )


def _difference(points: NDArray[np.float64]) -> str:
    """Paired by seed with the unpruned TPE."""
    return f", {points.mean():+5.2f} +- {points.std(ddof=1) / math.sqrt(len(points)):4.2f} against none, TPE"


def _search(pool: Pool, sampler: str, pruner: str | None, *, sees: bool, n_trials: int, seed: int) -> _Search:
    overrides = [f"sampler={{name: {sampler}}}", f"pruner={pruner or 'null'}", f"n_trials={n_trials}", f"seed={seed}"]
    loaded = load_study(str(FOLDER / f"{pool.name}.yaml"), overrides=overrides)
    return _Search(loaded, Surrogate(pool, loaded.study.space), sees_paused=sees)
