"""What every logger is: a writer that hears of one trial, and how one is found by its name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from attnsearch.errors import ConfigError, suggest

LoggerName = Literal["tensorboard", "mlflow", "trackio", "wandb"]
Value = str | int | float | bool


@dataclass(frozen=True)
class LoggedRun:
    """A trial as loggers know it.

    Attributes:
        key: letters, digits and `-` that name the trial for ever, also after its study was renamed or resumed.
        settings: all of them by dotted key.
    """

    experiment: str
    study: str
    number: int
    key: str
    settings: Mapping[str, Value]

    @property
    def name(self) -> str:
        """`STUDY:NUMBER`."""
        return f"{self.study}:{self.number}"


class RunWriter(Protocol):
    """Writes one run; one that was written before is continued. Each method may raise whatever its package raises."""

    def log_epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        """Writes what an epoch, from 1, has measured: `split/metric` -> value."""

    def log_image(self, name: str, png: bytes, *, epoch: int) -> None:
        """Writes an image of the best epoch."""

    def end(self, state: str, values: Mapping[str, float], *, epoch: int) -> None:
        """Writes how the trial ended: "complete", "pruned" or "fail", and `split/metric` -> value at its best epoch."""

    def close(self) -> None:
        """Puts everything on the disk. The run may be continued later."""


@dataclass(frozen=True)
class Logger:
    """One kind of logger, whose module and package have its name.

    Attributes:
        writer: name of the class that writes a run.
        environment: variables that keep the package from the network and the screen; those of a user come first.
    """

    writer: str
    environment: Mapping[str, str] = field(default_factory=dict)


_LOGGERS: dict[str, Logger] = {
    "tensorboard": Logger("TensorBoardWriter"),
    "mlflow": Logger("MlflowWriter", {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"}),
    "trackio": Logger("TrackioWriter", {"HF_HUB_DISABLE_TELEMETRY": "1"}),
    "wandb": Logger("WandbWriter", {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}),
}


def logger_of(name: str) -> Logger:
    """The logger of this name.

    Raises:
        ConfigError: there is none, or its package is not installed.
    """
    if name not in _LOGGERS:
        raise ConfigError(f"no logger {name!r}{suggest(name, _LOGGERS)}; known: {', '.join(_LOGGERS)}")
    if find_spec(name) is None:
        raise ConfigError(f"the logger {name} needs a package; run: pip install 'attnsearch[{name}]'")
    return _LOGGERS[name]


def check_loggers(names: Iterable[str]) -> None:
    """Checks that the packages of some loggers are installed.

    Raises:
        ConfigError: one is not, or there is no such logger.
    """
    for name in names:
        logger_of(name)


def writer_for(run: LoggedRun, name: str, folder: Path) -> RunWriter:
    """The writer of one run.

    Args:
        folder: of the logger; it exists.
    """
    kind = getattr(import_module(f"{__package__}.{name}"), logger_of(name).writer)
    writer: RunWriter = kind(run, folder)
    return writer


def flat_settings(values: Mapping[str, Any], above: str = "") -> dict[str, Value]:
    """Nested settings by dotted key; lists are JSON, and what is not set is `null`."""
    flat: dict[str, Value] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flat_settings(value, f"{above}{key}.")
        else:
            flat[f"{above}{key}"] = value if isinstance(value, Value) else json.dumps(value)
    return flat
