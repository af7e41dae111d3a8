"""What each part of DCAL may and may not change."""

import copy
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch.utils._python_dispatch import TorchDispatchMode

from attnsearch.config.experiment import OptimizerSettings
from attnsearch.config.model import DcalSettings
from attnsearch.errors import ConfigError, DataError, TrialError, UsageError
from attnsearch.models.backbones.vit import embed
from attnsearch.models.dcal import UncertaintyWeights, attention_rollout, build, pairwise_attention
from attnsearch.models.dcal_attention import draw_partners, finish, mean_attention, pick_patches, project
from attnsearch.tasks.classification import LinearHeads
from attnsearch.testing.model import loss_terms
from attnsearch.training.setup import parameter_groups

N_CLASSES = 5
VARIANTS = ("full", "sa_glca", "sa_pwca", "sa_only")


@pytest.fixture
def make(fill):
    """Builds a model of 3 blocks of width 64 for images of 64 pixels, whose weights are a formula."""

    def copy_of_model(**changes):
        small = {"width": 0.34, "depth": 3, "position_grid": 4, "drop_path": 0.0}
        return copy.deepcopy(built(fill, DcalSettings.model_validate({**small, **changes})))

    return copy_of_model


@cache
def built(fill, settings):
    return fill(build(settings, LinearHeads(N_CLASSES))).eval()


def attentions(n_blocks=4, n_heads=2, n_tokens=7):
    waves = torch.sin(1.3 * torch.arange(n_blocks * 2 * n_heads * n_tokens**2)).view(n_blocks, 2, n_heads, n_tokens, -1)
    return (3 * waves).softmax(dim=-1)


def test_chain_is_the_first_row_of_the_product():
    layers = attentions().double()
    product = torch.eye(7, dtype=torch.float64).expand(2, -1, -1)
    for layer in layers:
        product = 0.5 * (layer.mean(dim=1) + torch.eye(7, dtype=torch.float64)) @ product
    torch.testing.assert_close(attention_rollout(layers), product[:, 0], atol=1e-15, rtol=0)


def test_rollout_by_hand():
    # Two blocks of one head on two tokens; the second (latest) block is applied first.
    first, second = torch.tensor([[0.5, 0.5], [0.0, 1.0]]), torch.tensor([[0.2, 0.8], [1.0, 0.0]])
    # (1, 0) -> (0.6, 0.4) -> ((0.6, 0.4) + (0.3, 0.7)) / 2
    found = attention_rollout(torch.stack([first, second])[:, None, None])
    torch.testing.assert_close(found, torch.tensor([[0.45, 0.55]]))


def test_rollout_takes_a_list_and_keeps_float32_under_autocast():
    layers = attentions()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attention_rollout(list(layers))
    assert torch.equal(found, attention_rollout(layers))


def test_mean_attention_is_the_mean_of_softmax():
    query, key = (torch.cos(scale * torch.arange(2 * 3 * 5 * 4)).view(2, 3, 5, 4) for scale in (0.9, 1.7))
    expected = (query @ key.transpose(2, 3) / 2).softmax(dim=-1).mean(dim=1, keepdim=True)  # the root of 4 is 2
    torch.testing.assert_close(mean_attention(query, key), expected)


@pytest.mark.parametrize(
    ("n_patches", "ratio", "n_picked"), [(784, 0.1, 78), (128, 0.3, 38), (256, 0.3, 76), (100, 0.29, 29), (9, 0.01, 1)]
)
def test_number_of_picked_patches(n_patches, ratio, n_picked):
    row = torch.arange(n_patches + 1.0)[None]
    assert torch.equal(pick_patches(row, ratio), n_patches - torch.arange(n_picked)[None])


def test_equal_scores_pick_the_first_patches_and_never_the_class_token():
    row = torch.tensor([[9.0, 0.1, 0.3, 0.3, 0.1, 0.3]])
    assert pick_patches(row, 0.8).tolist() == [[2, 3, 5, 1]]
    assert pick_patches(row, 1.0).tolist() == [[2, 3, 5, 1, 4]]


class LargestTensor(TorchDispatchMode):
    """Notes the most elements of any tensor that an operation returns."""

    n_elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = out if isinstance(out, tuple | list) else [out]
        sizes = [tensor.numel() for tensor in tensors if isinstance(tensor, torch.Tensor)]
        self.n_elements = max([self.n_elements, *sizes])
        return out


def test_pairwise_attention_never_holds_the_matrix():
    n_tokens, shape = 200, (2, 3, 200, 8)
    parts = [torch.sin(scale * torch.arange(2 * 3 * 200 * 8)).view(shape) for scale in (0.3, 0.7, 1.1, 1.3, 1.7)]
    query, *others = (part.requires_grad_() for part in parts)
    with LargestTensor() as seen:
        pairwise_attention(query, *others).sum().backward()
    assert 0 < seen.n_elements <= 2 * 3 * 2 * n_tokens * 8
    assert seen.n_elements < 2 * 3 * n_tokens * 2 * n_tokens


def test_pairwise_attention_is_one_softmax_over_both_images():
    query, key, value, other_key, other_value = (
        torch.sin(scale * torch.arange(2 * 2 * 3 * 4)).view(2, 2, 3, 4) for scale in (0.3, 0.7, 1.1, 1.3, 1.7)
    )
    weights = (query @ torch.cat([key, other_key], dim=2).transpose(2, 3) / 2).softmax(dim=-1)  # the root of 4 is 2
    expected = weights @ torch.cat([value, other_value], dim=2)
    torch.testing.assert_close(pairwise_attention(query, key, value, other_key, other_value), expected)


@pytest.mark.parametrize("n_images", range(2, 17))
def test_nobody_is_its_own_partner(n_images):
    torch.manual_seed(n_images)
    for _ in range(20):
        partners = draw_partners(n_images, device=torch.device("cpu"))
        assert (partners != torch.arange(n_images)).all()
        assert partners.sort().values.tolist() == list(range(n_images))


def test_partners_change_and_repeat_with_the_seed():
    device = torch.device("cpu")
    torch.manual_seed(3)
    drawn = [draw_partners(8, device=device).tolist() for _ in range(10)]
    torch.manual_seed(3)
    assert [draw_partners(8, device=device).tolist() for _ in range(10)] == drawn
    assert len(set(map(tuple, drawn))) == 10


@pytest.mark.parametrize("variant", ["full", "sa_pwca"])
def test_one_image_has_no_partner_in_training(make, make_batch, variant):
    model = make(variant=variant)
    assert model(make_batch(1)).logits.isfinite().all()
    with pytest.raises(TrialError, match=r"2 or more images at once to train, got 1; lower train\.accumulation"):
        model.train()(make_batch(1))


@pytest.mark.parametrize("variant", ["sa_glca", "sa_only"])
def test_one_image_trains_without_pairs(make, make_batch, variant):
    assert make(variant=variant).train()(make_batch(1)).logits.isfinite().all()


def test_an_image_paired_with_itself_repeats_self_attention(make, make_batch, monkeypatch):
    monkeypatch.setattr("attnsearch.models.dcal.draw_partners", lambda n_images, *, device: torch.arange(n_images))
    output = make().train()(make_batch(3))
    torch.testing.assert_close(output.branches["pwca"].logits, output.branches["sa"].logits, atol=1e-5, rtol=1e-5)


def test_a_partner_changes_the_paired_branch_alone(make, make_batch, monkeypatch):
    model, batch = make().train(), make_batch(3)
    outputs = []
    for partners in ([1, 2, 0], [2, 0, 1]):
        drawn = torch.tensor(partners)
        monkeypatch.setattr("attnsearch.models.dcal.draw_partners", lambda n_images, *, device, drawn=drawn: drawn)
        outputs.append(model(batch))
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    assert not torch.allclose(outputs[0].branches["pwca"].logits, outputs[1].branches["pwca"].logits, atol=1e-4)


@pytest.mark.parametrize("n_blocks", [1, 2])
def test_pairs_pass_through_the_last_blocks_alone(make, make_batch, n_blocks):
    """The blocks that both streams pass through run twice, one stream after the other."""
    model, batch = make(n_pwca_blocks=n_blocks).train(), make_batch(3)
    calls = []
    for index, block in enumerate(model.backbone.blocks):
        block.norm1.register_forward_hook(lambda *_, index=index: calls.append(index))
    model(batch)
    assert calls == [index for index in range(3) for _ in range(1 + (index >= 3 - n_blocks))]


@pytest.mark.parametrize("readout", ["query_mean", "local_mean"])
def test_ratio_changes_predictions_where_local_queries_are_read(make, make_batch, readout):
    few, many = (make(top_k_ratio=ratio, glca_readout=readout)(make_batch()) for ratio in (0.1, 0.9))
    assert torch.equal(few.branches["sa"].logits, many.branches["sa"].logits)
    assert (few.logits - many.logits).abs().max() > 1e-4


def test_ratio_cannot_change_anything_but_its_own_map_under_the_readout_of_the_paper(make, make_batch):
    few, many = (make(top_k_ratio=ratio, glca_readout="cls") for ratio in (0.1, 0.9))
    names = ("rollout", "glca", "local_patches")
    outputs = [model(make_batch(), maps=names) for model in (few, many)]
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    assert torch.equal(outputs[0].maps[:, :2], outputs[1].maps[:, :2])
    assert [output.maps[:, 2].sum(dim=(1, 2)).tolist() for output in outputs] == [[1.0, 1.0], [14.0, 14.0]]


def test_class_token_does_not_see_the_other_queries(make, make_batch):
    """The short path of the readout `cls`, which leaves them out, is the full path's class token."""
    block = make().glca.blocks[0]
    tokens = torch.sin(0.1 * torch.arange(2 * 9 * 64)).view(2, 9, 64)
    torch.testing.assert_close(block(tokens[:, [0, 3, 5]], tokens)[:, 0], block(tokens[:, :1], tokens)[:, 0])


@pytest.mark.parametrize("readout", ["query_mean", "local_mean", "cls"])
def test_copied_branch_starts_as_self_attention(make_batch, readout):
    cfg = DcalSettings(width=0.34, depth=3, position_grid=4, glca_readout=readout)
    model = build(cfg, LinearHeads(N_CLASSES)).eval()
    model.glca.head.load_state_dict(model.head.state_dict())
    extra = model(make_batch()).branches
    same = torch.allclose(extra["glca"].logits, extra["sa"].logits, atol=1e-6)
    assert same == (readout == "cls")


def test_random_branch_has_weights_of_its_own():
    copied, fresh = (
        build(DcalSettings(width=0.34, depth=2, position_grid=4, glca_init=init), LinearHeads(N_CLASSES)).state_dict()
        for init in ("copy", "random")
    )
    name = "attn.qkv.weight"
    assert torch.equal(copied[f"glca.blocks.0.block.{name}"], copied[f"backbone.blocks.1.{name}"])
    assert not torch.equal(fresh[f"glca.blocks.0.block.{name}"], fresh[f"backbone.blocks.1.{name}"])
    assert fresh[f"glca.blocks.0.block.{name}"].std().item() == pytest.approx(0.02, rel=0.05)


# Width D = 64 with a hidden layer of 4 D: a block has 12 D² weights and 13 D biases and norms.
WIDTH = 64
BLOCK = 12 * WIDTH**2 + 13 * WIDTH
HEAD = WIDTH * N_CLASSES + N_CLASSES
SA = (3 * 16 * 16 + 1) * WIDTH + WIDTH + 17 * WIDTH + 3 * BLOCK + 2 * WIDTH + HEAD  # stem, CLS, positions, …, norm
GLCA = BLOCK + 2 * WIDTH + HEAD


@pytest.mark.parametrize(
    ("variant", "expected"), [("sa_only", SA), ("sa_glca", SA + GLCA + 2), ("sa_pwca", SA + 2), ("full", SA + GLCA + 3)]
)
def test_parameters_of_each_variant(make, variant, expected):
    assert sum(parameter.numel() for parameter in make(variant=variant).parameters()) == expected


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "vit_base_patch16_224"])
def test_glca_adds_eight_or_nine_percent_as_in_the_paper(name):
    def n_parameters(variant):
        with torch.device("meta"):
            model = build(DcalSettings(backbone=name, variant=variant), LinearHeads(200))
        return sum(parameter.numel() for parameter in model.parameters())

    assert 0.08 < n_parameters("full") / n_parameters("sa_only") - 1 < 0.095


@pytest.mark.parametrize("variant", VARIANTS)
def test_disabled_branch_has_no_logits_no_loss_and_no_map(make, make_batch, variant):
    model, batch = make(variant=variant), make_batch(3)
    has_glca, has_pwca = variant in ("full", "sa_glca"), variant in ("full", "sa_pwca")
    output = model(batch, maps=())
    assert set(output.branches) == ({"sa", "glca"} if has_glca else set())
    assert output.map_names == (("rollout", "glca") if has_glca else ("rollout",))
    training = model.train()(batch)
    branches = ["glca"] * has_glca + ["pwca"] * has_pwca
    assert set(training.branches) == {*branches, *["sa"] * has_glca}
    expected = {"cross_entropy", *(f"cross_entropy_{name}" for name in branches)}
    if branches:
        expected |= {f"uncertainty_{name}" for name in ("sa", *branches)}
    assert set(loss_terms(model, training, batch)) == expected


@pytest.mark.parametrize("variant", ["sa_pwca", "sa_only"])
def test_without_glca_the_prediction_is_that_of_a_plain_vit(make, make_batch, variant):
    model, batch = make(variant=variant), make_batch(3)
    expected = model.head(model.backbone(batch.images)).logits  # timm's own forward pass
    torch.testing.assert_close(model(batch).logits, expected, atol=1e-5, rtol=1e-5)


def test_a_single_loss_is_not_weighted(make, make_batch):
    model, batch = make(variant="sa_only").train(), make_batch(3)
    output = model(batch)
    terms = loss_terms(model, output, batch, label_smoothing=0.1)
    expected = F.cross_entropy(output.logits, batch.labels, label_smoothing=0.1)
    assert torch.equal(terms["cross_entropy"], expected)


def test_losses_are_weighted_by_branch(make, make_batch):
    model, batch = make().train(), make_batch(3)
    with torch.no_grad():
        model.uncertainty.w.copy_(torch.tensor([0.0, 1.0, -1.0]))
    output = model(batch)
    terms = loss_terms(model, output, batch)
    losses = {name: F.cross_entropy(head.logits, batch.labels) for name, head in output.branches.items()}
    torch.testing.assert_close(terms["cross_entropy"], 0.5 * losses["sa"])
    torch.testing.assert_close(terms["cross_entropy_glca"], 0.5 * losses["glca"] / torch.e)
    torch.testing.assert_close(terms["cross_entropy_pwca"], 0.5 * losses["pwca"] * torch.e)
    assert [terms[f"uncertainty_{name}"].item() for name in ("sa", "glca", "pwca")] == [0.0, 0.5, -0.5]


def test_uncertainty_settles_at_the_logarithm_of_the_loss():
    weights = UncertaintyWeights(("sa",))
    with torch.no_grad():
        weights.w.copy_(torch.tensor([0.2]).log())
    total = sum(weights("sa", {"loss": torch.tensor(0.2)}).values())
    total.backward()
    assert weights.w.grad.abs().max() < 1e-7
    assert total.item() == pytest.approx(0.5 * (1 + torch.tensor(0.2).log().item()))


def test_maps_are_the_share_of_a_distribution_that_patches_get(make, make_batch):
    output = make()(make_batch(), maps=("rollout", "glca", "cls_head_1"))
    sums = output.maps.sum(dim=(2, 3))
    assert output.maps.min() >= 0
    assert ((sums > 0) & (sums < 1)).all()


def test_rollout_map_is_the_chain_over_all_blocks(make, make_batch, monkeypatch):
    model, batch, seen = make(variant="sa_only"), make_batch(), []

    def spy(query, key):
        seen.append(mean_attention(query, key))
        return seen[-1]

    monkeypatch.setattr("attnsearch.models.dcal.mean_attention", spy)
    heads = model(batch, maps=tuple(f"cls_head_{head}" for head in range(1, model.n_heads + 1))).maps
    assert not seen  # attention over all tokens costs nothing unless it is needed
    found = model(batch, maps=()).maps
    last_row = heads.mean(dim=1).flatten(1)
    last_row = torch.cat([1 - last_row.sum(dim=1, keepdim=True), last_row], dim=1)
    last = torch.eye(17).repeat(2, 1, 1, 1)
    last[:, 0, 0] = last_row
    expected = attention_rollout([*seen, last])[:, 1:].view(2, 1, 4, 4)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_two_glca_blocks_roll_out_to_a_distribution_by_matrices(make, make_batch, monkeypatch):
    model, batch, seen = make(n_glca_blocks=2), make_batch(), []

    def spy(query, key):
        seen.append(mean_attention(query, key))
        return seen[-1]

    rows = []
    for block in model.glca.blocks:
        plain = block.attention
        monkeypatch.setattr(block, "attention", lambda q, t, plain=plain: rows.append(plain(q, t)) or rows[-1])
    monkeypatch.setattr("attnsearch.models.dcal.mean_attention", spy)
    found = model(batch, maps=("glca",)).maps
    first, second = (0.5 * (layer[:, 0] + torch.eye(17)) for layer in seen)
    one, two = (row.mean(dim=1)[:, 0] for row in rows)
    below = second.new_zeros(2, 17)
    below[:, 0] = 0.25
    expected = ((0.25 * one + below)[:, None] @ first + 0.5 * two[:, None] @ second @ first)[:, 0, 1:]
    torch.testing.assert_close(found, expected.view(2, 1, 4, 4), atol=1e-6, rtol=1e-5)


def test_saliency_is_the_mean_of_both_branches(make, make_batch):
    model = make()
    output = model(make_batch(), maps=())
    target = torch.zeros(2, dtype=torch.int64)
    torch.testing.assert_close(model.saliency(output, target), output.maps.sum(dim=1) / 2)


def test_picking_needs_no_gradient_but_maps_have_one(make, make_batch):
    model = make().train()
    output = model(make_batch(), maps=("rollout",))
    (gradient,) = torch.autograd.grad(output.maps.square().sum(), model.backbone.blocks[0].attn.qkv.weight)
    assert gradient.count_nonzero() > 0


def test_stochastic_depth_differs_between_the_streams(make, make_batch, monkeypatch):
    monkeypatch.setattr("attnsearch.models.dcal.draw_partners", lambda n_images, *, device: torch.arange(n_images))
    model = make(drop_path=0.5)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in model.backbone.blocks]
    assert rates == pytest.approx([0.0, 0.25, 0.5])
    torch.manual_seed(0)
    output = model.train()(make_batch(4))
    assert not torch.allclose(output.branches["pwca"].logits, output.branches["sa"].logits, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_glca_blocks": 3}, r"n_glca_blocks must be less than the 3 blocks of the backbone, got 3"),
        ({"n_pwca_blocks": 4}, r"n_pwca_blocks must be at most the 3 blocks of the backbone, got 4"),
    ],
)
def test_more_blocks_than_there_are_is_refused(make, changes, message):
    with pytest.raises(ConfigError, match=message):
        make(**changes)
    assert make(variant="sa_only", **changes).glca is None


def test_steps_through_a_block_are_the_forward_pass_of_timm(fill):
    block = fill(Block(12, 3, qkv_bias=True)).eval()
    tokens = torch.sin(torch.arange(2 * 5 * 12.0)).view(2, 5, 12)
    mixed = F.scaled_dot_product_attention(*project(block, tokens))
    torch.testing.assert_close(finish(block, tokens, mixed), block(tokens))


def test_rollout_of_the_first_blocks_by_name(make, make_batch):
    """Of all blocks it is the rollout; of the first one it is half of the class token's attention there."""
    model, batch = make(variant="sa_only"), make_batch()
    maps = model(batch, maps=("rollout", "rollout_3", "rollout_1")).maps
    assert torch.equal(maps[:, 0], maps[:, 1])
    tokens, _ = embed(model.backbone, model.pixels(batch.images))
    query, key, _ = project(model.backbone.blocks[0], tokens)
    torch.testing.assert_close(maps[:, 2].flatten(1), mean_attention(query, key)[:, 0, 0, 1:] / 2)


def test_a_camera_adds_its_weighted_vector_to_all_tokens(make, make_batch):
    model, batch = make(variant="sa_only", n_cameras=4, camera_weight=2.0), make_batch(3)
    plain, _ = embed(model.backbone, model.pixels(batch.images))
    seen = []
    model.backbone.blocks[0].norm1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(replace(batch, cameras=torch.tensor([3, 0, 3])))
    vectors = model.camera_embed[[3, 0, 3]]
    assert vectors.shape == (3, 1, 64)
    torch.testing.assert_close(seen[0], plain + 2.0 * vectors)


def test_cameras_start_near_zero_and_get_gradients_and_no_weight_decay(make_batch):
    torch.manual_seed(0)
    model = build(DcalSettings(width=0.34, depth=2, position_grid=4, n_cameras=50), LinearHeads(N_CLASSES))
    assert model.camera_embed.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.camera_weight == 3.0
    batch = replace(make_batch(3), cameras=torch.tensor([1, 1, 4]))
    torch.autograd.backward(sum(loss_terms(model.train(), model(batch), batch).values()))
    is_moved = model.camera_embed.grad.flatten(1).count_nonzero(dim=1) > 0
    assert is_moved.nonzero().flatten().tolist() == [1, 4]
    (group,) = (
        group
        for group in parameter_groups(model, OptimizerSettings(weight_decay=0.1))
        if any(parameter is model.camera_embed for parameter in group["params"])
    )
    assert group["weight_decay"] == 0.0


def test_images_without_a_known_camera_are_refused(make, make_batch):
    model, batch = make(n_cameras=2), make_batch()
    with pytest.raises(DataError, match=r"tells 2 cameras apart and the images name none; use data with cameras"):
        model(batch)
    with pytest.raises(DataError, match=r"knows the cameras 0 to 1 and an image is of camera 2; use data of"):
        model(replace(batch, cameras=torch.tensor([1, 2])))
    assert model(replace(batch, cameras=torch.tensor([1, 0]))).logits.isfinite().all()


def test_a_class_token_is_no_sum_over_cells(make, make_batch):
    with pytest.raises(UsageError, match=r"embedding of Dcal is no sum over the cells .* such as cnn"):
        make().embedding_cells(make_batch())
