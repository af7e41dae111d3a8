"""What a search is: base experiment, space, objectives, sampler, pruner, budget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from attnsearch.config.base import KEY, PlacedError, Settings, dotted_keys
from attnsearch.config.experiment import ExperimentConfig, MetricKey, Name, check_monitor
from attnsearch.metrics.registry import better_direction
from attnsearch.types import Direction

Scalar = bool | int | float | str | None
Key = Annotated[str, Field(pattern=KEY)]
MAX_PARAMETERS = 100
MAX_CHOICES = 1_000
MAX_STEPS = 2**31 - 1
MAX_TRIALS = 100_000
MAX_WORKERS = 256
STOPPING_HALVING = "successive_halving"
"""A pruner that was offered before and lost a point of accuracy: it ended for good what `halving` pauses."""


class Hyperparameter(Settings):
    """What every hyperparameter of the space may have: `when` makes it conditional on values of those above it."""

    when: Mapping[Key, Annotated[tuple[Scalar, ...], Field(min_length=1)]] = Field(
        {}, description="Hyperparameter -> values under which this one exists, at least one."
    )


class FloatParameter(Hyperparameter):
    """A range of real numbers, both limits included."""

    kind: Literal["float"]
    low: float = Field(description="Smallest value.")
    high: float = Field(description="Largest value.")
    log: bool = Field(False, description="Sample the logarithm uniformly.")
    step: float | None = Field(None, gt=0, description="Distance between two values; null is continuous.")

    @model_validator(mode="after")
    def _check(self) -> FloatParameter:
        _check_range(self.low, self.high, log=self.log, step=self.step, has_step=self.step is not None)
        return self

    def limits(self) -> tuple[Scalar, ...]:
        return (self.low, self.high)


class IntParameter(Hyperparameter):
    """A range of whole numbers, both limits included."""

    kind: Literal["int"]
    low: int = Field(description="Smallest value.")
    high: int = Field(description="Largest value.")
    log: bool = Field(False, description="Sample the logarithm uniformly.")
    step: int = Field(1, ge=1, description="Distance between two values.")

    @model_validator(mode="after")
    def _check(self) -> IntParameter:
        _check_range(self.low, self.high, log=self.log, step=self.step, has_step=self.step != 1)
        return self

    def limits(self) -> tuple[Scalar, ...]:
        return (self.low, self.high)


class ChoiceParameter(Hyperparameter):
    """A list of values without order."""

    kind: Literal["choice"]
    choices: tuple[Scalar, ...] = Field(min_length=1, max_length=MAX_CHOICES, description="The values, up to 1,000.")

    def limits(self) -> tuple[Scalar, ...]:
        return self.choices


def _check_range(low: float, high: float, *, log: bool, step: float | None, has_step: bool) -> None:
    if low > high:
        raise ValueError(f"low must not exceed high, got {low} > {high}; swap them")
    if log and low <= 0:
        raise ValueError(f"low must be > 0 for a logarithmic range, got {low}")
    if log and has_step:
        raise ValueError("log and step exclude each other; remove one")
    if not math.isfinite(high - low):
        raise ValueError(f"high - low must be a finite number, got {low} to {high}; narrow the range")
    if step is not None and high - low > step * MAX_STEPS:
        raise ValueError(f"{low} to {high} must have at most {MAX_STEPS} steps of {step}; narrow the range")


Parameter = Annotated[FloatParameter | IntParameter | ChoiceParameter, Field(discriminator="kind")]


class TpeSampler(Settings):
    """Tree-structured Parzen estimator; multivariate and grouped: conditional hyperparameters are learned jointly."""

    name: Literal["tpe"]
    n_startup_trials: int = Field(10, ge=0, description="Random trials before the model is used.")


class GpSampler(Settings):
    """Gaussian process, for up to about 200 expensive trials on a space without conditions and without pruning."""

    name: Literal["gp"]
    n_startup_trials: int = Field(10, ge=1, description="Random trials before the model is used.")


class RandomSampler(Settings):
    """Uniform draws."""

    name: Literal["random"]


class FixedSampler(Settings):
    """No sampling: the one trial is the base experiment as it stands, with its seed; `attnsearch train` runs it."""

    name: Literal["fixed"]


class RepeatSampler(Settings):
    """No sampling: the settings of trials of another study, each with several seeds; `attnsearch confirm` writes it."""

    name: Literal["repeat"]
    trials: tuple[int, ...] = Field(min_length=1, description="Numbers of the trials that are repeated, best first.")
    settings: tuple[Mapping[Key, Scalar], ...] = Field(description="Their hyperparameters, in the same order.")

    @model_validator(mode="after")
    def _check(self) -> RepeatSampler:
        if len(self.settings) != len(self.trials):
            raise ValueError(f"settings must be as many as trials, got {len(self.settings)} of {len(self.trials)}")
        return self


SamplerConfig = Annotated[
    TpeSampler | GpSampler | RandomSampler | FixedSampler | RepeatSampler, Field(discriminator="name")
]


class MedianPruner(Settings):
    """Ends a trial that is worse than the median of the earlier ones at the same epoch."""

    name: Literal["median"]
    n_startup_trials: int = Field(5, ge=0, description="Finished trials before anything is pruned.")
    n_warmup_epochs: int = Field(0, ge=0, description="Epochs of a trial before it may be pruned.")


class PercentilePruner(Settings):
    """Ends a trial outside the best fraction of the earlier ones at the same epoch."""

    name: Literal["percentile"]
    keep_share: float = Field(0.25, gt=0, lt=1, description="Fraction of trials that may continue, in (0, 1).")
    n_startup_trials: int = Field(5, ge=0, description="Finished trials before anything is pruned.")
    n_warmup_epochs: int = Field(0, ge=0, description="Epochs of a trial before it may be pruned.")


class HalvingPruner(Settings):
    """Pauses the trials of a bracket at rungs, continues the better half, and ends the others once that is decided.

    With several objectives, better is by non-domination rank and crowding distance.
    """

    name: Literal["halving"]
    bracket_trials: int | None = Field(
        None, ge=2, description="Trials of a bracket, about; null means 25, and all of them with several objectives."
    )
    first_epochs: int | None = Field(
        None,
        ge=1,
        description="Epochs before the first rung, which double from rung to rung; null means a tenth of train.epochs, "
        "at least 2 and one more than the warm-up.",
    )
    n_finish: int | None = Field(
        None,
        ge=1,
        description="Trials of a bracket that are trained to the end; null means a fifth of the bracket, with several "
        "objectives a quarter, and at least 2.",
    )


PrunerConfig = Annotated[MedianPruner | PercentilePruner | HalvingPruner, Field(discriminator="name")]


class Bound(Settings):
    """A limit on a metric of the best checkpoint; a trial outside it is marked infeasible."""

    at_least: float | None = Field(None, description="Smallest allowed value.")
    at_most: float | None = Field(None, description="Largest allowed value.")

    @model_validator(mode="after")
    def _one_side(self) -> Bound:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"write exactly one of at_least and at_most, got {self.at_least} and {self.at_most}")
        return self


class Retention(Settings):
    """Which trials keep weights and maps; every trial keeps its CSV, config and log."""

    best_k: int = Field(5, ge=1, description="Number of best trials that keep checkpoint and maps.")
    automatic: bool = Field(
        False,
        description="Delete the files of the other trials at the end; false waits for `attnsearch prune-files`.",
    )
    resume: bool = Field(
        False, description="Keep the resume checkpoints of finished trials, with optimizer state; 3 times the weights."
    )


class Confirm(Settings):
    """Which trials are repeated with fresh seeds once a search has ended."""

    top: int = Field(5, ge=2, le=100, description="Best trials that are repeated, the published one first.")
    seeds: int = Field(5, ge=2, le=100, description="Seeds of each; five find a lead of two standard deviations.")


class StudyConfig(Settings):
    """One search over the settings of an experiment."""

    name: Name = Field(description="Name of the study.")
    base: str | Mapping[str, JsonValue] = Field(
        description="Experiment that the trials start from: a path, a bare name in configs/, or its settings."
    )
    overrides: Mapping[str, JsonValue] = Field(
        {}, description="Settings of the experiment that this study changes, by dotted key."
    )
    objectives: Mapping[MetricKey, Direction] = Field(
        {"val/accuracy": "maximize"},
        min_length=1,
        description="Metric -> `maximize` or `minimize`; several give a Pareto front.",
    )
    monitor: MetricKey = Field(
        "val/accuracy", description="The one metric that decides which epoch is the best, and that stops and prunes."
    )
    space: Mapping[Key, Parameter] = Field(
        {}, max_length=MAX_PARAMETERS, description="Dotted key of the experiment -> hyperparameter, up to 100."
    )
    sampler: SamplerConfig = Field(TpeSampler(name="tpe"), description="How new trials are proposed.")
    pruner: PrunerConfig | None = Field(
        None,
        description="How poor trials are ended early; null prunes nothing. `median` and `percentile` judge by the "
        "monitor and cannot have several objectives.",
    )
    n_trials: int = Field(
        25,
        ge=1,
        le=MAX_TRIALS,
        description="Total of complete and pruned trials, over all starts of the study; those that `attnsearch extend` "
        "has imported do not count.",
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="Complete and pruned trials in a row without improvement that end the search; null is off.",
    )
    time_limit_s: float | None = Field(
        None,
        gt=0,
        description="Seconds after a start at which running trials return to the queue; null has no limit.",
    )
    enqueue: tuple[Mapping[Key, Scalar], ...] = Field(
        (), description="Settings to try first; hyperparameters left out are sampled."
    )
    constraints: Mapping[MetricKey, Bound] = Field({}, description="Metric of the best checkpoint -> limit.")
    retention: Retention = Field(Retention(), description="What is kept on disk.")
    confirm: Confirm | None = Field(
        None, description="Repeat the best trials after the search, as `attnsearch confirm` does; null does not."
    )
    seed: int = Field(
        1, ge=0, le=2**31 - 1, description="Seed of the sampler; each trial derives its own from it and its number."
    )
    storage: str | None = Field(
        None,
        description="Database URL; null means results/<experiment>/hypSearch.db. A start expands its $VARIABLES; "
        "commands that read results open another database only where --storage names it.",
    )
    lease_s: float = Field(
        300.0,
        ge=1,
        description="Seconds without progress after which a trial is taken from its worker, or 3 epochs if longer.",
    )
    storage_patience_s: float = Field(
        300.0, ge=0, description="Seconds that a database server may be away before the search stops; 0 never waits."
    )
    n_workers: int | None = Field(
        None,
        ge=1,
        le=MAX_WORKERS,
        description="Worker processes; null means one per GPU, or one on a machine without.",
    )

    @field_validator("pruner", mode="before")
    @classmethod
    def _pruner_by_name(cls, value: object) -> object:
        """A bare name stands for a pruner as it is by default."""
        if STOPPING_HALVING in (value, value.get("name") if isinstance(value, Mapping) else None):
            return None  # of a study of before, which can be read; see `pruner_problem` for one that is to start
        return {"name": value} if isinstance(value, str) else value

    @field_validator("monitor")
    @classmethod
    def _monitor_is_measured(cls, value: str) -> str:
        return check_monitor(value)

    @model_validator(mode="after")
    def _check_references(self) -> StudyConfig:
        problems: dict[tuple[str, ...], str] = {}
        above: list[str] = []
        for key, parameter in self.space.items():
            for name in sorted(set(parameter.when) - set(above)):
                known = f"known: {sorted(above)}"
                problems["space", key, "when", name] = f"names {name!r}, which is no hyperparameter above it; {known}"
            above.append(key)
        for index, point in enumerate(self.enqueue):
            for name in sorted(set(point) - set(above)):
                known = f"known: {sorted(above)}"
                problems["enqueue", str(index), name] = f"names {name!r}, which is no hyperparameter; {known}"
        if problems:
            raise PlacedError(problems)
        return self

    @model_validator(mode="after")
    def _fixed_trial_is_the_only_one(self) -> StudyConfig:
        if self.is_fixed and (self.space or self.enqueue or self.n_trials != 1):
            raise ValueError(
                "sampler fixed runs the base experiment once, so space and enqueue must be empty and n_trials 1, got "
                f"{len(self.space)} hyperparameters, {len(self.enqueue)} enqueued settings and n_trials {self.n_trials}"
            )
        return self

    @model_validator(mode="after")
    def _repeats_sample_nothing(self) -> StudyConfig:
        ends_early = self.pruner or self.patience
        if self.repeats and (self.space or self.enqueue or ends_early or self.n_trials % len(self.repeats.trials)):
            raise ValueError(
                "sampler repeat trains listed settings in full, so space and enqueue must be empty, pruner and "
                f"patience null and n_trials a multiple of {len(self.repeats.trials)}; got {len(self.space)} "
                f"hyperparameters, {len(self.enqueue)} enqueued settings, pruner {self.pruner!r}, patience "
                f"{self.patience} and n_trials {self.n_trials}"
            )
        return self

    @model_validator(mode="after")
    def _halving_can_rank(self) -> StudyConfig:
        if not isinstance(self.pruner, HalvingPruner):
            return self
        problem = None
        if "train.epochs" in self.space:
            problem = "ranks trials of one length; take train.epochs out of the space"
        elif isinstance(self.sampler, GpSampler):
            problem = "leaves gp few complete trials to learn from; use sampler tpe"
        if problem:
            raise PlacedError({("pruner",): f"halving {problem}, or write pruner: null"})
        return self

    @property
    def repeats(self) -> RepeatSampler | None:
        """The settings that the study repeats, where it samples none."""
        return self.sampler if isinstance(self.sampler, RepeatSampler) else None

    @property
    def halving(self) -> HalvingPruner | None:
        """How trials are paused, where they are."""
        return self.pruner if isinstance(self.pruner, HalvingPruner) else None

    @property
    def is_fixed(self) -> bool:
        """Whether the study is one trial of the base experiment itself."""
        return isinstance(self.sampler, FixedSampler)

    @property
    def monitor_direction(self) -> Direction:
        """Direction of the monitor: as an objective says, else the better one of the metric."""
        return self.objectives.get(self.monitor, better_direction(self.monitor, "maximize"))


def setting_keys() -> list[str]:
    """Every key that a command line takes: those of a study, and the dotted ones of an experiment."""
    return list(dict.fromkeys([*StudyConfig.model_fields, *dotted_keys(ExperimentConfig)]))
