"""BR-NPA, B-CNN and the CNN against the released code and closed forms."""

import pytest
import torch
import torch.nn.functional as F

from attnsearch.config.model import BCnnSettings, BrNpaSettings, CnnSettings
from attnsearch.errors import UsageError
from attnsearch.models import build_model
from attnsearch.models.br_npa import feature_norm, part_pooling, representative_vectors
from attnsearch.tasks.classification import LinearHead, LinearHeads
from attnsearch.testing.model import loss_terms
from attnsearch.types import AttentionOutput, HeadOutput


@pytest.mark.parametrize("case", ["signed", "relu"])
@pytest.mark.parametrize(("refine", "suffix"), [(True, "refine"), (False, "norefine")])
def test_vectors_and_maps_of_the_released_code(golden, case, refine, suffix):
    g = golden("brnpa_repr_vectors")
    vectors, maps = representative_vectors(g[f"{case}_features"], int(g["nb_vec"]), refine=refine)
    torch.testing.assert_close(vectors, g[f"{case}_vectors_{suffix}"], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(maps, g[f"{case}_maps_{suffix}"], atol=1e-6, rtol=1e-6)


def test_concatenated_vectors_of_the_released_code(golden):
    g = golden("brnpa_repr_vectors")
    vectors, _ = representative_vectors(g["relu_features"], int(g["nb_vec"]))
    torch.testing.assert_close(vectors.flatten(1), g["relu_pooled"], atol=1e-6, rtol=1e-6)


def test_unrefined_vectors_are_the_features_of_the_seed_pixels(golden):
    g = golden("brnpa_repr_vectors")
    features = g["relu_features"]
    vectors, _ = representative_vectors(features, int(g["nb_vec"]), refine=False)
    seeds = g["relu_seed_index"][:, :, None].expand(-1, -1, features.shape[1])
    assert torch.equal(vectors, features.flatten(2).transpose(1, 2).gather(1, seeds))


def test_two_orthogonal_parts_are_found_by_hand():
    # Pixels (3, 0), (0, 2), (0, 2), (0, 0): pixel 0 is most active; what is left then is (0, 2), twice.
    features = torch.tensor([[[[3.0, 0.0], [0.0, 0.0]], [[0.0, 2.0], [2.0, 0.0]]]])
    vectors, maps = representative_vectors(features, 2)
    torch.testing.assert_close(maps, torch.tensor([[[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.5], [0.5, 0.0]]]]))
    torch.testing.assert_close(vectors, torch.tensor([[[3.0, 0.0], [0.0, 2.0]]]))


def test_first_of_equally_active_pixels_is_taken():
    features = torch.eye(3).view(1, 3, 1, 3)
    vectors, _ = representative_vectors(features, 3, refine=False)
    torch.testing.assert_close(vectors, torch.eye(3)[None])


@pytest.mark.parametrize("refine", [True, False])
def test_zero_features_give_zeros_and_finite_gradients(refine):
    features = torch.zeros(3, 4, 2, 3)
    features[1] = torch.arange(24.0).view(4, 2, 3)  # one image among empty ones
    features.requires_grad_()
    vectors, maps = representative_vectors(features, 3, refine=refine)
    (vectors.square().sum() + vectors.sum() + (maps * torch.arange(6.0).view(2, 3)).sum()).backward()
    assert vectors[[0, 2]].count_nonzero() == 0
    assert maps[[0, 2]].count_nonzero() == 0
    assert features.grad.isfinite().all()
    torch.testing.assert_close(maps[1].sum(dim=(1, 2)), torch.ones(3))


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e-5, 1e12])
def test_features_of_any_scale_give_finite_gradients(scale):
    features = (scale * (1.0 + torch.arange(24.0).view(1, 4, 2, 3))).requires_grad_()
    vectors, maps = representative_vectors(features, 3)
    (vectors.sum() + maps[:, :, 0].sum()).backward()
    assert maps.isfinite().all()
    assert features.grad.isfinite().all()


def test_gradients_agree_with_finite_differences(golden):
    features = golden("brnpa_repr_vectors")["relu_features"][:, :, :2, :3].double()
    features = (features + 0.1 * torch.arange(features.numel()).view_as(features).sin().abs()).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: representative_vectors(x, 2), (features,))


def test_channels_last_features_give_the_same(golden):
    g = golden("brnpa_repr_vectors")
    features, n_vectors = g["relu_features"], int(g["nb_vec"])
    expected = representative_vectors(features, n_vectors)
    found = representative_vectors(features.contiguous(memory_format=torch.channels_last), n_vectors)
    torch.testing.assert_close(found, expected)


def test_vectors_stay_in_float32_under_autocast(golden):
    g = golden("brnpa_repr_vectors")
    features, n_vectors = g["relu_features"], int(g["nb_vec"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        vectors, maps = representative_vectors(features, n_vectors)
    expected = representative_vectors(features, n_vectors)
    assert torch.equal(vectors, expected[0])
    assert torch.equal(maps, expected[1])


def test_random_seeds_are_drawn_per_image_and_vector():
    features = torch.eye(16).view(1, 16, 4, 4).expand(8, -1, -1, -1)  # pixel p is the unit vector p
    vectors, maps = representative_vectors(features, 5, refine=False, generator=torch.Generator().manual_seed(3))
    drawn = torch.randint(16, (8, 5), generator=torch.Generator().manual_seed(3))
    assert torch.equal(vectors.argmax(dim=2), drawn)
    assert torch.equal(maps.flatten(2).argmax(dim=2), drawn)


def test_shared_draw_takes_the_same_pixels_in_all_images():
    features = torch.eye(16).view(1, 16, 4, 4).expand(4, -1, -1, -1)
    generator = torch.Generator().manual_seed(3)
    vectors, _ = representative_vectors(features, 3, refine=False, generator=generator, shared_draw=True)
    assert torch.equal(vectors, vectors[:1].expand(4, -1, -1))


def test_part_pooling_of_the_released_code(golden):
    g = golden("brnpa_bcnn_pool")
    n_parts = int(g["nb_parts"])
    assert torch.equal(F.relu(g["att_logits"]), g["att_maps"])
    pooled = part_pooling(g["features"], g["att_maps"][:, :n_parts])
    torch.testing.assert_close(pooled, g["pooled"], atol=1e-6, rtol=1e-6)


def test_feature_norm_of_the_released_code(golden):
    g = golden("brnpa_saved_maps")
    torch.testing.assert_close(feature_norm(g["features"]), g["raw_norm"], atol=1e-6, rtol=1e-6)


@pytest.fixture
def golden_heads(golden, tiny):
    """A BR-NPA model whose heads carry the golden weights."""
    g = golden("brnpa_losses")
    n_classes, n_pooled = g["head_weight"].shape
    model = build_model(tiny(BrNpaSettings, auxiliary_heads=True), LinearHeads(n_classes))
    n_vectors = sum(f"head_w_{index}" in g for index in range(10))
    model.n_channels = n_pooled // n_vectors
    for name in model.auxiliary:
        weight, bias = g[f"head_w_{name}"], g[f"head_b_{name}"]
        model.auxiliary[name] = LinearHead(*weight.T.shape)
        model.auxiliary[name].load_state_dict({"weight": weight, "bias": bias})
    return model, g


def test_auxiliary_heads_of_the_released_code(golden_heads):
    model, g = golden_heads
    branches = model.branches(g["head_features"])
    assert sorted(branches) == ["0", "01", "1", "12", "2"]
    for name, head in branches.items():
        torch.testing.assert_close(head.logits, g[f"head_pred_{name}"], atol=1e-5, rtol=1e-5)


def test_auxiliary_loss_of_the_released_code(golden_heads, make_batch):
    model, g = golden_heads
    batch = make_batch(len(g["labels"]))
    batch.labels.copy_(g["labels"])
    names = ("01", "12", "0", "1", "2")
    branches = {name: HeadOutput(g[f"aux_{name}"]) for name in names}
    output = AttentionOutput(HeadOutput(g["student_logits"]), branches)
    terms = loss_terms(model, output, batch)
    assert set(terms) == {"cross_entropy", *(f"cross_entropy_{name}" for name in names)}
    weight = float(g["plain_nll_weight"])
    assert weight * float(terms["cross_entropy"]) == pytest.approx(float(g["plain_loss"]), rel=1e-6)
    assert weight * float(sum(terms.values())) == pytest.approx(float(g["loss_with_aux"]), rel=1e-6)


def test_auxiliary_heads_train_themselves_alone(tiny, make_batch):
    model, batch = build_model(tiny(BrNpaSettings, auxiliary_heads=True), LinearHeads(5)), make_batch()
    terms = loss_terms(model, model(batch), batch)
    sum(term for name, term in terms.items() if name != "cross_entropy").backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in model.named_parameters() if name.startswith("auxiliary.")}


def test_head_sees_the_vectors_in_order(tiny, fill, make_batch):
    model, batch = fill(build_model(tiny(BrNpaSettings), LinearHeads(5))).eval(), make_batch()
    vectors, maps = representative_vectors(model.backbone(batch.images), 3)
    output = model(batch, maps=())
    torch.testing.assert_close(output.logits, vectors.flatten(1) @ model.head.weight.T)
    torch.testing.assert_close(output.maps, maps)


def test_b_cnn_never_pools_its_background(tiny, fill, make_batch):
    model, batch = fill(build_model(tiny(BCnnSettings, n_parts=2), LinearHeads(5))).eval(), make_batch()
    before = model(batch, maps=())
    with torch.no_grad():
        model.attention[1].weight[-1].abs_().mul_(3.0)
    after = model(batch, maps=())
    assert before.map_names == ("part_1", "part_2", "background")
    assert not torch.equal(after.maps[:, 2], before.maps[:, 2])
    assert torch.equal(after.logits, before.logits)


def test_b_cnn_attention_has_the_released_size():
    with torch.device("meta"):
        attention = build_model(BCnnSettings(backbone="resnet50"), LinearHeads(200)).attention
    # two 3x3 convolutions with batch norm at 2048 channels, and a 1x1 convolution to 3 + 1 maps
    expected = 2 * (2048 * 2048 * 9 + 2 * 2048) + 2048 * 4
    assert sum(parameter.numel() for parameter in attention.parameters()) == expected


def test_circular_padding_reaches_the_attention_of_b_cnn(tiny):
    attention = build_model(tiny(BCnnSettings, padding="circular"), LinearHeads(5)).attention
    assert [m.padding_mode for m in attention.modules() if isinstance(m, torch.nn.Conv2d)] == [
        "circular",
        "circular",
        "zeros",
    ]


def test_saliency_is_the_first_map_the_mean_map_or_the_norm_alone(tiny):
    maps = torch.arange(1.0, 25.0).view(2, 3, 2, 2)
    norms = torch.tensor([2.0, 3.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    target = torch.zeros(2, dtype=torch.int64)
    cases = [
        (BrNpaSettings, {}, maps, maps[:, 0] * norms[:, 0]),
        (BCnnSettings, {"n_parts": 2}, maps, maps.sum(dim=1) / 3 * norms[:, 0]),
        (CnnSettings, {}, norms, norms[:, 0]),
    ]
    for settings_class, changes, given, expected in cases:
        model = build_model(tiny(settings_class, **changes), LinearHeads(5))
        output = AttentionOutput(HeadOutput(torch.zeros(2, 5)), maps=given, map_names=model.map_names, norms=norms)
        torch.testing.assert_close(model.saliency(output, target), expected)


def test_random_vectors_are_fresh_in_training_and_fixed_in_eval(tiny, fill, make_batch):
    model, batch = (
        fill(build_model(tiny(BrNpaSettings, random_vectors=True, stride_stage3=1), LinearHeads(5))),
        make_batch(),
    )
    state = torch.get_rng_state()
    first, second = model(batch, maps=()).maps, model(batch, maps=()).maps
    torch.set_rng_state(state)
    assert not torch.equal(first, second)
    assert torch.equal(model(batch, maps=()).maps, first)  # the global generator decides, so a resumed run repeats
    model.eval()
    generator_before = torch.get_rng_state()
    assert torch.equal(model(batch, maps=()).maps, model(batch, maps=()).maps)
    assert torch.equal(torch.get_rng_state(), generator_before)


def test_one_class_is_refused(tiny):
    with pytest.raises(ValueError, match="got 1"):
        build_model(tiny(CnnSettings), LinearHeads(1))


@pytest.mark.parametrize("size_hw", [(64, 64), (96, 40)])
@pytest.mark.parametrize(
    ("settings_class", "changes"),
    [
        (CnnSettings, {}),
        (CnnSettings, {"stride_stage4": 1, "head_bias": True}),
        (BCnnSettings, {"n_parts": 4}),
        (BrNpaSettings, {}),
        (BrNpaSettings, {"n_vectors": 2, "stride_stage3": 1, "random_vectors": True}),
    ],
)
@torch.no_grad()
def test_cells_add_up_to_the_embedding(tiny, fill, make_batch, settings_class, changes, size_hw):
    model = fill(build_model(tiny(settings_class, **changes), LinearHeads(5))).eval()
    batch = make_batch(2, *size_hw)
    output, cells = model(batch, maps=()), model.embedding_cells(batch)
    assert cells.shape[2:] == output.maps.shape[2:]
    assert output.embedding.abs().max() > 0.1
    torch.testing.assert_close(cells.sum(dim=(2, 3)), output.embedding, atol=1e-5, rtol=1e-5)


def test_what_a_cell_adds_to_a_vector_is_its_features_under_the_map(tiny, fill, make_batch):
    model, batch = fill(build_model(tiny(BrNpaSettings), LinearHeads(5))).eval(), make_batch(2, 96, 64)
    features, maps = model.backbone(batch.images), model(batch, maps=()).maps
    expected = maps[:, 1, 2, 1, None] * features[:, :, 2, 1]  # of the second vector, in row 2 and column 1
    n_channels = features.shape[1]
    torch.testing.assert_close(model.embedding_cells(batch)[:, n_channels : 2 * n_channels, 2, 1], expected)


def test_vectors_of_single_pixels_are_no_sum(tiny, make_batch):
    model = build_model(tiny(BrNpaSettings, refine=False), LinearHeads(5)).eval()
    with pytest.raises(UsageError, match=r"model\.refine=false .* use refine=true"):
        model.embedding_cells(make_batch(1))
