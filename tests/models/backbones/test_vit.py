"""Which vision transformers are taken, at which size, with which stem and weights."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers.pos_embed import resample_abs_pos_embed

from attnsearch.config.model import DcalSettings
from attnsearch.errors import ConfigError
from attnsearch.models.backbones.vit import build_vit, embed
from attnsearch.models.dcal import build
from attnsearch.models.weights import save_checkpoint
from attnsearch.tasks.classification import LinearHeads

NAME = "deit_tiny_patch16_224"


def settings(**changes):
    return DcalSettings.model_validate(changes)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("deit_tiny_patch16_225", r"'deit_tiny_patch16_225' is unknown to timm .*, try deit_tiny_patch16_224"),
        ("resnet18", r"'resnet18' is not a ViT"),
        ("cait_xs24_384", r"'cait_xs24_384' is not a ViT"),
        ("deit3_small_patch16_224", r"plain ViT in blocks\.0\.ls1\.gamma"),
        ("vit_base_patch16_clip_224", r"plain ViT in norm_pre\.bias"),
        ("vit_base_patch16_siglip_224", r"plain ViT in attn_pool\."),
        ("vit_base_patch16_rpn_224", r"plain ViT in blocks\.0\.attn|plain ViT in cls_token"),
        ("deit_tiny_distilled_patch16_224", r"plain ViT in dist_token"),
    ],
)
def test_backbone_that_is_no_plain_vit_is_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        build_vit(settings(backbone=name))


@pytest.mark.parametrize(
    ("name", "n_millions"),
    [
        ("deit_small_patch16_224.fb_in1k", 21.7),
        ("vit_base_patch16_224.augreg_in21k", 85.8),
        ("vit_base_r50_s16_224.orig_in21k", 97.9),
    ],
)
def test_backbones_of_the_paper_are_taken(name, n_millions):
    with torch.device("meta"):
        body = build_vit(settings(backbone=name))
    assert sum(parameter.numel() for parameter in body.parameters()) / 1e6 == pytest.approx(n_millions, abs=0.05)
    assert body.pos_embed.shape[1] == 14 * 14 + 1


def test_position_grid_sets_the_tokens_of_the_embedding():
    with torch.device("meta"):
        hybrid = build_vit(settings(backbone="vit_base_r50_s16_224", position_grid=28))
    assert hybrid.pos_embed.shape[1] == 785
    assert settings(position_grid=(28, 28)) == settings(position_grid=28)
    assert sum(parameter.numel() for parameter in hybrid.parameters()) / 1e6 == pytest.approx(98.3, abs=0.05)


def test_a_position_grid_may_be_a_rectangle():
    body = build_vit(settings(width=0.34, depth=2, position_grid=(2, 3)))
    tokens, grid = embed(body, torch.zeros(1, 3, 32, 48))
    assert grid == body.patch_embed.grid_size == (2, 3)
    own = tokens[0, 1:] - body.patch_embed(torch.zeros(1, 3, 32, 48)).flatten(1, 2)[0]
    torch.testing.assert_close(own, body.pos_embed[0, 1:])  # row by row, not resampled


def test_a_position_grid_beyond_its_range_is_refused():
    with pytest.raises(ValueError, match=r"from 1 to 128 rows and columns, got \(4, 129\)"):
        settings(position_grid=(4, 129))


@pytest.mark.parametrize(("width", "n_heads"), [(0.34, 1), (0.67, 2), (1.0, 3), (2.0, 6)])
def test_width_changes_heads_and_keeps_their_channels(width, n_heads):
    body = build_vit(settings(width=width, depth=2))
    assert [block.attn.num_heads for block in body.blocks] == [n_heads, n_heads]
    assert body.embed_dim == 64 * n_heads


@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize(("height", "width", "grid"), [(64, 64, (4, 4)), (45, 37, (3, 3)), (32, 70, (2, 5))])
def test_grid_of_any_picture_is_its_size_by_the_patch_rounded_up(stem, height, width, grid):
    body = build_vit(settings(width=0.34, depth=2, stem=stem, position_grid=4))
    tokens, found = embed(body.eval(), torch.zeros(1, 3, height, width))
    assert found == grid
    assert tokens.shape == (1, 1 + grid[0] * grid[1], 64)


def test_conv_stem_doubles_its_channels():
    stem = build_vit(settings(stem="conv")).patch_embed
    convolutions = [layer for layer in stem.layers if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [24, 48, 96, 192, 192]
    assert [layer.stride[0] for layer in convolutions] == [2, 2, 2, 2, 1]


def test_conv_stem_is_refused_where_patches_do_not_halve():
    message = r"model\.stem conv halves the image step by step, .* got patches of 14 pixels and 1024 channels"
    with torch.device("meta"), pytest.raises(ConfigError, match=message):
        build_vit(settings(backbone="vit_large_patch14_224", stem="conv"))


def test_other_grid_resamples_the_positions_as_timm_does():
    body = build_vit(settings(width=0.34, depth=2, position_grid=4))
    images = torch.zeros(1, 3, 96, 32)
    tokens, _ = embed(body, images)
    class_token, patches = body.cls_token, body.patch_embed(images).flatten(1, 2)
    expected = torch.cat([class_token, patches], dim=1) + resample_abs_pos_embed(body.pos_embed, [6, 2], [4, 4])
    torch.testing.assert_close(tokens, expected)


@pytest.fixture
def pretrained(fill):
    """A small timm ViT of 2 blocks with a classifier, for images of 64 pixels."""
    return fill(timm.create_model(NAME, depth=2, img_size=64, num_classes=7))


def load(weights, *, position_grid=4):
    """A body of 2 blocks with these weights; validated settings would allow a depth without weights only."""
    return build_vit(settings(depth=2, position_grid=position_grid).model_copy(update={"weights": str(weights)}))


def test_timm_weights_fill_everything_but_the_classifier(pretrained, tmp_path, make_batch):
    save_file(pretrained.state_dict(), tmp_path / "vit.safetensors")
    body = load(tmp_path / "vit.safetensors")
    pretrained.reset_classifier(0)
    assert {name for name, _ in body.named_parameters()} == {name for name, _ in pretrained.named_parameters()}
    images = make_batch().images
    torch.testing.assert_close(body.eval()(images), pretrained.eval()(images))


def test_weights_of_another_size_have_their_positions_resampled(pretrained, tmp_path):
    save_file(pretrained.state_dict(), tmp_path / "vit.safetensors")
    body = load(tmp_path / "vit.safetensors", position_grid=7)
    expected = resample_abs_pos_embed(pretrained.pos_embed, [7, 7], [4, 4])
    torch.testing.assert_close(body.pos_embed, expected)
    assert torch.equal(body.blocks[1].mlp.fc2.weight, pretrained.blocks[1].mlp.fc2.weight)


def test_checkpoint_of_the_package_gives_its_backbone(fill, tmp_path):
    cfg = settings(depth=2, position_grid=4)
    trained = fill(build(cfg, LinearHeads(5)))
    metadata = {"class_names": "[]", "config": cfg.model_dump_json(), "epoch": "1"}
    save_checkpoint(tmp_path / "best.safetensors", trained.state_dict(), metadata)
    body = load(tmp_path / "best.safetensors")
    assert all(torch.equal(body.state_dict()[name], tensor) for name, tensor in trained.backbone.state_dict().items())


def test_weights_of_another_model_are_refused_whole(pretrained, tmp_path):
    state = pretrained.state_dict()
    del state["blocks.1.norm2.bias"]
    save_file(state, tmp_path / "vit.safetensors")
    with pytest.raises(ConfigError, match=r"1 missing: blocks\.1\.norm2\.bias"):
        load(tmp_path / "vit.safetensors")


def test_pretrained_weights_come_with_the_hub_name(pretrained, tmp_path, monkeypatch):
    save_file(pretrained.state_dict(), tmp_path / f"{NAME}.safetensors")
    monkeypatch.setattr("attnsearch.models.weights._download", lambda name: tmp_path / f"{name}.safetensors")
    body = load("hub")
    assert torch.equal(body.blocks[0].attn.qkv.weight, pretrained.blocks[0].attn.qkv.weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 4}, r"got depth 4 and stem 'patch' with weights 'hub'"),
        ({"stem": "conv"}, r"got depth None and stem 'conv' with weights 'hub'"),
        ({"width": 0.5}, r"must be 1 with weights 'hub', got width 0\.5"),
    ],
)
def test_new_shapes_are_refused_with_loaded_weights(changes, message):
    with pytest.raises(ValueError, match=message):
        settings(weights="hub", **changes)


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.01])
def test_ratio_lies_between_none_and_all(ratio):
    with pytest.raises(ValueError, match=rf"input_value={ratio}"):
        settings(top_k_ratio=ratio)


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({}, set()),
        ({"glca_readout": "local_mean"}, set()),
        ({"glca_readout": "cls"}, {"top_k_ratio"}),
        ({"variant": "sa_glca"}, {"n_pwca_blocks"}),
        ({"variant": "sa_pwca"}, {"top_k_ratio", "glca_readout", "glca_init", "n_glca_blocks"}),
        ({"variant": "sa_only"}, {"top_k_ratio", "glca_readout", "glca_init", "n_glca_blocks", "n_pwca_blocks"}),
    ],
)
def test_axes_that_cannot_change_a_prediction_are_known_with_their_reason(changes, keys):
    reasons = settings(**changes).unused_parameters()
    assert set(reasons) == keys
    assert keys <= set(DcalSettings.model_fields)
    assert all(repr(value) in reason for value in changes.values() for reason in reasons.values())
