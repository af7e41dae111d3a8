"""Maps that scores are read against."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, cast

import pytest
import pytorch_grad_cam
import timm
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter

from attnsearch.config.model import BackboneSettings, ModelConfig
from attnsearch.errors import ConfigError
from attnsearch.evaluation.baselines import CAMS, baseline_saliency, find_layer, occlusion_saliency
from attnsearch.evaluation.similarity import pair_map
from attnsearch.metrics.perturbation import Curves, RemovalSettings, SaliencyCase
from attnsearch.models import build_model
from attnsearch.models.backbones.generic import build_any_backbone, build_backbone
from attnsearch.models.base import AttentionModel
from attnsearch.tasks.base import build_task
from attnsearch.tasks.classification import ClassTarget, LinearHeads
from attnsearch.tasks.reid import ReidTask
from attnsearch.tasks.retrieval import SimilarityTarget
from attnsearch.types import AttentionOutput, Batch
from tests.tiny import on_cpu, reid_config

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
    return baseline_saliency(name, on_cpu(model), batch, ClassTarget(torch.tensor([0, 1])), GRID)


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
    found = baseline_saliency("gradcam", on_cpu(model), alone, ClassTarget(torch.tensor([1])), GRID)
    torch.testing.assert_close(found, maps[1:], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", CAMS)
def test_variants_of_gradcam_are_the_packages_own(name: str, batch: Batch) -> None:
    assert hasattr(pytorch_grad_cam, CAMS[name])


def test_rollout_is_refused_where_there_is_no_self_attention(batch: Batch) -> None:
    with pytest.raises(ConfigError, match="'rollout': Loupe"):
        saliency("rollout", batch, model_of("loupe"))


def test_rollout_of_a_vision_transformer_is_its_map(batch: Batch) -> None:
    maps = saliency("rollout", batch, model_of("dcal"))
    torch.testing.assert_close(maps, model_of("dcal")(batch, maps=("rollout",)).maps[:, 0])


def test_unknown_baseline_is_named(batch: Batch) -> None:
    with pytest.raises(ConfigError, match=r"'gradcan' \(did you mean 'gradcam'\?\); known: random, "):
        saliency("gradcan", batch)


class OwnTokens(AttentionModel):
    """A model of one's own on a timm transformer, read at the class token or as the mean of the patches."""

    def __init__(self, backbone: str, *, reads_class_token: bool) -> None:
        super().__init__()
        self.reads_class_token = reads_class_token
        settings = BackboneSettings(backbone=backbone)
        self.backbone = build_any_backbone(settings) if reads_class_token else build_backbone(settings)
        self.head = LinearHeads(3).image(int(cast(Any, self.backbone).num_features))

    def forward(self, batch: Batch, *, maps: tuple[str, ...] | None = None) -> AttentionOutput:
        if self.reads_class_token:
            return AttentionOutput(self.head(cast(Any, self.backbone).forward_features(batch.images)[:, 0]))
        return AttentionOutput(self.head(self.backbone(batch.images).mean(dim=(2, 3))))

    def saliency(self, output: AttentionOutput, target: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's transformers with two blocks, and Swins with an eighth of their weights."""
    create = timm.create_model
    swin = {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 3, 3)}

    def create_small(name: str, **options: Any) -> torch.nn.Module:
        small = swin if "swin" in name else {"depth": 2} if "vit" in name or "deit" in name else {}
        return create(name, **{**small, **options})

    monkeypatch.setattr(timm, "create_model", create_small)


SMALL = {"backbone": "resnet10t", "width": 0.25}
SWIN = "swin_tiny_patch4_window7_224"
DINO_V2, DINO_V3 = "vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3"
HIGH, WIDE = (256, 128), (128, 256)
LAYERS: list[tuple[dict[str, Any], tuple[int, int], str, tuple[int, int]]] = [
    ({"name": "cnn", "backbone": "resnet18", "width": 0.25}, HIGH, "layer4.1.act2", (8, 4)),
    ({"name": "cnn", "backbone": "resnet18", "width": 0.25}, WIDE, "layer4.1.act2", (4, 8)),
    ({"name": "cnn", "backbone": "resnet26d", "width": 0.25}, HIGH, "layer4.1.act3", (8, 4)),
    ({"name": "b_cnn", **SMALL}, HIGH, "layer4.0.act2", (8, 4)),
    ({"name": "br_npa", **SMALL, "stride_stage3": 1, "stride_stage4": 1}, HIGH, "layer4.0.act2", (32, 16)),
    ({"name": "loupe", **SMALL}, HIGH, "layer4.0.act2", (8, 4)),
    ({"name": "plain", **SMALL, "last_stride": 1}, (128, 64), "layer4.0.act2", (8, 4)),
    ({"name": "plain", "backbone": SWIN}, HIGH, "norm", (8, 4)),
    ({"name": "loupe", "backbone": SWIN}, (100, 60), "norm", (4, 2)),
    ({"name": "intr", **SMALL, "n_encoder_layers": 1, "n_decoder_layers": 1}, HIGH, "layer4.0.act2", (8, 4)),
    ({"name": "intr", "backbone": DINO_V2, "n_encoder_layers": 1, "n_decoder_layers": 1}, HIGH, "norm", (19, 10)),
    ({"name": "dcal", "variant": "sa_only", "width": 0.34, "depth": 2}, HIGH, "blocks.1.norm1", (16, 8)),
    ({"name": "dcal", "width": 0.34, "depth": 2}, WIDE, "blocks.1.norm1", (8, 16)),
    ({"name": "dcal", "width": 0.34, "depth": 2, "patch_stride": 12}, HIGH, "blocks.1.norm1", (21, 10)),
    ({"name": "dcal", "width": 0.34, "depth": 2, "patch_stride": 4}, (64, 32), "blocks.1.norm1", (13, 5)),
]
OWN_LAYERS: list[tuple[str, bool, tuple[int, int], str, tuple[int, int]]] = [
    ("vit_tiny_patch16_224", True, HIGH, "blocks.1.norm1", (16, 8)),
    ("deit_tiny_patch16_224", True, (100, 50), "blocks.1.norm1", (7, 4)),
    ("deit_tiny_distilled_patch16_224", True, HIGH, "blocks.1.norm1", (16, 8)),
    (DINO_V2, True, HIGH, "blocks.1.norm1", (19, 10)),
    (DINO_V3, True, HIGH, "blocks.1.norm1", (16, 8)),
    ("vit_tiny_patch16_224", False, HIGH, "body.norm", (16, 8)),
    (DINO_V2, False, HIGH, "body.norm", (19, 10)),
    (DINO_V2, False, (126, 126), "body.norm", (9, 9)),
    (DINO_V3, False, HIGH, "body.norm", (16, 8)),
    (DINO_V3, False, WIDE, "body.norm", (8, 16)),
    (SWIN, False, HIGH, "body.norm", (8, 4)),
    ("test_convnext", False, HIGH, "body.stages.3.blocks.1", (8, 4)),
    ("resnet10t", False, HIGH, "body.layer4.0.act2", (8, 4)),
]


def check_layer(model: AttentionModel, size_hw: tuple[int, int], name: str, grid: tuple[int, int]) -> None:
    """The layer is the one of this name, and a change at the bottom left is seen at the bottom left of its grid."""
    height, width = size_hw
    images = torch.sin(0.02 * torch.arange(3.0 * height * width)).view(1, 3, height, width)
    changed = images.clone()
    changed[:, :, -height // 4 :, : width // 4] += 2.0
    batch = Batch(images, torch.tensor([0]), ("a.jpg",), torch.arange(1))
    layer, arrange = find_layer(model, batch, ClassTarget(torch.tensor([1])))
    found = next(name for name, module in model.named_modules() if module is layer)
    assert found == f"backbone.{name}"
    outputs: list[torch.Tensor] = []
    hook = layer.register_forward_hook(lambda _module, _inputs, output: outputs.append(output.detach().clone()))
    with torch.no_grad():
        for shown in (images, changed):
            model(replace(batch, images=shown))
    hook.remove()
    before, after = (arrange(output) for output in outputs)
    assert before.shape[2:] == grid
    difference = (after - before).norm(dim=1)[0]  # (h, w)
    h, w = grid
    corner = difference[-(h // 4) :, : max(1, w // 4)].mean()
    assert corner > 1.2 * difference[: h // 2].mean()
    assert corner > 1.2 * difference[:, -(w // 2) :].mean()


@pytest.mark.parametrize(("settings", "size_hw", "name", "grid"), LAYERS)
def test_layer_is_the_last_one_with_places_that_count(
    settings: dict[str, Any], size_hw: tuple[int, int], name: str, grid: tuple[int, int], shallow: None
) -> None:
    torch.manual_seed(0)
    config = TypeAdapter(ModelConfig).validate_json(json.dumps({"weights": "none", **settings}))
    check_layer(build_model(config, LinearHeads(3)).eval(), size_hw, name, grid)


@pytest.mark.parametrize(("backbone", "reads_class_token", "size_hw", "name", "grid"), OWN_LAYERS)
def test_layer_of_an_own_model_is_never_the_patch_embedding(
    backbone: str, reads_class_token: bool, size_hw: tuple[int, int], name: str, grid: tuple[int, int], shallow: None
) -> None:
    torch.manual_seed(0)
    check_layer(OwnTokens(backbone, reads_class_token=reads_class_token).eval(), size_hw, name, grid)


@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", DINO_V2, DINO_V3])
@pytest.mark.parametrize("reads_class_token", [True, False])
def test_gradcam_of_a_transformer_is_a_map_of_the_image(backbone: str, reads_class_token: bool, shallow: None) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 112, 56)
    batch = Batch(images, torch.tensor([0, 1]), ("a.jpg", "b.jpg"), torch.arange(2))
    model = OwnTokens(backbone, reads_class_token=reads_class_token).eval()
    maps = baseline_saliency("gradcam", on_cpu(model), batch, ClassTarget(torch.tensor([0, 1])), (8, 4))
    assert maps.shape == (2, 8, 4)
    assert (maps.amax(dim=(1, 2)) > 0).all()
    assert (maps.flatten(1).std(dim=1) > 0.01).all()


def test_a_backbone_without_a_grid_is_refused() -> None:
    class Flat(OwnTokens):
        def __init__(self) -> None:
            AttentionModel.__init__(self)
            self.reads_class_token = False
            self.backbone = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 8, 4))
            self.head = LinearHeads(3).image(4)

        def forward(self, batch: Batch, *, maps: tuple[str, ...] | None = None) -> AttentionOutput:
            return AttentionOutput(self.head(self.backbone(batch.images)))

    batch = Batch(torch.ones(1, 3, 16, 8), torch.tensor([0]), ("a.jpg",), torch.arange(1))
    with pytest.raises(ConfigError, match="Flat's backbone has none"):
        find_layer(Flat(), batch, ClassTarget(torch.tensor([0])))


def test_gradients_weigh_the_rollout_by_what_raises_the_target(batch: Batch) -> None:
    model, target = model_of("dcal"), ClassTarget(torch.tensor([0, 1]))
    found = baseline_saliency("gradient_rollout", on_cpu(model), batch, target, GRID)
    torch.testing.assert_close(found, model.gradient_rollout(batch, target.raw_score))  # type: ignore[operator]
    assert (found >= 0).all()
    with pytest.raises(ConfigError, match="'gradient_rollout': Loupe has no plain self-attention"):
        saliency("gradient_rollout", batch, model_of("loupe"))


def test_a_pair_map_is_of_a_match_and_not_of_a_class(batch: Batch) -> None:
    with pytest.raises(ConfigError, match="'pair' explains the similarity of two images"):
        saliency("pair", batch, model_of("br_npa"))


@pytest.mark.parametrize("grid", [(4, 4), (2, 2)])
def test_a_pair_map_shows_what_adds_to_the_similarity(grid: tuple[int, int], batch: Batch) -> None:
    config = reid_config({"weights": "none", "stride_stage4": 1, **MODELS["br_npa"]})
    torch.manual_seed(0)
    task = build_task(config.task)
    assert isinstance(task, ReidTask)
    inference = on_cpu(build_model(config.model, task.heads(3)).eval(), config)
    references = torch.randn(2, 3 * 128, generator=torch.Generator().manual_seed(1))
    exact = pair_map(inference, batch, references)
    assert (exact < 0).any()
    found = baseline_saliency("pair", inference, batch, SimilarityTarget(references, task.embed), grid)
    torch.testing.assert_close(found, F.adaptive_avg_pool2d(exact, grid).clamp(min=0))


def test_a_class_token_has_no_pair_map(batch: Batch) -> None:
    config = reid_config({"weights": "none", **MODELS["dcal"]})
    task = build_task(config.task)
    assert isinstance(task, ReidTask)
    inference = on_cpu(build_model(config.model, task.heads(3)).eval(), config)
    with pytest.raises(ConfigError, match="'pair': the embedding of Dcal is no sum over the cells"):
        baseline_saliency("pair", inference, batch, SimilarityTarget(torch.zeros(2, 384), task.embed), GRID)


def test_occlusion_of_an_additive_model_is_the_weight_of_each_cell() -> None:
    weights = torch.tensor([[0.5, -0.25], [0.0, 0.125]])

    def follow(masked: torch.Tensor, rows: torch.Tensor) -> Curves:
        return {"score": (F.avg_pool2d(masked[:, 0], 2) * weights).sum(dim=(1, 2)) * (1 + rows)}

    images, settings = torch.ones(3, 3, 4, 4), RemovalSettings(batch_images=5)
    found = occlusion_saliency(SaliencyCase(images, torch.zeros(3, 2, 2), follow, settings=settings))
    torch.testing.assert_close(found, torch.tensor([1.0, 2.0, 3.0])[:, None, None] * weights.clamp(min=0))
