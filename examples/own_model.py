"""A model family of one's own: a gate over the backbone's features, which is also the explanation.

`python examples/own_model.py` trains it on synthetic birds. With `--plugin examples/own_model.py` every command knows
it, and `model: {name: gated}` works in every config.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

import attnsearch as at


class GatedSettings(at.BackboneSettings):
    """A convolutional backbone whose features pass a learned gate."""

    name: Literal["gated"] = Field("gated", description="the model family")
    gate_channels: int = Field(16, ge=1, le=512, description="hidden channels of the gate")


class Gated(at.AttentionModel):
    def __init__(self, cfg: GatedSettings, heads: at.Heads) -> None:
        super().__init__()
        self.backbone = at.build_backbone(cfg)
        n_channels = self.backbone.num_features
        self.gate = nn.Sequential(
            nn.Conv2d(n_channels, cfg.gate_channels, 1), nn.ReLU(), nn.Conv2d(cfg.gate_channels, 1, 1)
        )
        self.head = heads.image(n_channels)  # the task decides what it is

    def forward(self, batch: at.Batch, *, maps: tuple[str, ...] | None = None) -> at.AttentionOutput:
        features: Tensor = self.backbone(batch.images)  # (B, C, h, w)
        gate = self.gate(features).float().sigmoid()  # (B, 1, h, w)
        head: at.HeadOutput = self.head((features * gate).mean((2, 3)))  # reads (B, C)
        if maps is None:
            return at.AttentionOutput(head)
        chosen, names = at.select_maps(gate, ("gate",), maps)
        return at.AttentionOutput(head, maps=chosen, map_names=names)

    def saliency(self, output: at.AttentionOutput, target: Tensor) -> Tensor:
        if output.maps is None:
            raise ValueError("saliency needs the gate: call forward with maps=()")
        return output.maps[:, 0]  # (B, h, w)


at.register_model(GatedSettings, build=Gated)

FEW = {"n_val_per_class": 4, "n_test_per_class": 4}

if __name__ == "__main__":
    study = at.run_search(
        {
            "name": "gated",
            "base": {
                "experiment": "examples",
                "data": {"name": "synthetic", "image_size_px": 32, "n_classes": 2, "n_train_per_class": 16, **FEW},
                "model": {"name": "gated", "backbone": "resnet10t", "width": 0.25},
                "train": {"epochs": 1, "batch_size": 8},
                "evaluation": {"n_images": 4, "scores": {"n_images": 2, "n_steps": 2}},
                "runtime": {"n_threads": 1},
            },
            "space": {
                "model.gate_channels": {"kind": "choice", "choices": [8, 32]},
                "train.optimizer.lr": {"kind": "float", "low": 1e-3, "high": 1e-2, "log": True},
            },
            "n_trials": 2,
        },
        plugins=[__file__],
        workers=1,  # a process that imports this file by itself
    )
    print(study.trials)
    model = at.load_model(study.best.checkpoint)
    print(model.evaluate("test"))
