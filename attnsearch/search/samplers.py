"""Optuna's samplers, and how they see trials that are paused."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Container, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from attnsearch.config.study import GpSampler, StudyConfig, TpeSampler
from attnsearch.search.brackets import halving_trial, is_paused
from attnsearch.search.halving import LAST, best_first


def build_sampler(study: StudyConfig, *, seed: int) -> BaseSampler:
    """The sampler for one draw; its seed derives from the trial number, so that a resumed study repeats no draw."""
    if isinstance(study.sampler, TpeSampler):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # `group` learns conditional hyperparameters jointly
            return TPESampler(
                seed=seed,
                multivariate=True,
                group=True,
                constant_liar=True,
                n_startup_trials=study.sampler.n_startup_trials,
            )
    if isinstance(study.sampler, GpSampler):
        return GPSampler(seed=seed, n_startup_trials=study.sampler.n_startup_trials)
    return RandomSampler(seed=seed)


def sampler_of(study: StudyConfig, *, seed: int) -> BaseSampler:
    """The sampler for one draw, which with halving learns from paused trials too."""
    sampler = build_sampler(study, seed=seed)
    return HalvingSampler(sampler, study) if study.halving else sampler


class HalvingSampler(BaseSampler):
    """Another sampler, to which paused trials appear as ones that their rung has ended.

    In an open rung only the losers have ended. A sampler that learned from those alone would seek what they share.
    """

    def __init__(self, sampler: BaseSampler, config: StudyConfig) -> None:
        self._sampler, self._config = sampler, config

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As the other sampler."""
        return self._sampler.infer_relative_search_space(self._seen(study), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the other sampler."""
        return self._sampler.sample_relative(self._seen(study), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As the other sampler."""
        return self._sampler.sample_independent(self._seen(study), trial, param_name, param_distribution)

    def _seen(self, study: optuna.Study) -> Any:
        has_curves = list(self._config.objectives) == [self._config.monitor]
        return _SeenStudy(study) if has_curves else _RankedStudy(study)


class _SeenStudy:
    """A study whose paused trials are pruned ones, for a sampler; all else is that of the study itself."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = False, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = self._study._get_trials(deepcopy=deepcopy, use_cache=use_cache)
        return [trial for trial in self._seen(trials) if states is None or trial.state in states]

    def _seen(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        return [_changed(trial, state=TrialState.PRUNED) if is_paused(trial) else trial for trial in trials]


class _RankedStudy(_SeenStudy):
    """As `_SeenStudy`, with one objective, the smaller the better: the place of a trial among those that came as far.

    Optuna keeps no curve of a trial with several objectives, or whose objective is not the monitor, so that a sampler
    could not tell a good paused trial from a bad one.
    """

    @property
    def directions(self) -> list[StudyDirection]:
        """That of the place."""
        return [StudyDirection.MINIMIZE]

    @property
    def direction(self) -> StudyDirection:
        """That of the place."""
        return StudyDirection.MINIMIZE

    def _is_multi_objective(self) -> bool:
        return False

    def _seen(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        seen, members = list(trials), [halving_trial(self._study, trial) for trial in trials]
        complete = [one for one in members if one.status == "complete"]
        for place, one in enumerate(best_first(complete, LAST)):
            seen[one.number] = _changed(trials[one.number], values=[float(place)])
        for rung in {len(one.values) for one in members if one.values}:
            ended = [one for one in members if one.status in ("paused", "pruned") and len(one.values) == rung]
            for place, one in enumerate(best_first(ended, rung - 1)):
                curve = {rung: float(place)}
                seen[one.number] = _changed(trials[one.number], state=TrialState.PRUNED, intermediate_values=curve)
        return seen


def _changed(trial: FrozenTrial, **attributes: Any) -> FrozenTrial:
    """A copy of a trial with other attributes."""
    changed = copy.copy(trial)
    for name, value in attributes.items():
        setattr(changed, name, value)
    return changed
