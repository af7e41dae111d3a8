"""What every model family must do, run over all members of the settings union."""

import pytest
import torch

from attnsearch.config.base import Settings, members
from attnsearch.config.model import ModelConfig, ResNetSettings
from attnsearch.models import build_model
from attnsearch.models.weights import load_into, read_checkpoint, save_checkpoint
from attnsearch.tasks.classification import LinearHeads
from tests.models.losses import loss_terms

N_CLASSES = 5
FAMILIES: tuple[type[Settings], ...] = tuple(members(ModelConfig))

# Families on a ResNet need no entry; others name here the settings that make them tiny.
TINY: dict[str, dict[str, object]] = {
    "intr": {"backbone": "resnet10t", "width": 0.25, "d_model": 16, "n_heads": 2, "feedforward_width": 32}
    | {"n_encoder_layers": 1, "n_decoder_layers": 2, "dropout": 0.0},
    "dcal": {"width": 0.34, "depth": 2, "position_grid": 4},
    "loupe": {"backbone": "resnet10t", "width": 0.25},
    "plain": {"backbone": "resnet10t", "width": 0.25},
}
# With weights by formula all queries of these answer alike, and rounding would decide what is predicted; behind the
# backbone theirs are drawn.
DRAWN = {"intr"}
VARIANTS: dict[str, list[dict[str, object]]] = {
    "dcal": [
        {"variant": "sa_only"},
        {"variant": "sa_glca", "glca_readout": "cls"},
        {"variant": "sa_pwca", "stem": "conv"},
        {"glca_readout": "local_mean", "n_pwca_blocks": 1},
    ],
    "br_npa": [
        {"refine": False},
        {"random_vectors": True},
        {"auxiliary_heads": True, "dropout": 0.2, "head_bias": True},
        {"stride_stage3": 1, "stride_stage4": 1, "padding": "circular"},
    ],
    "intr": [{"backbone": "test_convnext", "width": 1.0, "dropout": 0.1}],
    "loupe": [{"stage": 3}, {"backbone": "test_convnext", "width": 1.0, "stage": 0}],
}


def tiny_settings():
    """Every family with its defaults, then its variants, as small as can be."""
    for family in FAMILIES:
        name = family.model_fields["name"].default
        small = {"backbone": "resnet10t", "width": 0.25} if issubclass(family, ResNetSettings) else TINY[name]
        for changes in ({}, *VARIANTS.get(name, [])):
            label = "-".join([name, *changes])
            yield pytest.param(family.model_validate({**small, **changes}), id=label)


SETTINGS = list(tiny_settings())
every_model = pytest.mark.parametrize("cfg", SETTINGS)


@pytest.fixture
def model(cfg, fill):
    torch.manual_seed(0)
    model = build_model(cfg, LinearHeads(N_CLASSES))
    fill(model.backbone if cfg.name in DRAWN else model)
    return model


def test_every_family_is_covered():
    covered = {type(parameters.values[0]) for parameters in SETTINGS}
    assert covered == set(FAMILIES)
    assert len(FAMILIES) >= 3


@every_model
def test_output_shapes(model, make_batch):
    output = model.eval()(make_batch(2), maps=())
    assert output.logits.shape == (2, N_CLASSES)
    assert all(head.logits.shape == (2, N_CLASSES) for head in output.branches.values())
    assert output.maps.shape[:2] == (2, len(output.map_names))
    assert len(set(output.map_names)) == len(output.map_names) > 0
    if output.norms is not None:
        assert output.norms.shape == (2, 1, *output.maps.shape[2:])
        assert output.norms.min() >= 0


@every_model
def test_maps_come_only_when_asked_for(model, make_batch):
    model.eval()
    silent, full = model(make_batch()), model(make_batch(), maps=())
    assert silent.maps is None
    assert silent.norms is None
    assert silent.map_names == ()
    assert torch.equal(silent.logits, full.logits)


@every_model
def test_maps_come_by_name_in_the_order_asked(model, make_batch):
    model.eval()
    full = model(make_batch(), maps=())
    backwards = model(make_batch(), maps=full.map_names[::-1])
    assert backwards.map_names == full.map_names[::-1]
    assert torch.equal(backwards.maps, full.maps.flip(1))
    with pytest.raises(ValueError, match="no map nonesuch"):
        model(make_batch(), maps=("nonesuch",))


@every_model
def test_gradients_reach_every_parameter(model, make_batch):
    batch = make_batch(4)
    terms = loss_terms(model.train(), model(batch), batch, label_smoothing=0.1)
    assert "cross_entropy" in terms
    assert all(term.ndim == 0 and term.dtype == torch.float32 for term in terms.values())
    sum(terms.values()).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    backbone = {name: grad for name, grad in gradients.items() if name.startswith(model.backbone_prefix)}
    assert 0 < len(backbone) < len(gradients)
    assert all(gradient.count_nonzero() > 0 for gradient in backbone.values())


@every_model
def test_state_survives_a_file(model, cfg, make_batch, tmp_path):
    metadata = {"class_names": "[]", "config": cfg.model_dump_json(), "epoch": "1"}
    save_checkpoint(tmp_path / "kept.safetensors", model, metadata)
    state, found = read_checkpoint(tmp_path / "kept.safetensors")
    copy = build_model(type(cfg).model_validate_json(found["config"]), LinearHeads(N_CLASSES))
    load_into(copy, state, "kept.safetensors")
    assert torch.equal(copy.eval()(make_batch()).logits, model.eval()(make_batch()).logits)


@every_model
def test_eval_is_deterministic(model, make_batch):
    model.eval()
    first, second = model(make_batch(), maps=()), model(make_batch(), maps=())
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(first.maps, second.maps)


@every_model
def test_one_image_alone_equals_itself_in_a_batch(model, make_batch):
    model.eval()
    alone, together = model(make_batch(1), maps=()), model(make_batch(4), maps=())
    close = {"atol": 1e-5, "rtol": 1e-4}
    torch.testing.assert_close(alone.logits, together.logits[:1], **close)
    torch.testing.assert_close(alone.maps, together.maps[:1], **close)
    target = torch.zeros(4, dtype=torch.int64)
    torch.testing.assert_close(model.saliency(alone, target[:1]), model.saliency(together, target)[:1], **close)


@every_model
def test_bfloat16_autocast_is_finite(model, make_batch):
    batch = make_batch(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(batch, maps=())
        loss = sum(loss_terms(model, output, batch).values())
    loss.backward()
    assert output.maps.dtype == torch.float32
    assert output.maps.isfinite().all()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@every_model
@pytest.mark.parametrize(("height", "width"), [(45, 37), (32, 70)])
def test_odd_image_sizes_work(model, make_batch, height, width):
    output = model.eval()(make_batch(2, height, width), maps=())
    saliency = model.saliency(output, torch.tensor([0, 1]))
    assert output.logits.isfinite().all()
    assert saliency.shape == (2, *output.maps.shape[2:])


@every_model
def test_saliency_is_finite_and_never_negative(model, make_batch):
    saliency = model.eval().saliency(model(make_batch(4), maps=()), torch.tensor([0, 1, 2, 3]))
    assert saliency.dtype == torch.float32
    assert saliency.isfinite().all()
    assert saliency.min() >= 0
    assert saliency.amax(dim=(1, 2)).min() > 0


@every_model
def test_saliency_needs_the_maps(model, make_batch):
    with pytest.raises(ValueError, match=r"maps=\(\)"):
        model.saliency(model.eval()(make_batch()), torch.tensor([0, 1]))


@every_model
def test_blank_images_give_finite_results(model, make_batch):
    batch = make_batch(2)
    batch.images.zero_()
    output = model(batch, maps=())
    sum(loss_terms(model, output, batch).values()).backward()
    assert output.maps.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@every_model
def test_channels_last_gives_the_same(model, make_batch):
    model.eval()
    batch = make_batch(2)
    expected = model(batch, maps=())
    if not model.channels_last:
        pytest.skip("the family does not ask for channels-last memory")
    batch.images.data = batch.images.contiguous(memory_format=torch.channels_last)
    found = model.to(memory_format=torch.channels_last)(batch, maps=())
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.maps, expected.maps, atol=1e-5, rtol=1e-4)
