"""Loggers are found by name, and settings become flat."""

from __future__ import annotations

import pytest

from attnsearch.errors import ConfigError
from attnsearch.loggers.base import check_loggers, flat_settings


def test_unknown_logger_and_missing_package_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no logger 'mlfow' .did you mean 'mlflow'"):
        check_loggers(["mlfow"])
    monkeypatch.setattr("attnsearch.loggers.base.find_spec", lambda name: None if name == "wandb" else name)
    with pytest.raises(ConfigError, match=r"pip install 'attnsearch\[wandb\]'"):
        check_loggers(["mlflow", "wandb"])


def test_settings_are_flat() -> None:
    nested = {"a": {"b": 1, "c": {"d": None}}, "e": [256, 128], "f": {}, "g": True}
    assert flat_settings(nested) == {"a.b": 1, "a.c.d": "null", "e": "[256, 128]", "f": "{}", "g": True}
