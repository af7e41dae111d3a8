"""The Loupe's gate against the released code, where it stands in a backbone, and its loss terms."""

from dataclasses import replace

import pytest
import timm
import torch
import torch.nn.functional as F

from attnsearch.config.model import LoupeSettings, PlainSettings
from attnsearch.errors import ConfigError, DataError, UsageError
from attnsearch.models import build_model
from attnsearch.models.backbones.generic import HIERARCHICAL, build_any_backbone, run_children, split_after
from attnsearch.models.loupe import LoupeGate, gate_mean_outside
from attnsearch.tasks.classification import LinearHeads
from attnsearch.testing.model import loss_terms
from attnsearch.types import HeadOutput

SMALL = {"backbone": "resnet10t", "width": 0.25}
SWIN = "swin_tiny_patch4_window7_224"
#: The smallest model of each of timm's modules that are taken.
SMALLEST = {
    "convnext": "test_convnext",
    "pvt_v2": "pvt_v2_b0",
    "regnet": "regnetx_002",
    "resnet": "resnet10t",
    "resnetv2": "resnetv2_18d",
    "swin_transformer": SWIN,
    "swin_transformer_v2": "swinv2_tiny_window8_256",
}
SHRUNK = {"embed_dim": 24, "depths": (1, 2, 1, 1), "num_heads": (1, 2, 3, 3)}


@pytest.fixture
def small_swin(monkeypatch):
    """timm's Swin models with an eighth of their weights; drawing all of them takes seconds."""
    create = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda name, **kw: create(name, **(SHRUNK if "swin" in name else {}), **kw)
    )


def loupe(**changes):
    return build_model(LoupeSettings(**{**SMALL, **changes}), LinearHeads(5))


@pytest.fixture
def golden_gate(golden):
    """A gate with the released module's weights, and the other arrays."""
    g = golden("loupe_module")
    gate = LoupeGate(g["x"].shape[1], reduction=g["x"].shape[1] // g["w1"].shape[0])
    names = {"attention_net.0.weight": "w1", "attention_net.0.bias": "b1"}
    names |= {"attention_net.2.weight": "w2", "attention_net.2.bias": "b2"}
    gate.load_state_dict({name: g[key] for name, key in names.items()}, strict=True)
    return gate, g


def test_gate_of_the_released_code(golden_gate):
    gate, g = golden_gate
    found = gate(g["x"])
    torch.testing.assert_close(found, g["att"], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found * g["x"], g["gated"], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found.double().mean(), g["sparsity"], atol=1e-6, rtol=1e-6)


def test_loss_of_the_released_code(golden_gate, make_batch):
    gate, g = golden_gate
    model, batch = loupe(sparsity_weight=float(g["lam"])), make_batch(len(g["labels"]))
    model.gate, batch = gate, replace(batch, labels=g["labels"])
    model.features_at_split = lambda images: g["x"]
    model.predict = lambda features: HeadOutput(g["logits"])
    terms = loss_terms(model, model(batch), batch)
    assert float(terms["cross_entropy"].detach()) == pytest.approx(float(g["ce"]), rel=1e-6)
    assert float(sum(terms.values()).detach()) == pytest.approx(float(g["total_loss"]), rel=1e-6)


def test_gate_has_the_published_number_of_parameters():
    # 9·C·(C/4) + C/4 + C/4 + 1 after the second stage of Swin-Base and Swin-Tiny
    assert [sum(p.numel() for p in LoupeGate(channels).parameters()) for channels in (256, 192)] == [147_585, 83_041]


def test_gate_stays_in_float32_under_autocast(golden_gate):
    gate, g = golden_gate
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gate(g["x"])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, g["att"], atol=0.02, rtol=0.02)


@pytest.mark.parametrize("reduction", [0, 17])
def test_reduction_that_leaves_no_channel_is_named(reduction):
    with pytest.raises(ValueError, match=f"16 channels, got {reduction}"):
        LoupeGate(16, reduction)


def test_reduction_beyond_the_stage_is_a_fault_of_the_config():
    with pytest.raises(ConfigError, match="16 channels after stage 0 of 'resnet10t', got 20"):
        loupe(stage=0, reduction=20)


@pytest.mark.parametrize("module", HIERARCHICAL)
@torch.no_grad()
def test_both_halves_together_are_the_backbone(module, small_swin):
    name = SMALLEST[module]
    body = build_any_backbone(PlainSettings(backbone=name)).eval()
    images = torch.sin(torch.arange(3 * 64 * 64) * 0.1).view(1, 3, 64, 64)
    expected = body.forward_features(images)
    for stage in range(4):
        split = split_after(body, stage, name)
        features = run_children(body, split.before, images)
        assert features.shape[3 if split.is_channels_last else 1] == split.n_channels
        assert torch.equal(run_children(body, split.after, features), expected)


@pytest.mark.parametrize(("stage", "side", "channels"), [(0, 56, 96), (1, 28, 192), (2, 14, 384), (3, 7, 768)])
def test_stages_of_swin_have_the_published_sizes(stage, side, channels):
    with torch.device("meta"):
        model = build_model(LoupeSettings(backbone=SWIN, stage=stage), LinearHeads(5))
        features = model.features_at_split(torch.empty(2, 3, 224, 224))
    assert features.shape == (2, channels, side, side)


@pytest.mark.parametrize("size_hw", [(256, 128), (128, 64)])
@pytest.mark.parametrize("module", HIERARCHICAL)
@torch.no_grad()
def test_every_hierarchical_backbone_keeps_rows_and_columns_apart(module, size_hw, make_batch):
    height, width = size_hw
    with torch.device("meta"):
        images = torch.empty(2, 3, height, width)
        batch = replace(make_batch(2), images=images, labels=torch.zeros(2, dtype=torch.int64))
        for stage, cell in enumerate((4, 8, 16, 32)):
            model = build_model(LoupeSettings(backbone=SMALLEST[module], stage=stage, reduction=2), LinearHeads(5))
            output = model.to("meta").eval()(batch, maps=())
            assert output.maps.shape == (2, 1, height // cell, width // cell)
        plain = build_model(PlainSettings(backbone=SMALLEST[module]), LinearHeads(5)).to("meta").eval()
        assert plain(batch, maps=()).maps.shape == (2, 1, height // 32, width // 32)


@pytest.mark.parametrize("module", HIERARCHICAL)
@torch.no_grad()
def test_maps_of_an_image_higher_than_wide_are_not_transposed(module, small_swin, make_batch):
    """A change at the bottom left changes the features there more than at the top and on the right."""
    model = build_model(PlainSettings(backbone=SMALLEST[module]), LinearHeads(5)).eval()
    batch = make_batch(1, 256, 128)
    images = batch.images.clone()
    images[:, :, 192:, :32] += 3.0
    before, after = (model.features_at_split(some) for some in (batch.images, images))
    changed = (after - before).norm(dim=1)[0]  # (h, w)
    assert changed.shape == (8, 4)
    assert changed[6:, :2].mean() > 2 * changed[:2, :2].mean()
    assert changed[6:, :2].mean() > 1.2 * changed[6:, 2:].mean()


@pytest.mark.parametrize("settings_class", [PlainSettings, LoupeSettings])
@torch.no_grad()
def test_last_stride_of_one_doubles_the_last_grid_of_a_resnet(settings_class, make_batch):
    stage = {"stage": 3, "reduction": 2} if settings_class is LoupeSettings else {}
    grids = {}
    for stride in (2, 1):
        model = build_model(settings_class(**SMALL, **stage, last_stride=stride), LinearHeads(5)).eval()
        grids[stride] = model(make_batch(1, 256, 128), maps=()).maps.shape[2:]
    assert grids == {2: (8, 4), 1: (16, 8)}
    assert "last_stride" not in settings_class(**SMALL).model_dump()


def test_last_stride_of_a_swin_is_refused():
    message = rf"model\.last_stride 1 does not fit '{SWIN}': only ResNets .* set it to 2 or use a ResNet"
    with torch.device("meta"), pytest.raises(ConfigError, match=message):
        build_model(PlainSettings(backbone=SWIN, last_stride=1), LinearHeads(5))


@torch.no_grad()
def test_plain_swin_is_the_swin_of_timm(make_batch, small_swin):
    model = build_model(PlainSettings(backbone=SWIN), LinearHeads(5)).eval()
    reference = timm.create_model(SWIN, num_classes=5).eval()
    state = {f"head.fc.{name.removeprefix('head.')}": t for name, t in model.state_dict().items() if "head" in name}
    body = {name.removeprefix("backbone."): t for name, t in model.state_dict().items() if "backbone" in name}
    reference.load_state_dict(body | state, strict=True)
    batch = make_batch(1, 224, 224)
    torch.testing.assert_close(model(batch).logits, reference(batch.images))


@torch.no_grad()
def test_gate_of_swin_scales_every_channel_of_a_cell_and_takes_odd_sizes(make_batch, small_swin):
    model = build_model(LoupeSettings(backbone=SWIN), LinearHeads(5)).eval()
    output = model(make_batch(1, 45, 70), maps=())
    assert output.maps.shape == (1, 1, 6, 9)  # ceil(45 / 8), ceil(70 / 8)
    features = model.features_at_split(make_batch(1, 45, 70).images)
    torch.testing.assert_close(model.predict(features * output.maps).logits, output.logits)


def test_open_gate_is_the_plain_backbone(make_batch):
    torch.manual_seed(0)
    gated = loupe(initial_gate_bias=10).eval()
    torch.manual_seed(0)
    plain = build_model(PlainSettings(**SMALL), LinearHeads(5)).eval()
    assert plain.state_dict().keys() == {name for name in gated.state_dict() if not name.startswith("gate.")}
    assert all(torch.equal(tensor, gated.state_dict()[name]) for name, tensor in plain.state_dict().items())
    torch.nn.init.constant_(gated.gate.attention_net[2].bias, 100.0)
    torch.testing.assert_close(gated(make_batch()).logits, plain(make_batch()).logits)


def test_gate_starts_near_a_half_and_its_bias_opens_it():
    for bias, expected in ((0.0, 0.5), (2.0, 0.88)):
        torch.manual_seed(0)
        gate = loupe(initial_gate_bias=bias).gate
        assert float(gate(torch.zeros(1, 32, 3, 3)).mean().detach()) == pytest.approx(expected, abs=0.1)
    torch.manual_seed(0)
    faithful = loupe().gate.attention_net[2].bias
    torch.manual_seed(0)
    torch.testing.assert_close(loupe(initial_gate_bias=2.0).gate.attention_net[2].bias, faithful + 2.0)


@pytest.mark.parametrize("changes", [{"sparsity_weight": 0.0}, {"has_sparsity": False, "sparsity_weight": 0.3}])
def test_sparsity_can_be_switched_off(changes, make_batch):
    model, batch = loupe(**changes), make_batch()
    assert float(loss_terms(model, model(batch), batch)["gate_sparsity"].detach()) == 0.0


def test_mask_term_is_the_gate_outside_of_the_parts_by_hand():
    gate = torch.tensor([[[[0.2, 0.4], [0.6, 0.8]]]])
    masks = torch.zeros(1, 4, 4, dtype=torch.bool)
    masks[0, :2, :2] = True  # the first cell whole
    masks[0, 2, 2] = True  # a quarter of the last cell
    assert float(gate_mean_outside(gate, masks)) == pytest.approx((0 + 0.4 + 0.6 + 0.8 * 0.75) / 4)


def test_mask_term_enters_the_loss_with_its_weight(make_batch):
    model, batch = loupe(mask_weight=3.0), make_batch()
    batch = replace(batch, part_masks=torch.zeros(2, 64, 64, dtype=torch.bool))
    output = model(batch, maps=())
    terms = loss_terms(model, output, batch)
    torch.testing.assert_close(terms["gate_mask"], 3.0 * output.maps.mean())
    assert set(terms) == {"cross_entropy", "gate_sparsity", "gate_mask"}


def test_training_without_the_masks_is_named_and_evaluation_goes_on(make_batch):
    model, batch = loupe(mask_weight=0.5), make_batch()
    with pytest.raises(DataError, match=r"model\.mask_weight is 0\.5 .* no part masks"):
        loss_terms(model, model(batch), batch)
    model.eval()
    assert set(loss_terms(model, model(batch), batch)) == {"cross_entropy", "gate_sparsity"}


def test_masks_are_asked_for_only_with_their_weight():
    assert loupe(mask_weight=0.5).needs_masks
    assert not loupe().needs_masks
    assert not build_model(PlainSettings(**SMALL), LinearHeads(5)).needs_masks


def test_gate_is_the_saliency(make_batch):
    model = loupe().eval()
    output = model(make_batch(), maps=())
    assert output.map_names == ("gate",)
    assert torch.equal(model.saliency(output, torch.tensor([0, 1])), output.maps[:, 0])


def test_plain_map_is_the_norm_of_the_last_features(make_batch):
    model = build_model(PlainSettings(**SMALL), LinearHeads(5)).eval()
    output = model(make_batch(), maps=())
    expected = model.backbone.forward_features(make_batch().images).square().sum(dim=1).sqrt()
    torch.testing.assert_close(output.maps[:, 0], expected)
    torch.testing.assert_close(
        output.logits,
        F.linear(
            model.backbone.forward_features(make_batch().images).mean(dim=(2, 3)), model.head.weight, model.head.bias
        ),
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test_vit", "'test_vit' is not one of the hierarchical backbones.*swin_tiny_patch4_window7_224"),
        ("vgg11", "'vgg11' is not one of the hierarchical"),
        ("swin_tinny", "'swin_tinny' is unknown to timm"),
        ("test_convnext.nope", r"'test_convnext\.nope' cannot be built.*nope"),
    ],
)
def test_unusable_backbone_is_named(name, message):
    with torch.device("meta"), pytest.raises(ConfigError, match=message):
        build_model(LoupeSettings(backbone=name), LinearHeads(5))


def test_width_of_another_backbone_is_refused():
    with pytest.raises(ConfigError, match=r"model\.width 0\.5 does not fit 'test_convnext'"):
        build_model(PlainSettings(backbone="test_convnext", width=0.5), LinearHeads(5))


@pytest.mark.parametrize("module", HIERARCHICAL)
def test_weights_with_a_classifier_fit_every_kind_of_body(module, tmp_path, small_swin):
    name = SMALLEST[module]
    reference = timm.create_model(name).requires_grad_(False)
    for parameter in reference.parameters():
        parameter.fill_(0.5)
    torch.save(reference.state_dict(), tmp_path / "w.pt")
    body = build_any_backbone(PlainSettings(backbone=name, weights=str(tmp_path / "w.pt")))
    assert all((parameter == 0.5).all() for parameter in body.parameters())


def test_swin_of_its_authors_is_renamed(tmp_path, small_swin):
    """They merge patches at the end of a stage, timm at the start of the next, and they store attention masks."""
    body = build_any_backbone(PlainSettings(backbone=SWIN))
    n_channels = body.num_features
    state = {name: torch.full_like(tensor, 0.5) for name, tensor in body.state_dict().items()}
    merges = {name: f"layers.{int(name[7]) - 1}{name[8:]}" for name in state if "downsample" in name}
    assert len(merges) == 9  # norm weight, norm bias and reduction before stages 1 to 3
    old = {merges.get(name, name): tensor for name, tensor in state.items()}
    old |= {"head.weight": torch.ones(1000, n_channels), "head.bias": torch.ones(1000)}
    old |= {"layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49)}
    torch.save({"model": old}, tmp_path / "w.pth")
    loaded = build_any_backbone(PlainSettings(backbone=SWIN, weights=str(tmp_path / "w.pth")))
    assert all((parameter == 0.5).all() for parameter in loaded.parameters())


@pytest.mark.parametrize("settings_class", [PlainSettings, LoupeSettings])
@pytest.mark.parametrize("module", [module for module in HIERARCHICAL if module != "convnext"])
@torch.no_grad()
def test_cells_add_up_to_the_embedding(module, settings_class, small_swin, make_batch):
    model = build_model(settings_class(backbone=SMALLEST[module]), LinearHeads(5)).eval()
    batch = make_batch(2, 96, 64)
    embedding, cells = model(batch).embedding, model.embedding_cells(batch)
    assert cells.shape == (*embedding.shape, 3, 2)
    assert embedding.abs().max() > 1e-3
    torch.testing.assert_close(cells.sum(dim=(2, 3)), embedding, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_gate_takes_part_in_the_sum(make_batch):
    model, batch = loupe().eval(), make_batch(1)
    before = model.embedding_cells(batch)
    model.gate.attention_net[2].bias.fill_(-10.0)
    assert model.embedding_cells(batch).abs().sum() < 0.9 * before.abs().sum()


@pytest.mark.parametrize("settings_class", [PlainSettings, LoupeSettings])
@torch.no_grad()
def test_a_backbone_that_changes_the_mean_has_no_sum(settings_class, make_batch):
    model = build_model(settings_class(backbone="test_convnext"), LinearHeads(5)).eval()
    with pytest.raises(
        UsageError, match=rf"{type(model).__name__} is no sum .* as ConvNeXt does; use a ResNet or Swin"
    ):
        model.embedding_cells(make_batch(2))
