"""Which vision transformers are taken, at which size, with which stem and weights."""

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.layers.pos_embed import resample_abs_pos_embed

from attnsearch.config.model import DcalSettings
from attnsearch.errors import ConfigError, DataError
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


def load(weights, *, position_grid=4, **changes):
    """A body of 2 blocks with these weights; validated settings would allow a depth without weights only."""
    unweighted = settings(depth=2, position_grid=position_grid, **changes)
    return build_vit(unweighted.model_copy(update={"weights": str(weights)}))


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
        ({"n_cameras": 6}, set()),
        ({"glca_readout": "cls"}, {"top_k_ratio"}),
        ({"variant": "sa_glca"}, {"n_pwca_blocks"}),
        ({"variant": "sa_pwca"}, {"top_k_ratio", "glca_readout", "glca_init", "n_glca_blocks"}),
        ({"variant": "sa_only"}, {"top_k_ratio", "glca_readout", "glca_init", "n_glca_blocks", "n_pwca_blocks"}),
    ],
)
def test_axes_that_cannot_change_a_prediction_are_known_with_their_reason(changes, keys):
    reasons = settings(**changes).unused_parameters()
    without_cameras = reasons.pop("camera_weight", None)
    assert (without_cameras is None) == ("n_cameras" in changes)
    assert set(reasons) == keys
    assert keys <= set(DcalSettings.model_fields)
    assert all(repr(value) in reason for value in changes.values() for reason in reasons.values())


@pytest.mark.parametrize(
    ("height", "width", "stride", "grid"),
    [(256, 128, 12, (21, 10)), (256, 128, 14, (18, 9)), (256, 128, 16, (16, 8)), (45, 70, 12, (3, 5))],
)
def test_overlapping_patches_have_the_grid_of_transreid(height, width, stride, grid):
    body = build_vit(settings(width=0.34, depth=2, patch_stride=stride)).eval()
    tokens, found = embed(body, torch.zeros(1, 3, height, width))
    assert found == grid
    assert tokens.shape == (1, 1 + grid[0] * grid[1], 64)


def test_overlapping_patches_see_their_pixels_and_keep_the_names_of_timm():
    plain, overlapping = (build_vit(settings(width=0.34, depth=2, patch_stride=stride)) for stride in (None, 12))
    assert overlapping.state_dict().keys() == plain.state_dict().keys()
    overlapping.load_state_dict(plain.state_dict(), strict=True)
    images = torch.sin(torch.arange(3 * 52 * 40) * 0.1).view(1, 3, 52, 40)
    found = overlapping.patch_embed(images)
    assert found.shape == (1, 4, 3, 64)
    for row in range(4):
        for column in range(3):
            patch = images[:, :, 12 * row : 12 * row + 16, 12 * column : 12 * column + 16]
            torch.testing.assert_close(found[:, row, column], plain.patch_embed(patch)[:, 0, 0], atol=1e-5, rtol=1e-5)


def test_overlapping_patches_resample_the_positions_to_their_grid(pretrained, tmp_path):
    """Bicubic with antialiasing, as timm resamples pretrained ones, to a grid that is no square."""
    save_file(pretrained.state_dict(), tmp_path / "vit.safetensors")
    body = load(tmp_path / "vit.safetensors", patch_stride=12)
    images = torch.zeros(1, 3, 64, 40)
    tokens, grid = embed(body, images)
    assert grid == (5, 3)
    square = pretrained.pos_embed[0, 1:].view(4, 4, -1).permute(2, 0, 1)[None]
    resampled = F.interpolate(square, size=(5, 3), mode="bicubic", antialias=True)[0].flatten(1).T
    torch.testing.assert_close(tokens[0, 1:], body.patch_embed(images).flatten(1, 2)[0] + resampled)
    own = load(tmp_path / "vit.safetensors", patch_stride=12, position_grid=(5, 3))
    torch.testing.assert_close(own.pos_embed[0, 1:], resampled)


@pytest.mark.parametrize(("height", "stride"), [(256, 12), (128, 12), (100, 14), (45, 5), (61, 15)])
def test_even_cells_are_the_means_of_what_is_seen_of_them(height, stride):
    """Against pixels: each cell averages the tokens that cover its pixels, once for each pixel they cover."""
    patches = build_vit(settings(width=0.34, depth=2, patch_stride=stride)).patch_embed
    n = (height - 16) // stride + 1
    values = torch.sin(torch.arange(n) * 1.7).double()
    fine = 1000  # steps a pixel
    places = (torch.arange(height * fine) + 0.5) / fine
    covers = (places >= stride * torch.arange(n)[:, None]) & (places < stride * torch.arange(n)[:, None] + 16)
    cell = (places * n / height).long()
    expected = []
    for index in range(n):
        weights = covers[:, cell == index].sum(dim=1).double()
        expected.append((weights * values).sum() / weights.sum())
    found = patches.on_even_cells(values[:, None].expand(n, n), (height, height))
    torch.testing.assert_close(found[:, 0], torch.stack(expected), atol=1e-3, rtol=0)
    flat = patches.on_even_cells(torch.ones(2, n, n, dtype=torch.float64), (height, height))
    torch.testing.assert_close(flat, torch.ones(2, n, n, dtype=torch.float64))


def test_a_planted_token_is_found_where_its_pixels_are():
    """256 x 128 px, stride 12: the token of row 20 begins at 240 px, where an even split into 21 rows has row 19."""
    patches = build_vit(settings(width=0.34, depth=2, patch_stride=12)).patch_embed
    planted = torch.zeros(21, 10)
    planted[10, 5] = 1.0  # pixels 120 to 136 and 60 to 76
    cells = patches.on_even_cells(planted, (256, 128))
    height, width = 256 / 21, 128 / 10
    y = ((torch.arange(21) + 0.5) * height * cells.sum(dim=1)).sum() / cells.sum()
    x = ((torch.arange(10) + 0.5) * width * cells.sum(dim=0)).sum() / cells.sum()
    assert y.item() == pytest.approx(128, abs=1.0)
    assert x.item() == pytest.approx(68, abs=1.0)
    seen = cells.nonzero()
    for row, column in seen.tolist():
        assert row * height < 136
        assert (row + 1) * height > 120
        assert column * width < 76
        assert (column + 1) * width > 60
    last = torch.zeros(21, 10)
    last[:, 9] = 1.0  # pixels 108 to 124; the last four are seen by none
    assert patches.on_even_cells(last, (256, 128))[0, 9] > 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_stride": 17}, r"at most the 16 px of a patch of 'deit_tiny_patch16_224', got 17"),
        ({"patch_stride": 12, "backbone": "vit_base_r50_s16_224"}, r"patch_stride 12 does not fit 'vit_base_r50_s16"),
    ],
)
def test_patches_that_cannot_overlap_are_refused(changes, message):
    with torch.device("meta"), pytest.raises(ConfigError, match=message):
        build_vit(settings(**changes))


def test_a_convolutional_stem_has_no_patches_to_overlap():
    with pytest.raises(ValueError, match="patch_stride needs stem patch, got patch_stride 12 with stem 'conv'"):
        settings(patch_stride=12, stem="conv")


def test_an_image_smaller_than_a_patch_is_refused():
    body = build_vit(settings(width=0.34, depth=2, patch_stride=12))
    with pytest.raises(DataError, match="12 x 64 px is smaller than a patch of 16 px; raise data"):
        embed(body, torch.zeros(1, 3, 12, 64))


def test_positions_of_a_grid_that_is_no_square_need_their_own_grid(fill, tmp_path):
    save_file(fill(build_vit(settings(depth=2, position_grid=(4, 2)))).state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(
        ConfigError, match=r"positions of 8 patches in a grid that is no square; set model\.position_grid"
    ):
        load(tmp_path / "vit.safetensors")
    assert load(tmp_path / "vit.safetensors", position_grid=(4, 2)).pos_embed.shape == (1, 9, 192)


def test_new_settings_are_written_only_where_they_are_set():
    new = {"patch_stride", "n_cameras", "camera_weight"}
    assert not new & settings().model_dump().keys()
    assert new <= settings(patch_stride=12, n_cameras=6, camera_weight=1.0).model_dump().keys()
