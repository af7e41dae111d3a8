"""What every model family must do, run over all members of the settings union."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from attnsearch import plugins
from attnsearch.config.base import Settings, members
from attnsearch.config.model import BackboneSettings, ModelConfig, ResNetSettings
from attnsearch.models import build_model
from attnsearch.tasks.classification import LinearHeads
from attnsearch.testing.model import ModelContract

FAMILIES: tuple[type[Settings], ...] = tuple(members(ModelConfig))

# Families on a ResNet need no entry; others name here the settings that make them tiny.
TINY: dict[str, dict[str, object]] = {
    "intr": {"backbone": "resnet10t", "width": 0.25, "d_model": 16, "n_heads": 2, "feedforward_width": 32}
    | {"n_encoder_layers": 1, "n_decoder_layers": 2, "dropout": 0.0},
    "dcal": {"width": 0.34, "depth": 2, "position_grid": 4},
    "loupe": {"backbone": "resnet10t", "width": 0.25},
    "plain": {"backbone": "resnet10t", "width": 0.25},
}
# With weights by formula all queries of these answer alike, and rounding would decide what is predicted; behind the
# backbone theirs are drawn.
DRAWN = {"intr"}
VARIANTS: dict[str, list[dict[str, object]]] = {
    "dcal": [
        {"variant": "sa_only"},
        {"variant": "sa_glca", "glca_readout": "cls"},
        {"variant": "sa_pwca", "stem": "conv"},
        {"patch_stride": 12},
        {"glca_readout": "local_mean", "n_pwca_blocks": 1},
    ],
    "br_npa": [
        {"refine": False},
        {"random_vectors": True},
        {"auxiliary_heads": True, "dropout": 0.2, "head_bias": True},
        {"stride_stage3": 1, "stride_stage4": 1, "padding": "circular"},
    ],
    "intr": [{"backbone": "test_convnext", "width": 1.0, "dropout": 0.1}],
    "loupe": [{"stage": 3}, {"backbone": "test_convnext", "width": 1.0, "stage": 0}],
}


def tiny_settings() -> Iterator[Any]:
    """Every family with its defaults, then its variants, as small as can be."""
    for family in FAMILIES:
        name = family.model_fields["name"].default
        small = {"backbone": "resnet10t", "width": 0.25} if issubclass(family, ResNetSettings) else TINY[name]
        for changes in ({}, *VARIANTS.get(name, [])):
            label = "-".join([name, *changes])
            yield pytest.param(family.model_validate({**small, **changes}), id=label)


SETTINGS = list(tiny_settings())


class TestFamilies(ModelContract):
    @pytest.fixture(params=SETTINGS)
    def settings(self, request: pytest.FixtureRequest) -> BackboneSettings:
        settings: BackboneSettings = request.param
        return settings

    @pytest.fixture(autouse=True)
    def weights(self, settings: BackboneSettings) -> None:
        self.draws_weights = settings.name in DRAWN


def test_every_family_is_covered() -> None:
    covered = {type(parameters.values[0]) for parameters in SETTINGS}
    assert covered == set(FAMILIES)
    assert len(FAMILIES) >= 3


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
