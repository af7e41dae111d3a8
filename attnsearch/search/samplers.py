"""Optuna's samplers.

They learn from trials that have ended. A paused trial is not shown to them: as one that its rung had ended it would be
one more proof of what learns fast, and with it TPE found less in the searches of `tests/benchmarks/replay_samplers.py`.
"""

from __future__ import annotations

import warnings

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler

from attnsearch.config.study import GpSampler, StudyConfig, TpeSampler


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
