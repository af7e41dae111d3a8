"""The names in the state of each family: checkpoints of earlier versions are read by them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from attnsearch import plugins
from attnsearch.config.model import ModelConfig
from attnsearch.models import build_model
from attnsearch.tasks.classification import LinearHeads

STATES: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "golden/state_names.json").read_text())


def test_every_family_has_a_list() -> None:
    families = {name: plugins.find("model", name).settings for name in plugins.names("model")}
    own = [name for name, settings in families.items() if settings.__module__.startswith("attnsearch.")]
    assert {entry["settings"]["name"] for entry in STATES} == set(own)
    assert len(own) >= 7


@pytest.mark.parametrize("entry", STATES, ids=lambda entry: "-".join(map(str, entry["settings"].values())))
def test_names_and_shapes_outside_of_the_backbone_stay(entry: dict[str, Any]) -> None:
    config = TypeAdapter(ModelConfig).validate_json(json.dumps(entry["settings"]))
    with torch.device("meta"):
        state = build_model(config, LinearHeads(5)).state_dict()
    names = {name: list(tensor.shape) for name, tensor in state.items() if not name.startswith("backbone.")}
    assert list(names.items()) == list(entry["state"].items())
