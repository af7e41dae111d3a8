"""Settings of a data set that is named on the command line, by folder or by config."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from attnsearch.config.base import Settings
from attnsearch.config.datasets import DataConfig, SyntheticData
from attnsearch.config.load import load_experiment, names, overridden
from attnsearch.errors import ConfigError

CUB_LIST = "images.txt"


class OnlyData(Settings):
    """The part of an experiment that these verbs read."""

    data: DataConfig


def data_settings(data: str, overrides: Iterable[str]) -> DataConfig:
    """What a config says, or what a folder looks like: CUB where it holds CUB's list of images.

    Raises:
        ConfigError: a wrong setting.
    """
    if data in names("configs") or data.endswith((".yaml", ".yml")):
        return load_experiment(data, overrides=overrides).data
    name = "cub" if Path(data, CUB_LIST).is_file() else "folder"
    return _validated({"name": name, "root": data}, overrides)


def synthetic_settings(overrides: Iterable[str]) -> SyntheticData:
    """The synthetic data set under `data.key=value` overrides.

    Raises:
        ConfigError: a wrong setting, or another data set.
    """
    data = _validated({"name": "synthetic"}, overrides)
    if not isinstance(data, SyntheticData):
        raise ConfigError(f"command line: data.name: only synthetic data can be drawn, got {data.name!r}; leave it out")
    return data


def _validated(values: dict[str, str], overrides: Iterable[str]) -> DataConfig:
    return overridden(OnlyData, {"data": values}, overrides).data
