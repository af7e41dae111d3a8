"""Settings that show what trials of a study cost: the largest, the smallest, and some that fill the space evenly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import LoadedStudy, with_settings
from attnsearch.config.study import Parameter, Scalar
from attnsearch.data.tables import DataTables
from attnsearch.errors import ConfigError
from attnsearch.models import build_model
from attnsearch.search.space import Settings, is_active
from attnsearch.search.study import derive_seed
from attnsearch.tasks.base import build_task

MAX_ATTEMPTS = 20
"""Draws for each that is wanted: values may not fit together."""


@dataclass(frozen=True)
class Setting:
    """Hyperparameters, and the experiment with them."""

    settings: Settings
    experiment: ExperimentConfig

    @property
    def description(self) -> str:
        """The hyperparameters in one line."""
        return ", ".join(f"{key}={value}" for key, value in self.settings.items()) or "the base"


def extreme_setting(loaded: LoadedStudy, tables: DataTables, *, is_largest: bool) -> Setting:
    """Range limits at which a trial needs most, or least.

    One hyperparameter after the other takes the limit with the most images times pixels at once, then with the most
    weights, then with the most epochs, given those before it. A limit that does not fit those before it is passed over.
    """
    n_classes, chosen = len(tables.class_names), Setting({}, loaded.experiment)
    if loaded.study.repeats is not None:
        repeated = [_with(loaded, dict(one)) for one in loaded.study.repeats.settings]
        known = [one for one in repeated if one is not None]
        return _extreme(known, n_classes, is_largest=is_largest) if known else chosen
    for key, parameter in loaded.study.space.items():
        if is_active(parameter, chosen.settings):
            limits = [_with(loaded, {**chosen.settings, key: value}) for value in parameter.limits()]
            known = [one for one in limits if one is not None]
            chosen = _extreme(known, n_classes, is_largest=is_largest) if known else chosen
    return chosen


def _extreme(settings: list[Setting], n_classes: int, *, is_largest: bool) -> Setting:
    return (max if is_largest else min)(settings, key=lambda one: demand(one.experiment, n_classes))


def demand(experiment: ExperimentConfig, n_classes: int) -> tuple[int, int, int]:
    """What a trial needs most of: pixels at once, weights, epochs."""
    height, width = experiment.data.image_hw
    n_at_once = experiment.train.batch_size // experiment.train.accumulation
    heads = build_task(experiment.task).heads(n_classes)
    with torch.device("meta"):
        model = build_model(experiment.model, heads, load_weights=False)
    n_weights = sum(parameter.numel() for parameter in model.parameters())
    return n_at_once * height * width, n_weights, experiment.train.epochs


def draw_settings(loaded: LoadedStudy, *, n: int) -> list[Setting]:
    """Random settings of a space, of which each n-th part of every range has one; the base alone without a space.

    Fewer where values do not fit together. They depend on the seed of the study.
    """
    study = loaded.study
    if study.repeats is not None:
        drawn = [_with(loaded, dict(one)) for one in study.repeats.settings[:n]]
        return [one for one in drawn if one is not None]
    if not study.space:
        return [Setting({}, loaded.experiment)]
    rng = np.random.default_rng(derive_seed(study.seed, "dry run"))
    found: list[Setting] = []
    for _ in range(MAX_ATTEMPTS):
        found += [one for one in _draw_evenly(loaded, n, rng) if one is not None]
        if len(found) >= n:
            return found[:n]
    return found or [Setting({}, loaded.experiment)]


def _draw_evenly(loaded: LoadedStudy, n: int, rng: np.random.Generator) -> list[Setting | None]:
    space = loaded.study.space
    places = {key: (rng.permutation(n) + rng.random(n)) / n for key in space}  # (n,) in [0, 1)
    return [_with(loaded, _settings_at(space, {key: float(of[i]) for key, of in places.items()})) for i in range(n)]


def _settings_at(space: Mapping[str, Parameter], places: Mapping[str, float]) -> Settings:
    settings: Settings = {}
    for key, parameter in space.items():
        if is_active(parameter, settings):
            settings[key] = value_at(parameter, places[key])
    return settings


def value_at(parameter: Parameter, place: float) -> Scalar:
    """The value of a hyperparameter at a place in [0, 1) of its range, as a uniform draw would find it."""
    limits = parameter.limits()
    if parameter.kind == "choice":
        return limits[int(place * len(limits))]
    low, high = float(limits[0] or 0), float(limits[-1] or 0)
    is_whole, step = parameter.kind == "int", parameter.step
    if parameter.log:
        value = low * (high / low) ** place
    elif step is None:
        value = low + place * (high - low)
    else:
        value = low + step * int(place * (1 + int((high - low) / step + 1e-9)))
    return round(value) if is_whole else float(value)


def _with(loaded: LoadedStudy, settings: Settings) -> Setting | None:
    """The base with these; None where they do not fit together."""
    try:
        return Setting(settings, with_settings(loaded.experiment, settings))
    except ConfigError:
        return None
