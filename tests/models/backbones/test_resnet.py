"""Resolution, padding, width and refusals of the feature extractor."""

import json

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from attnsearch.config.model import CnnSettings, ModelConfig
from attnsearch.errors import ConfigError
from attnsearch.models import build_model
from attnsearch.models.backbones.resnet import build_resnet
from attnsearch.tasks.classification import LinearHeads


def features_of(size, **changes):
    height, width = size if isinstance(size, tuple) else (size, size)
    with torch.device("meta"):  # shapes alone: costs nothing at any size
        body = build_resnet(CnnSettings(**changes))
        return body(torch.empty(1, 3, height, width))


@pytest.mark.parametrize(
    ("side", "strides", "expected"),
    [
        (224, (2, 2), 7),
        (224, (2, 1), 14),
        (224, (1, 2), 14),
        (224, (1, 1), 28),
        (448, (2, 2), 14),
        (448, (1, 2), 28),
        (448, (1, 1), 56),
    ],
)
def test_strides_set_the_resolution_of_resnet50(side, strides, expected):
    features = features_of(side, backbone="resnet50", stride_stage3=strides[0], stride_stage4=strides[1])
    assert features.shape == (1, 2048, expected, expected)


@pytest.mark.parametrize(
    ("strides", "expected"), [((2, 2, 2), (8, 4)), ((2, 2, 1), (16, 8)), ((2, 1, 1), (32, 16)), ((1, 1, 1), (64, 32))]
)
def test_grids_of_persons_are_those_of_the_authors_of_br_npa(strides, expected):
    """256 x 128 px: low resolution keeps the stride of stage 4 at 1, high resolution those of stages 2, 3 and 4."""
    settings = dict(zip(("stride_stage2", "stride_stage3", "stride_stage4"), strides, strict=True))
    assert features_of((256, 128), backbone="resnet50", **settings).shape == (1, 2048, *expected)


@pytest.mark.parametrize("family", ["cnn", "b_cnn", "br_npa"])
@torch.no_grad()
def test_every_family_makes_maps_of_high_resolution(family, make_batch):
    settings = {"backbone": "resnet10t", "width": 0.25, "stride_stage2": 1, "stride_stage3": 1, "stride_stage4": 1}
    config = TypeAdapter(ModelConfig).validate_json(json.dumps({"name": family, **settings}))
    model = build_model(config, LinearHeads(3)).eval()
    output = model(make_batch(2, 64, 32), maps=())
    assert output.maps.shape[2:] == (16, 8)
    assert model.saliency(output, torch.zeros(2, dtype=torch.int64)).shape == (2, 16, 8)


def test_the_stride_of_stage_2_is_written_only_where_it_is_set():
    assert "stride_stage2" not in CnnSettings().model_dump()
    assert CnnSettings(stride_stage2=1).model_dump()["stride_stage2"] == 1


@pytest.mark.parametrize(
    "backbone", ["resnet10t", "resnet18", "resnet26d", "resnetaa34d", "resnetblur18", "seresnext26t_32x4d"]
)
def test_strides_act_on_every_kind_of_first_block(backbone):
    for strides, expected in (((2, 2), 2), ((1, 2), 4), ((2, 1), 4), ((1, 1), 8)):
        features = features_of(64, backbone=backbone, stride_stage3=strides[0], stride_stage4=strides[1])
        assert features.shape[2:] == (expected, expected)


@pytest.mark.parametrize("backbone", ["resnet10t", "resnetaa34d", "resnetblur18"])
def test_strides_leave_the_weights_as_they_are(backbone):
    low = build_resnet(CnnSettings(backbone=backbone, width=0.25))
    strides = {"stride_stage2": 1, "stride_stage3": 1, "stride_stage4": 1}
    high = build_resnet(CnnSettings(backbone=backbone, width=0.25, **strides))
    assert {name: weight.shape for name, weight in high.state_dict().items()} == {
        name: weight.shape for name, weight in low.state_dict().items()
    }
    high.load_state_dict(low.state_dict(), strict=True)


def test_removed_stride_equals_a_dense_evaluation_of_the_same_block(fill):
    """Every second cell of the stride-1 block is the stride-2 block, whose shortcut is a plain 1x1 convolution."""
    low = fill(build_resnet(CnnSettings(backbone="resnet18", width=0.25))).eval()
    high = fill(build_resnet(CnnSettings(backbone="resnet18", width=0.25, stride_stage4=1))).eval()
    cells = torch.sin(torch.arange(64 * 8 * 8) * 0.37).view(1, 64, 8, 8)
    torch.testing.assert_close(high.layer4[0].conv1(cells)[:, :, ::2, ::2], low.layer4[0].conv1(cells))
    torch.testing.assert_close(high.layer4[0].downsample(cells)[:, :, ::2, ::2], low.layer4[0].downsample(cells))


@pytest.mark.parametrize("backbone", ["resnet10t", "resnetaa34d", "resnetblur18"])
def test_odd_image_sizes_work(backbone):
    body = build_resnet(CnnSettings(backbone=backbone, width=0.25, stride_stage3=1)).eval()
    assert body(torch.zeros(1, 3, 75, 41)).shape[2:] == (5, 3)


def test_circular_padding_holds_for_the_3x3_convolutions_of_residual_blocks_alone():
    with torch.device("meta"):
        body = build_resnet(CnnSettings(backbone="resnet50", padding="circular"))
    circular = [name for name, m in body.named_modules() if getattr(m, "padding_mode", "zeros") == "circular"]
    assert len(circular) == 16
    assert all(name.startswith("layer") and name.endswith("conv2") for name in circular)


def test_circular_padding_makes_a_block_commute_with_shifts(fill):
    body = fill(build_resnet(CnnSettings(backbone="resnet10t", width=0.25, padding="circular"))).eval()
    cells = torch.sin(torch.arange(16 * 6 * 6) * 0.37).view(1, 16, 6, 6)
    shifted = body.layer1(cells.roll((2, 1), dims=(2, 3)))
    torch.testing.assert_close(shifted, body.layer1(cells).roll((2, 1), dims=(2, 3)))


def test_width_scales_the_stages_and_the_deep_stem():
    body = build_resnet(CnnSettings(backbone="resnet10t", width=0.5))
    assert [info["num_chs"] for info in body.feature_info] == [32, 32, 64, 128, 256]  # half of 64, 64, 128, 256, 512
    assert body.num_features == 256


def test_body_has_no_classifier_and_never_negative_features(fill):
    body = fill(build_resnet(CnnSettings(backbone="resnet10t", width=0.25))).eval()
    assert not [name for name, _ in body.named_parameters() if name.startswith(("fc", "global_pool"))]
    assert isinstance(body.layer4[-1].act2, nn.ReLU)
    features = body(torch.sin(torch.arange(3 * 32 * 32) * 0.1).view(1, 3, 32, 32))
    assert features.min() == 0.0
    assert features.max() > 0.0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet5", r"'resnet5' is unknown to timm .*, try resnet50 or"),
        ("hf_hub:timm/resnet50", "'hf_hub:timm/resnet50' is unknown"),
        ("vit_tiny_patch16_224", "'vit_tiny_patch16_224' is not ResNet-like.*such as resnet50"),
        ("resnest14d", "'resnest14d' is not ResNet-like"),
        ("resnet50.nope", r"'resnet50\.nope'.*Invalid pretrained tag \(nope\)"),
    ],
)
def test_unusable_backbone_is_named(name, message):
    with pytest.raises(ConfigError, match=message):
        build_resnet(CnnSettings(backbone=name))


def test_width_that_does_not_fit_is_named():
    with pytest.raises(ConfigError, match=r"'resnet50_gn' with model\.width 0\.25 cannot be built: num_channels"):
        build_resnet(CnnSettings(backbone="resnet50_gn", width=0.25))
    with (
        torch.device("meta"),
        pytest.raises(ConfigError, match=r"model\.width 0\.5 does not fit 'ecaresnet50d_pruned'"),
    ):
        build_resnet(CnnSettings(backbone="ecaresnet50d_pruned", width=0.5))
