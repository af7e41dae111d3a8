"""DCAL against reference numbers, see tests/golden/dcal_README.md."""

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block, VisionTransformer

from attnsearch.config.model import DcalSettings
from attnsearch.models.dcal import (
    Dcal,
    GlobalLocalCrossAttention,
    UncertaintyWeights,
    attention_rollout,
    pairwise_attention,
)
from attnsearch.models.dcal_attention import finish, mean_attention, pick_patches, project
from attnsearch.tasks.classification import LinearHeads, mean_probability
from attnsearch.types import Batch

EXACT = {"atol": 1e-5, "rtol": 1e-5}
BLOCK = {"atol": 1e-4, "rtol": 1e-4}


def close(found, expected, **tolerance):
    torch.testing.assert_close(found.double(), expected.double(), **tolerance)


def part(g, prefix):
    """The golden tensors whose key starts with `prefix`, without it."""
    return {key.removeprefix(prefix): tensor for key, tensor in g.items() if key.startswith(prefix)}


def sizes_of(state, block=""):
    """Width of the tokens and of the hidden layer relative to it, as the weights of a block have them."""
    n_hidden, width = state[f"{block}mlp.fc1.weight"].shape
    return width, n_hidden / width


def make_block(state, n_heads):
    width, mlp_ratio = sizes_of(state)
    block = Block(width, n_heads, mlp_ratio=mlp_ratio, qkv_bias=True)
    block.load_state_dict(state)
    return block.eval()


def test_rollout(golden):
    g = golden("dcal_rollout")
    close(attention_rollout(g["attn"]), g["cls_row"], **EXACT)
    for index, row in enumerate(g["cls_row_by_depth"]):
        close(attention_rollout(g["attn"][: index + 1]), row, **EXACT)


def test_every_row_of_the_rollout(golden):
    g = golden("dcal_rollout")
    for index in range(g["full"].shape[1]):
        start = F.one_hot(torch.tensor(index), g["full"].shape[1]).float().expand(len(g["full"]), -1)
        close(attention_rollout(g["attn"], start=start), g["full"][:, index], **EXACT)


def test_picked_patches(golden):
    g = golden("dcal_rollout")
    picked = pick_patches(attention_rollout(g["attn"]), float(g["ratio"]))
    assert torch.equal(picked, g["sel"][:, 1:])
    assert picked.shape[1] == int(g["k"])


@pytest.fixture
def glca(golden):
    g = golden("dcal_glca")
    weights = part(g, "w.")
    width = g["x"].shape[2]
    norm = torch.nn.LayerNorm(width, eps=float(g["ln_eps"]))
    norm.load_state_dict({name: weights.pop(f"norm.{name}") for name in ("weight", "bias")})
    block = GlobalLocalCrossAttention(make_block(weights, int(g["num_heads"])))
    queries = g["x"].gather(1, g["sel"][:, :, None].expand(-1, -1, width))
    return g, block, queries, norm


def test_glca_picks_its_queries(glca):
    g, *_ = glca
    row = F.pad(g["scores"], (1, 0), value=9.0)  # the class token, which is never picked
    assert torch.equal(pick_patches(row, float(g["ratio"])), g["sel"][:, 1:])


def test_glca_attention_and_tokens(glca):
    g, block, queries, _ = glca
    close(block.attention(queries, g["x"]), g["attn_prob"], **EXACT)
    close(block(queries, g["x"]), g["tokens"], **BLOCK)


def test_glca_readouts(glca):
    g, block, queries, norm = glca
    tokens = norm(block(queries, g["x"]))
    close(tokens[:, 0], g["cls"], **BLOCK)
    close(tokens[:, 1:].mean(dim=1), g["local_mean"], **BLOCK)
    close(tokens.mean(dim=1), g["query_mean"], **BLOCK)


@pytest.fixture
def pairs(golden):
    g = golden("dcal_pwca")
    n_blocks = len([name for name in g if name.endswith(".mlp.fc1.weight")])
    assert n_blocks
    return g, [make_block(part(g, f"b{index}."), int(g["num_heads"])) for index in range(n_blocks)]


def attend_raw(block, tokens, partners):
    """The attention operation alone, without norm and residual: (B, T, D)."""
    query, key, value = block.attn.qkv(tokens).chunk(3, dim=2)
    query, key, value = (x.unflatten(2, (block.attn.num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    mixed = pairwise_attention(query, key, value, key[partners], value[partners])
    return block.attn.proj(mixed.transpose(1, 2).flatten(2))


def test_pairwise_attention(pairs):
    g, blocks = pairs
    close(attend_raw(blocks[0], g["x"], g["perm"]), g["op_out"], **BLOCK)


def test_an_image_paired_with_itself_is_self_attention(pairs):
    g, blocks = pairs
    found = attend_raw(blocks[0], g["x"], torch.arange(len(g["x"])))
    close(found, g["op_self_pair_out"], **BLOCK)
    close(found, g["op_sa_out"], **BLOCK)


def test_stack_of_pairwise_blocks(pairs):
    g, blocks = pairs
    plain, paired = g["x"], g["x"]
    for block in blocks:
        query, key, value = project(block, plain)
        mixed = pairwise_attention(*project(block, paired), key[g["perm"]], value[g["perm"]])
        paired = finish(block, paired, mixed)
        plain = finish(block, plain, F.scaled_dot_product_attention(query, key, value))
    close(plain, g["stack_plain"], **BLOCK)
    close(paired, g["stack_sa"], **BLOCK)


def total_of(weights, losses):
    """The sum of all terms of these branches, each with one loss."""
    return sum(term for branch, loss in losses for term in weights(branch, {"loss": loss}).values())


@pytest.mark.parametrize("suffix", ["", "_two"])
def test_uncertainty_weights(golden, suffix):
    g = golden("dcal_uncertainty")
    n_losses = len(g[f"grad_losses{suffix}"])
    names = ("sa", "glca", "pwca")
    weights = UncertaintyWeights(names).double()
    weights.w.data.copy_(g["w"])
    losses = g["losses"][:n_losses].clone().requires_grad_()
    total = total_of(weights, zip(names, losses, strict=False))
    total.backward()
    close(total, g[f"total{suffix}"], **EXACT)
    close(losses.grad, g[f"grad_losses{suffix}"], **EXACT)
    close(weights.w.grad[:n_losses], g[f"grad_w{suffix}"], **EXACT)
    assert weights.w.grad[n_losses:].count_nonzero() == 0


def test_uncertainty_weights_start_at_zero_and_may_end_below_zero(golden):
    g = golden("dcal_uncertainty")
    names = ("sa", "glca", "pwca")
    weights = UncertaintyWeights(names).double()
    close(total_of(weights, zip(names, g["losses"], strict=True)), g["total_zero_w"], **EXACT)
    weights.w.data.copy_(g["w_opt"])
    close(total_of(weights, zip(names, g["small_losses"], strict=True)), g["total_small_opt"], **EXACT)


def test_branches_are_combined_by_probability(golden):
    g = golden("dcal_inference")
    logits = mean_probability([g["logits_sa"], g["logits_glca"]])
    close(logits.softmax(dim=1), g["prob_mean"], **EXACT)
    close(2 * logits.exp(), g["prob_sum"], **EXACT)
    assert torch.equal(logits.argmax(dim=1), g["pred"])
    assert (logits.argmax(dim=1) != g["pred_logit_sum"]).sum() == (g["pred"] != g["pred_logit_sum"]).sum() > 0
    top5 = logits.topk(g["top5"].shape[1]).indices
    assert torch.equal(top5, g["top5"])
    assert (top5 == g["labels"][:, None]).any(dim=1).double().mean() == g["top5_acc"]
    assert (logits.argmax(dim=1) == g["labels"]).double().mean() == g["top1_acc"]


@pytest.fixture
def e2e(golden):
    """Builds the whole model with the golden weights, and the golden numbers."""
    g = golden("dcal_vit_e2e")
    height, width = g["image"].shape[2:]
    patch, n_heads, vit, glca = int(g["patch_size"]), int(g["num_heads"]), part(g, "timm."), part(g, "glca.")
    n_channels, mlp_ratio = sizes_of(vit, "blocks.0.")
    state = {("" if name.startswith("head.") else "backbone.") + name: tensor for name, tensor in vit.items()}
    state |= {
        ("glca." if name[:5] in ("norm.", "head.") else "glca.blocks.0.block.") + name: t for name, t in glca.items()
    }

    def build(**changes):
        body = VisionTransformer(
            img_size=(height, width),
            patch_size=patch,
            embed_dim=n_channels,
            depth=len({name.split(".")[1] for name in vit if name.startswith("blocks.")}),
            num_heads=n_heads,
            mlp_ratio=mlp_ratio,
            num_classes=0,
            dynamic_img_size=True,
            dynamic_img_pad=True,
        )
        cfg = DcalSettings.model_validate({"top_k_ratio": float(g["ratio"]), "drop_path": 0.0, **changes})
        model = Dcal(cfg, LinearHeads(g["sa_logits"].shape[1]), body=body)
        found = model.load_state_dict(state, strict=False)
        assert all(name.startswith("uncertainty.") for name in found.missing_keys)
        assert all(name.startswith("glca.") and model.glca is None for name in found.unexpected_keys)
        return model.eval()

    n_images = len(g["image"])
    batch = Batch(g["image"], torch.zeros(n_images, dtype=torch.int64), ("",) * n_images, torch.arange(n_images))
    return build, batch, g


def test_e2e_streams_and_attention(e2e):
    build, batch, g = e2e
    model = build(variant="sa_only")
    tokens = g["tokens_by_depth"][0]
    for index, block in enumerate(model.backbone.blocks):
        query, key, value = project(block, tokens)
        close(mean_attention(query, key)[:, 0], g["attn"][index].mean(dim=1), **EXACT)
        tokens = finish(block, tokens, F.scaled_dot_product_attention(query, key, value))
        close(tokens, g["tokens_by_depth"][index + 1], **BLOCK)
    close(model(batch).logits, g["sa_logits"], **BLOCK)


def test_e2e_branches(e2e):
    build, batch, g = e2e
    output = build(glca_readout="cls")(batch)
    close(output.branches["sa"].logits, g["sa_logits"], **BLOCK)
    close(output.branches["glca"].logits, g["glca_logits"], **BLOCK)
    close(2 * output.logits.exp(), g["prob_sum"], **BLOCK)


def test_e2e_mean_of_local_queries(e2e):
    build, batch, g = e2e
    model = build(glca_readout="local_mean")
    expected = g["glca_local_mean"] @ model.glca.head.weight.double().T + model.glca.head.bias
    close(model(batch).branches["glca"].logits, expected, **BLOCK)


def test_e2e_mean_of_all_queries(e2e):
    build, batch, g = e2e
    model = build(glca_readout="query_mean")
    n_local = int(g["k"])
    features = (g["glca_cls"] + n_local * g["glca_local_mean"]) / (1 + n_local)
    expected = features @ model.glca.head.weight.double().T + model.glca.head.bias
    close(model(batch).branches["glca"].logits, expected, **BLOCK)


@pytest.mark.parametrize("readout", ["query_mean", "cls"])
def test_e2e_maps(e2e, readout):
    build, batch, g = e2e
    grid = [length // int(g["patch_size"]) for length in g["image"].shape[2:]]
    n_heads = int(g["num_heads"])
    names = ("rollout", "glca", "local_patches", "cls_head_1", f"cls_head_{n_heads}")
    output = build(glca_readout=readout)(batch, maps=names)
    assert output.map_names == names
    expected = [g["rollout_row_all"], g["glca_rollout"], torch.zeros(len(g["image"]), 1 + grid[0] * grid[1])]
    expected[2].scatter_(1, g["sel"][:, 1:], 1.0)
    expected += [g["attn"][-1][:, head, 0] for head in (0, n_heads - 1)]
    for index, row in enumerate(expected):
        close(output.maps[:, index], row[:, 1:].unflatten(1, grid), **EXACT)


@pytest.mark.parametrize("suffix", ["", "_t"])
def test_e2e_pairwise_stream(e2e, suffix, monkeypatch):
    build, batch, g = e2e
    monkeypatch.setattr("attnsearch.models.dcal.draw_partners", lambda n_images, *, device: g["perm"])
    model = build(n_pwca_blocks=int(g["t"]) if suffix else None).train()
    expected = g[f"pwca_cls_sa{suffix}"] @ model.head.weight.double().T + model.head.bias
    close(model(batch).branches["pwca"].logits, expected, **BLOCK)
    if not suffix:
        close(expected, g["pwca_logits_sa"], **BLOCK)


def test_e2e_copied_branch_repeats_the_class_token(e2e):
    build, batch, _ = e2e
    model = build(glca_readout="cls")
    model.glca.blocks[0].block.load_state_dict(model.backbone.blocks[-1].state_dict())
    model.glca.norm.load_state_dict(model.backbone.norm.state_dict())
    model.glca.head.load_state_dict(model.head.state_dict())
    output = model(batch)
    close(output.branches["glca"].logits, output.branches["sa"].logits, atol=1e-6, rtol=1e-6)
