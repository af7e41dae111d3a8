"""What a run without a study refuses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import attnsearch.search.single as module
from attnsearch.config.load import with_settings
from attnsearch.config.yaml_layers import to_yaml
from attnsearch.errors import ConfigError
from attnsearch.files import atomic_write
from attnsearch.store.layout import StudyLayout
from tests.search.studies import loaded_study


def test_run_that_another_one_overtook_while_it_was_prepared_leaves_its_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = loaded_study().experiment
    path = StudyLayout(tmp_path, config.experiment, config.name).trial(0).config
    other = to_yaml(with_settings(config, {"train.epochs": 9}).model_dump(mode="json"))

    def overtake(*_arguments: Any, **_settings: Any) -> Any:
        atomic_write(path, other)
        return SimpleNamespace(tables=SimpleNamespace(class_names=("a", "b")))

    monkeypatch.setattr(module, "open_data", overtake)
    for check in ("check_start", "check_models", "check_scores_of_run"):
        monkeypatch.setattr(module, check, lambda *_arguments, **_settings: None)
    with pytest.raises(ConfigError, match=r"started with other settings(.|\n)*train\.epochs: was 9, is 2"):
        module.run_single(config, root=tmp_path)
    assert path.read_text() == other
