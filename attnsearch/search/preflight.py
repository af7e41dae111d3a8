"""Builds every model of a search space once, without memory, before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.faults import near
from attnsearch.device import worker_gpus
from attnsearch.errors import ConfigError
from attnsearch.models import build_model
from attnsearch.types import METRICS


def check_models(corners: Sequence[tuple[str, ExperimentConfig]], *, n_classes: int, metrics: Iterable[str]) -> None:
    """Builds the model of each corner; one with weights is built for real, which loads them.

    Args:
        corners: (description, experiment), the base first.
        metrics: keys that the study needs.
    Raises:
        ConfigError: a backbone, a weights file, a device or a metric that does not exist or fit; one line per fault.
    """
    faults = [fault for key in metrics if (fault := _metric_fault(key))]
    try:
        worker_gpus(corners[0][1].runtime.device)
    except ConfigError as error:
        faults.append(str(error))
    seen: set[str] = set()
    for description, experiment in corners:
        text = experiment.model.model_dump_json()
        fault = "" if text in seen else _build_fault(experiment, n_classes)
        if fault and fault not in seen:  # what is wrong everywhere is said once
            faults.append(fault if description == "base" else f"space at {description}: {fault}")
        seen |= {text, fault}
    if faults:
        raise ConfigError("\n".join(dict.fromkeys(faults)))


def _build_fault(experiment: ExperimentConfig, n_classes: int) -> str:
    """What is wrong with a model; empty if nothing is."""
    try:
        with torch.device("meta" if experiment.model.weights == "none" else "cpu"):
            build_model(experiment.model, n_classes)
    except ConfigError as error:
        return str(error)
    return ""


def _metric_fault(key: str) -> str | None:
    name = key.partition("/")[2]
    if name in METRICS:
        return None
    known = ", ".join(f"val/{metric}" for metric in METRICS)
    return f"no metric {key!r}{near(name, list(METRICS))}; known: {known}"
