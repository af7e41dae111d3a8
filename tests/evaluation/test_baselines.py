"""Maps that scores are read against."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import pytorch_grad_cam
import torch
from pydantic import TypeAdapter

from attnsearch.config.model import ModelConfig
from attnsearch.errors import ConfigError
from attnsearch.evaluation.baselines import CAMS, baseline_saliency, find_layer
from attnsearch.models import build_model
from attnsearch.models.base import AttentionModel
from attnsearch.tasks.classification import ClassTarget, LinearHeads
from attnsearch.types import Batch

GRID = (4, 4)
MODELS: dict[str, dict[str, Any]] = {
    "br_npa": {"name": "br_npa", "backbone": "resnet10t", "width": 0.25},
    "loupe": {"name": "loupe", "backbone": "resnet10t", "width": 0.25},
    "dcal": {"name": "dcal", "backbone": "vit_tiny_patch16_224"},
    "intr": {"name": "intr", "backbone": "resnet10t", "width": 0.25},
}


def model_of(name: str) -> AttentionModel:
    torch.manual_seed(0)
    config: Any = TypeAdapter(ModelConfig).validate_json(json.dumps({"weights": "none", **MODELS[name]}))
    return build_model(config, LinearHeads(3)).eval()


@pytest.fixture
def batch() -> Batch:
    images = torch.zeros(2, 3, 64, 64)
    images[:, :, :32, 40:] = 1.0  # an edge along the row 32 and along the column 40
    return Batch(images, torch.tensor([0, 1]), ("a.jpg", "b.jpg"), torch.arange(2))


def saliency(name: str, batch: Batch, model: AttentionModel | None = None) -> torch.Tensor:
    unused: Any = None
    return baseline_saliency(name, model or unused, batch, ClassTarget(torch.tensor([0, 1])), GRID)


def test_random_map_depends_on_the_image_alone(batch: Batch) -> None:
    both = saliency("random", batch)
    alone = Batch(batch.images[1:], batch.labels[1:], ("b.jpg",), batch.rows[1:])
    torch.testing.assert_close(saliency("random", alone), both[1:])
    assert not torch.equal(both[0], both[1])


def test_centre_is_the_largest_in_the_middle_and_symmetric(batch: Batch) -> None:
    centre = saliency("centre", batch)[0]
    torch.testing.assert_close(centre, centre.flip(0))
    torch.testing.assert_close(centre, centre.T)
    # cells at 1/8 and 3/8 of the side from the middle, in units of a quarter of the side
    torch.testing.assert_close(centre[1, 1], torch.tensor(-0.25).exp())
    torch.testing.assert_close(centre[0, 1], torch.tensor(-0.5 * (1.5**2 + 0.5**2)).exp())


def test_edges_are_bright_where_the_picture_changes(batch: Batch) -> None:
    edges = saliency("edges", batch)[0]
    bright = {(row, column) for row in range(4) for column in range(4) if edges[row, column] > 0}
    assert bright == {(0, 2), (1, 2), (1, 3), (2, 2), (2, 3)}


def test_uniform_map_is_flat(batch: Batch) -> None:
    assert saliency("uniform", batch).unique().tolist() == [1.0]


def test_parts_are_the_share_of_each_cell(batch: Batch) -> None:
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, :16, :8] = True
    found = saliency("parts", replace(batch, part_masks=masks))
    assert found[0, 0, 0] == 0.5
    assert found.sum() == 0.5


def test_parts_need_masks(batch: Batch) -> None:
    with pytest.raises(ConfigError, match="'parts' needs part masks"):
        saliency("parts", batch)


@pytest.mark.parametrize("name", MODELS)
def test_gradcam_fits_every_family(name: str, batch: Batch) -> None:
    model = model_of(name)
    maps = saliency("gradcam", batch, model)
    assert maps.shape == (2, *GRID)
    assert maps.isfinite().all()
    assert (maps >= 0).all()
    assert all(parameter.grad is None for parameter in model.parameters())
    alone = Batch(batch.images[1:], batch.labels[1:], ("b.jpg",), batch.rows[1:])
    torch.testing.assert_close(
        baseline_saliency("gradcam", model, alone, ClassTarget(torch.tensor([1])), GRID), maps[1:], atol=1e-4, rtol=1e-3
    )


@pytest.mark.parametrize("name", CAMS)
def test_variants_of_gradcam_are_the_packages_own(name: str, batch: Batch) -> None:
    assert hasattr(pytorch_grad_cam, CAMS[name])


def test_layer_is_the_last_one_with_places(batch: Batch) -> None:
    model = model_of("loupe")
    layer, arrange = find_layer(model, batch)
    assert arrange(torch.zeros(2, 5, 3, 4)).shape == (2, 5, 3, 4)
    assert next(name for name, module in model.named_modules() if module is layer).startswith("backbone.layer4")


def test_rollout_is_refused_where_there_is_no_self_attention(batch: Batch) -> None:
    with pytest.raises(ConfigError, match="'rollout': Loupe"):
        saliency("rollout", batch, model_of("loupe"))


def test_rollout_of_a_vision_transformer_is_its_map(batch: Batch) -> None:
    maps = saliency("rollout", batch, model_of("dcal"))
    torch.testing.assert_close(maps, model_of("dcal")(batch, maps=("rollout",)).maps[:, 0])


def test_unknown_baseline_is_named(batch: Batch) -> None:
    with pytest.raises(ConfigError, match=r"'gradcan' \(did you mean 'gradcam'\?\); known: random, "):
        saliency("gradcan", batch)


@pytest.mark.parametrize(("name", "grid"), [("loupe", (2, 4)), ("dcal", (4, 8))])
def test_maps_of_a_wide_image_are_wide(name: str, grid: tuple[int, int], batch: Batch) -> None:
    wide = replace(batch, images=torch.cat([batch.images, batch.images], dim=3))  # 64 x 128 px
    layer, arrange = find_layer(model_of(name), wide)
    assert layer is not None
    output = torch.zeros(2, 5, *grid) if name == "loupe" else torch.zeros(2, 1 + grid[0] * grid[1], 5)
    assert arrange(output).shape == (2, 5, *grid)
