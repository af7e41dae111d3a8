"""The settings of the model families."""

import json
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from attnsearch.config.base import members
from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.model import BCnnSettings, BrNpaSettings, CnnSettings, ModelConfig

ADAPTER: TypeAdapter[Any] = TypeAdapter(ModelConfig)
FAMILIES = tuple(members(ModelConfig))


@pytest.mark.parametrize("settings_class", FAMILIES)
def test_name_selects_the_family(settings_class):
    name = settings_class.model_fields["name"].default
    assert ADAPTER.validate_json(f'{{"name": "{name}"}}') == settings_class()


@pytest.mark.parametrize("settings_class", FAMILIES)
def test_every_field_is_described_on_one_line(settings_class):
    for name, field in settings_class.model_fields.items():
        assert field.description, name
        assert "\n" not in field.description, name


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("stride_stage3", 3),
        ("stride_stage4", 0),
        ("padding", "reflect"),
        ("dropout", 1.0),
        ("width", 0.1),
        ("n_vectors", 0),
        ("backbone", ""),
        ("n_parts", 3),
    ],
)
def test_value_out_of_bounds_is_named(key, value):
    with pytest.raises(ValidationError) as caught:
        ADAPTER.validate_python({"name": "br_npa", key: value})
    (error,) = caught.value.errors()
    assert error["loc"][-1] == key
    assert error["input"] == value


def test_width_is_refused_with_loaded_weights():
    with pytest.raises(ValidationError, match=r"must be 1 with weights 'hub', got width 0\.5"):
        CnnSettings(width=0.5, weights="hub")


def test_auxiliary_heads_are_refused_without_three_vectors():
    with pytest.raises(ValidationError, match="got n_vectors 4"):
        BrNpaSettings(auxiliary_heads=True, n_vectors=4)
    assert BrNpaSettings(auxiliary_heads=True).auxiliary_heads


def test_defaults_are_the_low_resolution_network():
    cfg = BCnnSettings()
    assert (cfg.backbone, cfg.stride_stage3, cfg.stride_stage4, cfg.n_parts) == ("resnet50", 2, 2, 3)


def test_a_teacher_does_not_fit_weighted_branches():
    settings = {
        "name": "x",
        "data": {"name": "synthetic"},
        "model": {"name": "dcal", "variant": "sa_pwca"},
        "train": {"teacher": {"checkpoint": "x.safetensors"}},
    }
    with pytest.raises(ValidationError, match=r"model\.variant sa_pwca .* use model\.variant=sa_only or no teacher"):
        ExperimentConfig.model_validate_json(json.dumps(settings))
    settings["model"]["variant"] = "sa_only"
    ExperimentConfig.model_validate_json(json.dumps(settings))


def test_pairs_need_two_images_at_once():
    settings = {
        "name": "x",
        "data": {"name": "synthetic"},
        "model": {"name": "dcal", "variant": "full"},
        "train": {"batch_size": 4, "accumulation": 4},
    }
    with pytest.raises(ValidationError, match=r"at least 2 .* got train\.batch_size 4 with accumulation 4"):
        ExperimentConfig.model_validate_json(json.dumps(settings))
    settings["model"]["variant"] = "sa_glca"
    ExperimentConfig.model_validate_json(json.dumps(settings))
