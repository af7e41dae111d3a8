"""Builds every model of a search space once, without memory, before anything is written."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.faults import near
from attnsearch.device import pick_device
from attnsearch.errors import ConfigError
from attnsearch.models import build_model
from attnsearch.types import METRICS


def check_models(corners: Iterable[tuple[str, ExperimentConfig]], *, n_classes: int, objectives: Iterable[str]) -> None:
    """Builds the model of each corner; one with weights is built for real, which loads them.

    Raises:
        ConfigError: a backbone, a weights file, a device or a metric that does not exist or fit; one line per corner.
    """
    seen: set[str] = set()
    faults = [fault for key in objectives if (fault := _metric_fault(key))]
    for description, experiment in corners:
        text = experiment.model.model_dump_json()
        try:
            pick_device(experiment.runtime.device)
            if text not in seen:
                seen.add(text)
                _build(experiment, n_classes)
        except ConfigError as error:
            faults.append(str(error) if description == "base" else f"space at {description}: {error}")
    if faults:
        raise ConfigError("\n".join(dict.fromkeys(faults)))


def _build(experiment: ExperimentConfig, n_classes: int) -> None:
    with torch.device("meta" if experiment.model.weights == "none" else "cpu"):
        build_model(experiment.model, n_classes)


def _metric_fault(key: str) -> str | None:
    name = key.partition("/")[2]
    if name in METRICS:
        return None
    known = ", ".join(f"val/{metric}" for metric in METRICS)
    return f"objectives: no metric {key!r}{near(name, list(METRICS))}; known: {known}"
