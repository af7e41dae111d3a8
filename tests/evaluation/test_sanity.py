"""Maps while the model is randomised."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from attnsearch.config.model import ModelConfig
from attnsearch.evaluation.sanity import randomise_downwards
from attnsearch.models import build_model
from attnsearch.models.base import AttentionModel
from attnsearch.tasks.classification import LinearHeads
from attnsearch.types import AttentionOutput, Batch, HeadOutput


class Painter(AttentionModel):
    """Its map is the red channel, whatever its weights are."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(3, 2)

    def forward(self, batch: Batch, *, maps: tuple[str, ...] | None = None) -> AttentionOutput:
        return AttentionOutput(HeadOutput(self.head(batch.images.mean(dim=(2, 3)))), maps=batch.images[:, :1])

    def saliency(self, output: AttentionOutput, target: torch.Tensor) -> torch.Tensor:
        assert output.maps is not None
        return output.maps[:, 0]


def batch() -> Batch:
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return Batch(images, torch.zeros(3, dtype=torch.int64), ("a", "b", "c"), torch.arange(3))


def test_map_that_shows_the_picture_alone_never_changes() -> None:
    (step,) = randomise_downwards(Painter().eval(), [batch()])
    assert step.parts == ("head",)
    np.testing.assert_allclose(step.similarity, 1.0)


def test_steps_go_from_the_top_down_and_leave_the_model_as_it_is() -> None:
    torch.manual_seed(0)
    settings: Any = {"name": "loupe", "backbone": "resnet10t", "width": 0.25, "weights": "none", "stage": 1}
    model = build_model(TypeAdapter(ModelConfig).validate_json(json.dumps(settings)), LinearHeads(3)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    steps = randomise_downwards(model, [batch()])
    assert [step.parts for step in steps] == [
        ("head", "gate"), *((f"backbone.{name}",) for name in ("layer4", "layer3", "layer2", "layer1", "conv1"))
    ]  # fmt: skip
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert len(steps[0].similarity) == 3
    again = randomise_downwards(model, [batch()])
    np.testing.assert_array_equal(steps[-1].similarity, again[-1].similarity)
    assert steps[-1].similarity.max() < 0.99


def test_layer_of_one_weight_is_redrawn_to_a_finite_number() -> None:
    class Single(Painter):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Conv2d(1, 1, 1)

        def forward(self, batch: Batch, *, maps: tuple[str, ...] | None = None) -> AttentionOutput:
            output = super().forward(batch, maps=maps)
            assert output.maps is not None
            return AttentionOutput(output.head, maps=self.scale(output.maps).abs())

    (step,) = randomise_downwards(Single().eval(), [batch()])
    assert np.isfinite(step.similarity).all()


def test_weights_that_a_backbone_has_beside_its_layers_come_last() -> None:
    class Tokens(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places = torch.nn.Parameter(torch.arange(64.0 * 64).view(1, 64, 64))
            self.layer = torch.nn.Linear(1, 1)

    class Placed(Painter):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = Tokens()

        def forward(self, batch: Batch, *, maps: tuple[str, ...] | None = None) -> AttentionOutput:
            output = super().forward(batch, maps=maps)
            return AttentionOutput(output.head, maps=self.backbone.places[None].expand(3, 1, 64, 64))

    steps = randomise_downwards(Placed().eval(), [batch()])
    assert [step.parts for step in steps] == [("head",), ("backbone.layer",), ("backbone.places",)]
    assert steps[1].similarity.min() == 1.0
    assert abs(steps[2].similarity).max() < 0.1
