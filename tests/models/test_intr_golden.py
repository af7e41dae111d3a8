"""INTR against the released code: positions, transformer, whole network, training steps, state names, DETR start."""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import clip_grad_norm_

from attnsearch.config.model import IntrSettings
from attnsearch.models import build_model, intr
from attnsearch.models.intr import adapt_detr_state, from_official, grid_padding, sine_position_encoding, to_official
from attnsearch.models.weights import load_into
from attnsearch.tasks.classification import ClassificationMeter, LinearHeads
from attnsearch.testing.model import loss_terms
from attnsearch.types import IMAGENET_MEAN, IMAGENET_STD, AttentionOutput, Batch, HeadOutput

GOLDEN = Path(__file__).parents[1] / "golden"
CLOSE = {"atol": 2e-5, "rtol": 1e-4}
#: ResNet-50 as the released code builds it.
OFFICIAL = IntrSettings(backbone="resnet50.tv_in1k", weights="hub", frozen_batch_norm=True)


def sizes_of(g):
    """The sizes of a transformer that a golden file names, as settings."""
    names = {"n_encoder_layers": "enc_layers", "n_decoder_layers": "dec_layers", "d_model": "d_model"}
    names |= {"n_heads": "nheads", "feedforward_width": "dim_feedforward"}
    return {setting: int(g[f"meta/{key}"]) for setting, key in names.items()}


def test_positions_of_the_released_code(golden):
    g = golden("intr_posenc")
    cases = [name.split("/")[0] for name in g if name.endswith("num_pos_feats")]
    assert cases
    for case in cases:
        found = sine_position_encoding(g[f"{case}/mask"], int(g[f"{case}/num_pos_feats"]))
        torch.testing.assert_close(found, g[f"{case}/pos"], **CLOSE)


@pytest.fixture
def from_golden(golden):
    """A tiny INTR with the golden weights behind its backbone, and the other arrays."""

    def read(name):
        g = golden(name)
        model = build_model(
            IntrSettings(
                backbone="resnet10t",
                width=0.25,
                dropout=0.0,
                **sizes_of(g),
            ),
            LinearHeads(int(g["meta/num_queries"])),
        )
        model.input_proj = nn.Conv2d(int(g["meta/backbone_channels"]), int(g["meta/d_model"]), kernel_size=1)
        model.backbone = nn.Identity()
        load_into(model, {key.removeprefix("sd/"): t for key, t in g.items() if key.startswith("sd/")}, name)
        return model, g

    return read


def test_transformer_of_the_released_code(from_golden):
    model, g = from_golden("intr_transformer_post")
    features = g["in/features"].requires_grad_()
    padding = g["in/mask"]
    positions = sine_position_encoding(padding, model.transformer.decoder.norm.normalized_shape[0] // 2)
    torch.testing.assert_close(positions, g["out/pos"], **CLOSE)
    decoded = model.decode(features, padding)
    torch.testing.assert_close(decoded.memory.transpose(1, 2).view_as(g["out/memory"]), g["out/memory"], **CLOSE)
    states = torch.stack([model.transformer.decoder.norm(state) for state in decoded.states])
    torch.testing.assert_close(states, g["out/hs"], **CLOSE)
    logits = model.read(decoded.states[-1]).logits
    torch.testing.assert_close(logits, g["out/logits"], **CLOSE)
    loss = F.cross_entropy(logits, g["in/labels"])
    torch.testing.assert_close(loss, g["out/loss"], **CLOSE)
    loss.backward()
    gradients = {f"grad/{name}": parameter.grad for name, parameter in model.named_parameters()}
    gradients["grad/features"] = features.grad
    compared = [name for name in g if name.startswith("grad/") and name != "grad/presence_vector.bias"]
    assert compared  # the presence bias has none but rounding noise
    for name in compared:
        largest = float(g[name].abs().max())
        torch.testing.assert_close(gradients[name], g[name], atol=1e-4 * largest, rtol=0)


def all_attention(attention, n_classes):
    """(B, H, n_classes, L)."""
    n_images = len(attention.keys)
    return torch.stack([attention.weights(torch.full((n_images,), c)) for c in range(n_classes)], dim=2)


@torch.no_grad()
def test_attention_of_the_released_code(from_golden):
    model, g = from_golden("intr_transformer_post")
    decoded = model.decode(g["in/features"], g["in/mask"])
    found = torch.stack([all_attention(layer, model.n_classes) for layer in decoded.attention])
    torch.testing.assert_close(found, g["out/attn"], **CLOSE)
    torch.testing.assert_close(found.mean(dim=2), g["out/avg_attn"], **CLOSE)
    assert g["in/mask"].any()
    assert found.movedim(-1, 2).movedim(0, 2)[g["in/mask"].flatten(1)].count_nonzero() == 0


def test_training_steps_of_the_released_code(from_golden):
    """AdamW and clipping around the transformer; the trainer's own groups and schedules are tested with the trainer."""
    model, g = from_golden("intr_trainstep")
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=float(g["meta/weight_decay"]))
    rates, n_steps = g["out/epoch_lr"], len(g["out/grad_norms_before_clip"])
    n_per_epoch = n_steps // len(rates)
    losses, norms = [], []
    for step in range(n_steps):
        optimizer.param_groups[0]["lr"] = float(rates[step // n_per_epoch])
        optimizer.zero_grad()
        state = model.decode(g[f"step{step}/features"], g[f"step{step}/mask"]).states[-1]
        loss = F.cross_entropy(model.read(state).logits, g[f"step{step}/labels"])
        loss.backward()
        norms.append(clip_grad_norm_(model.parameters(), float(g["meta/clip"])))
        losses.append(loss.detach())
        optimizer.step()
    epoch_losses = torch.stack(losses).view(len(rates), n_per_epoch).mean(dim=1)
    torch.testing.assert_close(epoch_losses.double(), g["out/epoch_mean_loss"], **CLOSE)
    torch.testing.assert_close(torch.stack(norms).double(), g["out/grad_norms_before_clip"], atol=0, rtol=1e-4)
    parameters = dict(model.named_parameters())
    names = [key.removeprefix("final/") for key in g if key.startswith("final/")]
    assert names
    for name in names:
        found, expected = parameters[name].data, g[f"final/{name}"]
        if name.endswith("in_proj_bias"):  # the bias of the keys has no gradient, AdamW amplifies its rounding noise
            found, expected = (torch.cat(tensor.chunk(3)[::2]) for tensor in (found, expected))
        tolerance = 5e-4 if name == "presence_vector.bias" else 5e-5  # nor has this one
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


def drawn(name, shape):
    """The weight that the golden page's rule gives a name of the released code."""
    x = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1:
        fan = math.prod(shape[1:])
        gain = 2.0 if name == "query_embed.weight" else math.sqrt((2 if len(shape) == 4 else 1) / fan)
        gain *= 2.0 if ".multihead_attn." in name else 1.0
        x = x * gain * (0.3 if ".self_attn.out_proj." in name or ".linear2." in name else 1.0)
    elif name.endswith("running_var"):
        x = 1 + 0.2 * abs(x)
    elif name.endswith(".weight"):
        x = (1 + 0.1 * x) * (0.25 if ".bn3." in name else 1.0)
    else:
        x = 0.1 * x
    return torch.from_numpy(x).float()


@pytest.fixture(scope="module")
def whole():
    """The whole ResNet-50 network with the golden file's generated weights, its batch and the golden arrays."""
    with np.load(GOLDEN / "intr_r50_forward.npz") as arrays:
        g = {key: torch.from_numpy(array) for key, array in arrays.items()}
    heads, cfg = LinearHeads(int(g["meta/num_queries"])), OFFICIAL.model_copy(update=sizes_of(g))
    with torch.device("meta"):
        shapes = to_official(build_model(cfg, heads, load_weights=False).state_dict())
    state = {name: drawn(name, tuple(tensor.shape)) for name, tensor in shapes.items()}
    first = {key.removeprefix("check_first8/"): t for key, t in g.items() if key.startswith("check_first8/")}
    assert all(torch.equal(state[name].flatten()[: len(values)], values) for name, values in first.items())
    model = build_model(cfg, heads, load_weights=False).eval()
    load_into(model, from_official(state), "generated")
    images = [g[f"in/img{index}"] for index in range(len(g["in/labels"]))]
    return model, padded_batch(images, g["in/labels"]), g


def padded_batch(pictures, labels):
    """Normalised images (H, W, 3) of bytes, zero-padded at the bottom and right to the largest."""
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    images, padding = torch.zeros(len(pictures), 3, height, width), torch.ones(len(pictures), height, width).bool()
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    for index, picture in enumerate(pictures):
        rows, columns = picture.shape[:2]
        images[index, :, :rows, :columns] = ((picture / 255 - mean) / std).permute(2, 0, 1)
        padding[index, :rows, :columns] = False
    return Batch(images, labels, ("",) * len(pictures), torch.arange(len(pictures)), padding=padding)


@pytest.mark.slow
@torch.no_grad()
def test_whole_network_of_the_released_code(whole):
    model, batch, g = whole
    features = model.features(batch.images)
    torch.testing.assert_close(features[:, ::16], g["out/feat_every16th_channel"], **CLOSE)
    padding = grid_padding(batch.padding, *features.shape[2:])
    assert torch.equal(padding, g["out/feat_mask"])
    decoded = model.decode(features, padding)
    memory = decoded.memory.transpose(1, 2).unflatten(2, features.shape[2:])
    torch.testing.assert_close(memory[:, :: memory.shape[1] // g["out/memory"].shape[1]], g["out/memory"], **CLOSE)
    state = model.transformer.decoder.norm(decoded.states[-1])
    torch.testing.assert_close(state, g["out/hs_last"], **CLOSE)
    torch.testing.assert_close(all_attention(decoded.attention[-1], model.n_classes), g["out/attn_last"], **CLOSE)
    averages = torch.stack([all_attention(layer, model.n_classes).mean(dim=1) for layer in decoded.attention])
    torch.testing.assert_close(averages, g["out/avg_attn_all_layers"], **CLOSE)


@torch.no_grad()
def test_maps_and_loss_of_the_released_code(whole):
    model, batch, g = whole
    output = model(batch, maps=())
    torch.testing.assert_close(output.logits, g["out/logits"], **CLOSE)
    torch.testing.assert_close(loss_terms(model, output, batch)["cross_entropy"], g["out/loss"], **CLOSE)
    n_layers, n_heads = int(g["meta/dec_layers"]), int(g["meta/nheads"])
    numbers = range(1, n_heads + 1)
    assert output.map_names == tuple(f"layer_{n_layers}/{w}/head_{n}" for w in ("predicted", "true") for n in numbers)
    for index, label in enumerate(batch.labels):
        expected = g["out/attn_last"][index, :, label].view(n_heads, *output.maps.shape[2:])
        torch.testing.assert_close(output.maps[index, n_heads:], expected, **CLOSE)
        expected = g["out/attn_last"][index, :, g["out/logits"][index].argmax()].view(n_heads, *output.maps.shape[2:])
        torch.testing.assert_close(output.maps[index, :n_heads], expected, **CLOSE)
    seen = ~g["out/feat_mask"]
    assert torch.equal(output.valid_hw.cpu(), torch.stack([seen.any(dim=2).sum(1), seen.any(dim=1).sum(1)], dim=1))


KEYS = json.loads((GOLDEN / "intr_keys.json").read_text())
(LISTED,) = (keys for name, keys in KEYS.items() if name.startswith("intr_r50_"))


def official_model():
    """The network of the listed state, without storage."""
    (n_classes,) = (shape[0] for name, shape, _ in LISTED if name == "query_embed.weight")
    with torch.device("meta"):
        return build_model(OFFICIAL, LinearHeads(n_classes), load_weights=False)


def test_state_has_the_released_layout():
    model = official_model()
    found = {name: list(tensor.shape) for name, tensor in to_official(model.state_dict()).items()}
    assert found == {name: shape for name, shape, _ in LISTED}
    assert sum(parameter.numel() for parameter in model.parameters()) == KEYS["parameter_count"]


def test_parameters_train_as_in_the_released_code():
    roles = {name: role for name, _, role in LISTED}
    model = official_model()
    found = {name: "buffer" for name, _ in model.named_buffers() if name in model.state_dict()}
    for name, parameter in model.named_parameters():
        role = "backbone_lr" if name.startswith(model.backbone_prefix) else "main_lr"
        found[name] = role if parameter.requires_grad else "frozen"
    assert {next(iter(to_official({name: 0}))): role for name, role in found.items()} == roles


def test_names_survive_both_ways():
    state = {name: torch.tensor(index) for index, (name, _, _) in enumerate(LISTED)}
    assert to_official(from_official(state)) == state


def test_frozen_batch_norm_of_the_released_code(golden):
    g = golden("intr_frozenbn")
    with torch.device("meta"):
        frozen = type(build_model(OFFICIAL, LinearHeads(2), load_weights=False).backbone.bn1)
    norm = frozen(len(g["sd/weight"])).train()
    state = {key.removeprefix("sd/"): tensor for key, tensor in g.items() if key.startswith("sd/")}
    norm.load_state_dict({**state, "num_batches_tracked": torch.tensor(7)}, strict=True)
    assert not list(norm.parameters())
    features = g["in/x"].requires_grad_()
    found = norm(features)
    torch.testing.assert_close(found, g["out/y"], atol=2e-5, rtol=1e-5)
    found.backward(torch.arange(found.numel(), dtype=torch.float32).view_as(found))
    torch.testing.assert_close(features.grad, g["grad/x"], atol=2e-5, rtol=1e-5)
    assert torch.equal(norm.running_mean, g["sd/running_mean"])


with np.load(GOLDEN / "intr_adapt.npz") as stored:
    ADAPT = dict(stored)


@pytest.mark.parametrize("target", ADAPT["meta/targets"].tolist())
def test_detr_start_of_the_released_code(target, monkeypatch):
    g = ADAPT
    state = {name: torch.zeros(1) for name in g["meta/keys_before"]}
    state["query_embed.weight"] = torch.from_numpy(g["src/query_embed.weight"])
    plain = adapt_detr_state(state, target, noise_fraction=0.0)
    assert sorted(plain) == sorted(g["meta/keys_after"])
    assert np.array_equal(plain["query_embed.weight"].numpy(), g[f"T{target}/query_plain"])
    assert plain["presence_vector.weight"].shape == g[f"T{target}/presence_vector.weight"].shape
    assert plain["presence_vector.weight"].abs().max() <= float(g["meta/presence_bound"])
    assert plain["presence_vector.bias"].tolist() == [0.0]
    monkeypatch.setattr(intr.torch, "randn", lambda *shape, generator: torch.from_numpy(g[f"T{target}/unit_noise"]))
    noisy = adapt_detr_state(state, target, noise_fraction=float(g["meta/noise_frac"]))
    torch.testing.assert_close(noisy["query_embed.weight"], torch.from_numpy(g[f"T{target}/query_noisy"]))


def test_grid_padding_of_the_released_code(golden):
    g = golden("intr_geometry")
    cases = [name.split("/")[0] for name in g if name.startswith("mask") and name.endswith("/out")]
    assert cases
    for case in cases:
        height, width = g[f"{case}/in_hw"].tolist()
        valid = g[f"{case}/valid_hw"]
        rows, columns = torch.arange(height)[None, :, None], torch.arange(width)[None, None]
        padding = (rows >= valid[:, 0, None, None]) | (columns >= valid[:, 1, None, None])
        assert torch.equal(grid_padding(padding, *g[f"{case}/out"].shape[1:]), g[f"{case}/out"])


def test_accuracy_counts_images_where_the_released_code_averages_batches(golden):
    g = golden("intr_metrics")
    totals = ClassificationMeter(g["in/logits"].shape[1], torch.device("cpu"))
    start = 0
    for size in g["in/batch_sizes"].tolist():
        part = slice(start, start + size)
        logits, labels = g["in/logits"][part], g["in/labels"][part]
        batch = Batch(torch.zeros(size, 3, 1, 1), labels, ("",) * size, torch.arange(size))
        totals.add(batch, AttentionOutput(HeadOutput(logits)), {"cross_entropy": F.cross_entropy(logits, labels)})
        start += size
    scores = totals.scores()
    assert 100 * scores.metrics["accuracy"] == pytest.approx(float(g["out/acc1_exact"]), rel=1e-6)
    assert scores.loss == pytest.approx(float(g["out/ce"]), rel=1e-6)
