"""What raises a score through attention, against explicit matrices with gradients of their own."""

import pytest
import torch

from attnsearch.config.model import DcalSettings
from attnsearch.errors import UsageError
from attnsearch.models.backbones.vit import embed
from attnsearch.models.dcal import build
from attnsearch.models.dcal_attention import finish, project, softmax_attention
from attnsearch.tasks.classification import LinearHeads
from attnsearch.testing.model import fill_by_formula, wave_batch

READOUTS = ("query_mean", "local_mean", "cls")
N_TOKENS = 1 + 4 * 2


def make(**changes):
    """A model of 3 blocks with 2 heads, whose weights are a formula."""
    small = {"width": 0.67, "depth": 3, "position_grid": 4, "drop_path": 0.0, "top_k_ratio": 0.4}
    model = build(DcalSettings.model_validate({**small, **changes}), LinearHeads(5))
    return fill_by_formula(model).eval()


def batch_of_two():
    return wave_batch(2, 64, 32)


def first_logit(output):
    return output.logits[:, 0]


def explicit(model, batch, score):
    """The score and all matrices (B, H, Q, T) in its graph: of SA blocks, of GLCA blocks; and the picked tokens."""
    tokens, _ = embed(model.backbone, batch.images)
    sa, glca, queries, picked = [], [], None, None
    for index, block in enumerate(model.backbone.blocks):
        if index >= model.first_glca:
            if queries is None:
                picked = model(batch, maps=("local_patches",)).maps[:, 0].flatten(1).argsort(dim=1, descending=True)
                n_picked = int(0.4 * 8)
                picked = picked[:, :n_picked] + 1
                places = torch.cat([torch.zeros_like(picked[:, :1]), picked], dim=1)
                queries = tokens.gather(1, places[:, :, None].expand(-1, -1, tokens.shape[2]))
            inner = model.glca.blocks[index - model.first_glca].block
            normed = inner.norm1
            query = project(inner, queries)[0]
            _, key, value = project(inner, tokens)
            glca.append(softmax_attention(query, key))
            queries = finish(inner, queries, glca[-1] @ value)
            assert normed is inner.norm1
        query, key, value = project(block, tokens)
        sa.append(softmax_attention(query, key))
        tokens = finish(block, tokens, sa[-1] @ value)
    output = model.head(model.backbone.norm(tokens[:, 0]))
    if queries is not None:
        branch = model.glca(queries)
        output = model.combine({"sa": output, "glca": branch})
    return score(output), sa, glca, picked


def positive_part(matrix, gradient):
    return (matrix * gradient).clamp(min=0).mean(dim=1)


def test_a_class_token_follows_the_published_rule():
    """R <- R + A R over the blocks, first to last; its first row without the class token itself."""
    model, batch = make(variant="sa_only"), batch_of_two()
    score, sa, _, _ = explicit(model, batch, first_logit)
    gradients = torch.autograd.grad(score.sum(), sa)
    relevance = torch.eye(N_TOKENS).repeat(2, 1, 1)
    for matrix, gradient in zip(sa, gradients, strict=True):
        relevance = relevance + positive_part(matrix, gradient) @ relevance
    expected = relevance[:, 0, 1:].view(2, 4, 2)
    found = model.gradient_rollout(batch, first_logit)
    assert (found.shape, found.dtype) == ((2, 4, 2), torch.float32)
    assert expected.max() > 1e-6
    torch.testing.assert_close(found, expected.detach(), atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("n_glca_blocks", [1, 2])
@pytest.mark.parametrize("readout", READOUTS)
def test_what_global_local_attention_took_is_followed_too(readout, n_glca_blocks):
    model, batch = make(variant="sa_glca", glca_readout=readout, n_glca_blocks=n_glca_blocks), batch_of_two()
    score, sa, glca, picked = explicit(model, batch, first_logit)
    gradients = torch.autograd.grad(score.sum(), [*sa, *glca])
    levels = [torch.eye(N_TOKENS).repeat(2, 1, 1)]  # what the tokens that enter each block hold of the input
    for matrix, gradient in zip(sa, gradients, strict=False):
        levels.append(levels[-1] + positive_part(matrix, gradient) @ levels[-1])
    first = 3 - n_glca_blocks
    rows = levels[-1][:, 0] - torch.eye(N_TOKENS)[0]
    places = {"cls": [], "local_mean": picked, "query_mean": picked}[readout]
    if readout != "local_mean":
        rows = rows + levels[first][:, 0] - torch.eye(N_TOKENS)[0]
    for image in range(2):
        for token in places[image] if len(places) else []:
            rows[image] = rows[image] + levels[first][image, token] - torch.eye(N_TOKENS)[token]
    for index, (matrix, gradient) in enumerate(zip(glca, gradients[3:], strict=True)):
        rows = rows + (positive_part(matrix, gradient) @ levels[first + index]).sum(dim=1)
    expected = rows[:, 1:].view(2, 4, 2)
    found = model.gradient_rollout(batch, first_logit)
    torch.testing.assert_close(found, expected.detach(), atol=1e-7, rtol=1e-4)


def test_an_image_is_explained_alone_and_nothing_is_left_behind():
    model, batch = make(), batch_of_two()
    both = model.gradient_rollout(batch, first_logit)
    alone = model.gradient_rollout(batch.take(slice(1, 2)), first_logit)
    torch.testing.assert_close(both[1:], alone, atol=1e-6, rtol=1e-4)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not both.requires_grad
    with torch.no_grad():
        assert torch.equal(model.gradient_rollout(batch, first_logit), both)


def test_parameters_without_gradients_can_be_explained():
    model, batch = make(variant="sa_only"), batch_of_two()
    expected = model.gradient_rollout(batch, first_logit)
    torch.testing.assert_close(model.requires_grad_(False).gradient_rollout(batch, first_logit), expected)


def test_a_score_of_one_branch_follows_that_branch():
    model, batch = make(), batch_of_two()
    found = model.gradient_rollout(batch, lambda output: output.branches["glca"].logits[:, 0])
    assert found.isfinite().all()
    assert found.max() > 0


def test_it_needs_eval_mode():
    with pytest.raises(UsageError, match=r"eval mode; call model\.eval\(\) first"):
        make().train().gradient_rollout(batch_of_two(), first_logit)


def test_overlapping_patches_are_laid_on_even_cells():
    model, batch = make(patch_stride=12), batch_of_two()  # (64 - 16) // 12 + 1, (32 - 16) // 12 + 1
    assert model.gradient_rollout(batch, first_logit).shape == (2, 5, 2)
    maps = model(batch, maps=()).maps
    assert maps.shape == (2, 2, 5, 2)
    tokens, grid = embed(model.backbone, batch.images)
    assert (tokens.shape[1], grid) == (11, (5, 2))
