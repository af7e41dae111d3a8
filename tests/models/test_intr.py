"""INTR's maps, padding, weights and refusals."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from attnsearch.config.model import IntrSettings
from attnsearch.errors import ConfigError, UsageError
from attnsearch.models import build_model
from attnsearch.models.intr import adapt_detr_state, sine_position_encoding, to_official
from attnsearch.tasks.classification import LinearHeads
from attnsearch.testing.model import loss_terms

CLOSE = {"atol": 2e-5, "rtol": 1e-4}
TINY = {
    "backbone": "resnet10t",
    "width": 0.25,
    "d_model": 16,
    "n_heads": 2,
    "feedforward_width": 32,
    "n_encoder_layers": 1,
    "n_decoder_layers": 2,
    "dropout": 0.0,
}


def tiny(**changes):
    torch.manual_seed(0)
    return build_model(IntrSettings(**{**TINY, **changes}), LinearHeads(5))


def test_position_of_a_single_cell_by_hand():
    # One cell is the first and last of its axis: 2π, up to the 1e-6 that keeps the division finite.
    angle = 2 * math.pi / (1 + 1e-6)
    expected = [math.sin(angle), math.cos(angle), math.sin(angle / 100), math.cos(angle / 100)]
    found = sine_position_encoding(torch.zeros(1, 1, 1, dtype=torch.bool), 4)
    torch.testing.assert_close(found.flatten(), torch.tensor(expected * 2), atol=1e-6, rtol=1e-5)


def test_detr_start_is_the_same_under_the_same_generator():
    state = {"query_embed.weight": torch.arange(8.0).view(2, 4)}
    first, second = (adapt_detr_state(state, 5, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert torch.equal(first["query_embed.weight"][:2], state["query_embed.weight"])


def test_presence_vector_of_another_intr_is_kept():
    state = {"query_embed.weight": torch.zeros(2, 4), "presence_vector.weight": torch.ones(1, 4)}
    assert torch.equal(adapt_detr_state(state, 3)["presence_vector.weight"], torch.ones(1, 4))


def test_state_without_queries_is_no_detr():
    with pytest.raises(ConfigError, match=r"no query_embed\.weight"):
        adapt_detr_state({"conv1.weight": torch.zeros(1)}, 3)


def test_frozen_norms_keep_the_loaded_statistics(tmp_path):
    body = tiny(width=1.0).backbone.state_dict() | {"bn1.running_mean": torch.full((64,), 0.25)}
    torch.save(body, tmp_path / "w.pt")
    model = tiny(width=1.0, weights=str(tmp_path / "w.pt"), frozen_batch_norm=True)
    assert (model.train().backbone.bn1.running_mean == 0.25).all()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_weights_of_a_detr_are_adapted_to_the_classes(tmp_path):
    source = to_official(tiny(width=1.0).state_dict())
    heads = {"class_embed.weight": torch.zeros(92, 16), "bbox_embed.layers.0.bias": torch.zeros(16)}
    detr = {name: t for name, t in source.items() if not name.startswith("presence")} | heads
    torch.save({"model": detr}, tmp_path / "detr.pth")
    cfg = IntrSettings(**{**TINY, "width": 1.0}, weights=str(tmp_path / "detr.pth"))
    found = to_official(build_model(cfg, LinearHeads(7)).state_dict())
    queries = source.pop("query_embed.weight")
    assert torch.equal(found["query_embed.weight"][:5], queries)
    noise = found["query_embed.weight"][5:] - queries[:2]
    assert 0.0 < noise.abs().mean() < 0.2
    assert all(torch.equal(found[name], tensor) for name, tensor in source.items() if not name.startswith("presence"))


def test_weights_of_another_network_are_refused(tmp_path):
    detr = {name: t for name, t in to_official(tiny(width=1.0).state_dict()).items() if "decoder.norm" not in name}
    torch.save(detr, tmp_path / "detr.pth")
    with pytest.raises(ConfigError, match=r"detr\.pth does not fit .*2 missing: transformer\.decoder\.norm\.weight"):
        tiny(width=1.0, weights=str(tmp_path / "detr.pth"))


def test_padding_changes_neither_attention_nor_the_valid_cells(make_batch):
    """Features at hand, so that only the transformer sees the padding: it must be as if those cells did not exist."""
    model = tiny().eval()
    features = torch.sin(torch.arange(2 * 128 * 3 * 4) * 0.3).view(2, 128, 3, 4)
    padding = torch.ones(2, 3, 4, dtype=torch.bool)
    padding[:, :2, :3] = False
    padded, cut = model.decode(features, padding), model.decode(features[:, :, :2, :3], None)
    torch.testing.assert_close(padded.states[-1], cut.states[-1], **CLOSE)
    classes = torch.tensor([1, 4])
    weights = padded.attention[-1].weights(classes).view(2, -1, 3, 4)
    expected = cut.attention[-1].weights(classes).view(2, -1, 2, 3)
    torch.testing.assert_close(weights[:, :, :2, :3], expected, **CLOSE)
    assert weights[:, :, 2:].count_nonzero() == weights[:, :, :, 3:].count_nonzero() == 0


def test_output_tells_the_valid_part_of_the_grid(make_batch):
    batch = make_batch(2, 128, 96)
    padding = torch.zeros(2, 128, 96, dtype=torch.bool)
    padding[1, 70:] = True
    padding[1, :, 33:] = True
    model = tiny().eval()
    output = model(replace(batch, padding=padding), maps=())
    assert output.valid_hw.tolist() == [[4, 3], [3, 2]]
    assert output.maps[1, :, 3:].count_nonzero() == output.maps[1, :, :, 2:].count_nonzero() == 0
    assert model(replace(batch, padding=padding)).valid_hw.tolist() == [[4, 3], [3, 2]]
    assert model(batch).valid_hw is None


def test_maps_name_layer_class_and_head(make_batch):
    model, batch = tiny().eval(), make_batch(2)
    names = ("layer_1/class_3/head_2", "layer_2/predicted/mean", "layer_2/true/head_1")
    output = model(batch, maps=names)
    decoded = model.decode(model.features(batch.images), None)
    first, last = decoded.attention
    expected = [
        first.weights(torch.tensor([3, 3]))[:, 1],
        last.weights(output.logits.argmax(dim=1)).mean(dim=1),
        last.weights(batch.labels)[:, 0],
    ]
    torch.testing.assert_close(output.maps.flatten(2), torch.stack(expected, dim=1))


@pytest.mark.parametrize(
    "name", ["layer_3/true/mean", "layer_0/true/mean", "layer_1/class_5/mean", "layer_1/true/head_3"]
)
def test_map_that_does_not_exist_is_named(make_batch, name):
    with pytest.raises(
        UsageError, match=f"no map {name}, only .* L up to 2, .* class_4, HEAD mean or head_1 to head_2"
    ):
        tiny()(make_batch(), maps=(name,))


def test_true_class_is_shown_only_with_labels(make_batch):
    model, batch = tiny().eval(), make_batch(2)
    unlabelled = replace(batch, labels=torch.full_like(batch.labels, -1), has_labels=False)
    assert model(unlabelled, maps=()).map_names == ("layer_2/predicted/head_1", "layer_2/predicted/head_2")
    with pytest.raises(UsageError, match="need the labels of all images"):
        model(unlabelled, maps=("layer_2/true/mean",))


def test_saliency_explains_any_class(make_batch):
    model, batch = tiny().eval(), make_batch(2)
    names = tuple(f"layer_2/class_{index}/mean" for index in range(5))
    maps = model(batch, maps=names).maps
    output = model(batch, maps=())
    for target in (torch.tensor([0, 4]), torch.tensor([3, 1])):
        torch.testing.assert_close(model.saliency(output, target), maps[[0, 1], target])


def test_maps_carry_no_dropout(make_batch):
    maps = tiny(dropout=0.5).train()(make_batch(), maps=()).maps
    torch.testing.assert_close(maps.sum(dim=(2, 3)), torch.ones(2, 4))


@pytest.mark.parametrize("backbone", ["test_vit", "test_efficientnet"])
def test_other_backbones_train_every_parameter(backbone, make_batch):
    model, batch = tiny(backbone=backbone, width=1.0), make_batch(2)
    loss_terms(model, model(batch), batch)["cross_entropy"].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("backbone", ["vit_small_patch16_dinov3", "deit3_small_patch16_224"])
@pytest.mark.parametrize("side", [96, 100])
def test_transformers_take_sides_that_their_patches_do_not_divide(backbone, side):
    with torch.device("meta"):
        model = tiny(backbone=backbone, width=1.0)
        assert model.features(torch.empty(1, 3, side, side)).shape == (1, 384, -(-side // 16), -(-side // 16))


def test_backbone_that_refuses_a_side_is_named():
    model = tiny(backbone="test_maxvit", width=1.0)
    with pytest.raises(ConfigError, match=r"'test_maxvit' refuses images of 96 px .*data\.image_size_px"):
        model.features(torch.zeros(1, 3, 96, 96))


def test_frozen_norms_of_another_backbone_are_refused():
    cfg = IntrSettings(**{**TINY, "backbone": "test_vit", "width": 1.0}, weights="hub", frozen_batch_norm=True)
    with pytest.raises(ConfigError, match="needs a ResNet, got 'test_vit'"):
        build_model(cfg, LinearHeads(5), load_weights=False)


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="got 1"):
        build_model(IntrSettings(**TINY), LinearHeads(1))
