"""Heads and losses of re-identification against formulas, golden values and plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from attnsearch.config.experiment import ExperimentConfig, ReidSettings
from attnsearch.errors import ConfigError
from attnsearch.models.base import AttentionModel
from attnsearch.tasks.base import build_task
from attnsearch.tasks.reid import (
    ReidHead,
    ReidHeads,
    ReidOutput,
    ReidTask,
    arcface_loss,
    batch_hard_triplet,
    centre_loss,
    hardest_distances,
    move_centres,
)
from attnsearch.types import AttentionOutput, Batch, HeadOutput

Golden = Callable[[str], dict[str, NDArray[Any]]]


def tensors(golden: Golden) -> dict[str, Tensor]:
    return {name: torch.as_tensor(np.asarray(value)) for name, value in golden("reid_triplet").items()}


def task_of(**settings: Any) -> ReidTask:
    task = build_task(ReidSettings(**settings))
    assert isinstance(task, ReidTask)
    return task


def head_of(width: int = 6, n_classes: int = 3, **settings: Any) -> ReidHead:
    torch.manual_seed(0)
    head = ReidHeads(n_classes, ReidSettings(**settings)).image(width)
    assert isinstance(head, ReidHead)
    return head


def batch_of(identities: list[int]) -> Batch:
    n_images = len(identities)
    ids = tuple(map(str, range(n_images)))
    return Batch(torch.zeros(n_images, 3, 4, 4), torch.tensor(identities), ids, torch.arange(n_images))


@pytest.mark.parametrize("name", ["loss_margin", "loss_soft"])
def test_the_triplet_loss_equals_the_reference(golden: Golden, name: str) -> None:
    reference = tensors(golden)
    margin = float(reference["margin"]) if name == "loss_margin" else None
    features = reference["feat"].float().requires_grad_()
    loss = batch_hard_triplet(features, reference["pid"], margin=margin)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(loss.double(), reference[name].double(), atol=1e-5, rtol=0)
    assert features.grad is not None
    expected = reference[name.replace("loss", "grad")]
    torch.testing.assert_close(features.grad.double(), expected.double(), atol=1e-5, rtol=0)


def test_the_hardest_distances_equal_the_reference(golden: Golden) -> None:
    reference = tensors(golden)
    farthest, nearest, is_valid = hardest_distances(reference["feat"], reference["pid"])
    torch.testing.assert_close(farthest.double(), reference["d_ap"].double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(nearest.double(), reference["d_an"].double(), atol=1e-5, rtol=0)
    assert is_valid.all()
    active = (farthest - nearest + float(reference["margin"]) > 0).double().mean()
    assert active.item() == pytest.approx(float(reference["active_fraction"]))


@pytest.mark.parametrize("name", ["loss_margin_uneven", "loss_soft_uneven"])
def test_images_without_a_positive_leave_the_mean(golden: Golden, name: str) -> None:
    reference = tensors(golden)
    margin = float(reference["margin"]) if name == "loss_margin_uneven" else None
    features, identities = reference["feat_uneven"].float(), reference["pid_uneven"]
    assert hardest_distances(features, identities)[2].tolist() == reference["valid_anchor_uneven"].bool().tolist()
    loss = batch_hard_triplet(features, identities, margin=margin)
    torch.testing.assert_close(loss.double(), reference[name].double(), atol=1e-5, rtol=0)
    assert float(loss) != pytest.approx(float(reference["loss_margin_uneven_selfpos"]), abs=1e-3) or margin is None


@pytest.mark.parametrize("identities", [[0, 0, 0], [0, 1, 2]])
def test_without_any_triplet_the_loss_is_zero_with_a_gradient(identities: list[int]) -> None:
    features = torch.randn(3, 4, requires_grad=True)
    loss = batch_hard_triplet(features, torch.tensor(identities), margin=0.3)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0.0
    assert features.grad is not None
    assert torch.equal(features.grad, torch.zeros(3, 4))


def test_equal_images_have_a_finite_gradient() -> None:
    features = torch.ones(4, 5, requires_grad=True)
    batch_hard_triplet(features, torch.tensor([0, 0, 1, 1]), margin=None).backward()  # type: ignore[no-untyped-call]
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_the_order_of_a_batch_changes_nothing(golden: Golden) -> None:
    reference = tensors(golden)
    order = torch.randperm(len(reference["pid"]), generator=torch.Generator().manual_seed(1))
    plain, permuted = (
        batch_hard_triplet(reference["feat"][rows], reference["pid"][rows], margin=0.3)
        for rows in (torch.arange(len(order)), order)
    )
    torch.testing.assert_close(plain, permuted)


def test_a_triplet_in_half_precision_is_computed_in_single(golden: Golden) -> None:
    features, identities = tensors(golden)["feat"].bfloat16(), tensors(golden)["pid"]
    expected = batch_hard_triplet(features.float(), identities, margin=0.3)
    assert torch.equal(batch_hard_triplet(features, identities, margin=0.3), expected)


def test_a_head_reads_the_embedding_through_a_neck_without_bias() -> None:
    head = head_of()
    features = torch.randn(8, 6)
    output = head(features)
    assert torch.equal(output.embedding, features)
    spread = (features - features.mean(dim=0)) / (features.var(dim=0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(output.neck, spread)
    torch.testing.assert_close(output.logits, spread @ head.classifier.weight.T)
    trained = {name for name, parameter in head.named_parameters() if parameter.requires_grad}
    assert trained == {"neck.weight", "classifier.weight"}
    assert head_of(width=500, n_classes=200).classifier.weight.std().item() == pytest.approx(0.001, rel=0.05)


def test_without_a_neck_the_classifier_reads_the_embedding() -> None:
    head, features = head_of(neck=False), torch.randn(4, 6)
    output = head(features)
    assert torch.equal(output.neck, output.embedding)
    assert {name for name, _ in head.named_parameters()} == {"classifier.weight"}


def test_heads_of_classes_are_refused() -> None:
    with pytest.raises(ConfigError, match="identities that are no classes; use another model"):
        ReidHeads(3, ReidSettings()).per_class(6)
    with pytest.raises(ValueError, match="must be >= 2"):
        ReidHeads(1, ReidSettings())


def test_branches_stand_side_by_side_and_are_normalised_together() -> None:
    task, heads = task_of(), ReidHeads(3, ReidSettings())
    first, second = torch.randn(4, 6), 3 * torch.randn(4, 5)
    branches = {"sa": head_of()(first), "glca": head_of(width=5)(second)}
    output = AttentionOutput(heads.combine(branches), branches, is_combined=True)
    torch.testing.assert_close(task.embed(output), F.normalize(torch.cat([first, second], dim=1)))


def test_embeddings_are_taken_before_or_after_the_neck() -> None:
    features = torch.randn(4, 6)
    output = AttentionOutput(head_of()(features))
    neck = output.head.neck  # type: ignore[attr-defined]
    assert torch.equal(task_of(normalise=False).embed(output), features)
    assert torch.equal(task_of(normalise=False, embedding="after_neck").embed(output), neck)
    torch.testing.assert_close(task_of().embed(output).norm(dim=1), torch.ones(4))


def test_losses_of_all_branches_in_training_and_of_triplets_alone_elsewhere() -> None:
    task, batch = task_of(triplet_margin=None, triplet_weight=0.5, identity_weight=2.0), batch_of([0, 0, 1, 1])
    branches = {name: head_of()(torch.randn(4, 6)) for name in ("sa", "glca")}
    output = AttentionOutput(ReidHeads(3, ReidSettings()).combine(branches), branches, is_combined=True)
    losses = task.losses(output, batch, label_smoothing=0.1)
    assert {name: list(terms) for name, terms in losses.items()} == {
        "sa": ["identity", "triplet"],
        "glca": ["identity_glca", "triplet_glca"],
    }
    identity = 2.0 * F.cross_entropy(branches["sa"].logits, batch.labels, label_smoothing=0.1)
    torch.testing.assert_close(losses["sa"]["identity"], identity)
    triplet = 0.5 * batch_hard_triplet(branches["glca"].embedding, batch.labels, margin=None)
    torch.testing.assert_close(losses["glca"]["triplet_glca"], triplet)
    held_out = task.losses(output, batch_of([7, 7, 9, 9]), in_training=False)
    assert {name: list(terms) for name, terms in held_out.items()} == {"sa": ["triplet"], "glca": ["triplet_glca"]}


def test_arcface_widens_the_angle_of_the_true_identity() -> None:
    angles = torch.tensor([[0.4, 1.2, 2.0], [3.0, 1.0, 0.7]])
    identities, scale, margin = torch.tensor([0, 0]), 30.0, 0.5
    widened = angles.cos()
    widened[0, 0] = math.cos(0.4 + margin)
    widened[1, 0] = math.cos(3.0) - margin * math.sin(margin)  # 3.0 + 0.5 is beyond half a turn
    expected = F.cross_entropy(scale * widened, identities)
    loss = arcface_loss(scale * angles.cos(), identities, scale=scale, margin=margin)
    torch.testing.assert_close(loss, expected)
    plain = arcface_loss(scale * angles.cos(), identities, scale=scale, margin=0.0)
    torch.testing.assert_close(plain, F.cross_entropy(scale * angles.cos(), identities))


def test_logits_of_arcface_are_scaled_cosines() -> None:
    head = head_of(arcface_scale=30.0)
    output = head(torch.randn(5, 6))
    expected = 30 * F.cosine_similarity(output.neck[:, None], head.classifier.weight[None], dim=2)
    torch.testing.assert_close(output.logits, expected)
    loss = task_of(arcface_scale=30.0, arcface_margin=0.3).losses(AttentionOutput(output), batch_of([0, 0, 1, 1, 2]))
    expected_loss = arcface_loss(output.logits, torch.tensor([0, 0, 1, 1, 2]), scale=30.0, margin=0.3)
    torch.testing.assert_close(loss["main"]["identity"], expected_loss)


def test_centres_move_by_the_published_rule() -> None:
    centres, features = torch.zeros(3, 2), torch.tensor([[2.0, 0.0], [4.0, 0.0], [0.0, 6.0]])
    identities = torch.tensor([1, 1, 2])
    assert float(centre_loss(features, identities, centres)) == pytest.approx((4 + 16 + 36) / 3)
    move_centres(centres, features, identities)
    # c - 0.5 * sum(c - x) / (1 + n): 0.5 * 6 / 3 and 0.5 * 6 / 2
    assert centres.tolist() == [[0.0, 0.0], [1.0, 0.0], [0.0, 1.5]]


def test_centres_move_in_training_alone() -> None:
    task, head = task_of(centre_weight=0.1), head_of(centre_weight=0.1)
    features, batch = torch.randn(4, 6), batch_of([0, 0, 1, 1])
    output = AttentionOutput(head(features))
    assert head.centres is not None
    losses = task.losses(output, batch)
    torch.testing.assert_close(losses["main"]["centre"], 0.1 * features.square().sum(dim=1).mean())
    moved = head.centres.clone()
    assert moved[:2].abs().sum() > 0
    with torch.no_grad():
        task.losses(output, batch)
    task.losses(output, batch, in_training=False)
    assert torch.equal(head.centres, moved)
    assert "centres" in head.state_dict()


def test_a_branch_that_shares_a_head_moves_no_centres() -> None:
    task, shared, other = task_of(centre_weight=0.1), head_of(centre_weight=0.1), head_of(centre_weight=0.1)
    batch, features = batch_of([0, 0, 1, 1]), {name: torch.randn(4, 6) for name in ("main", "glca", "pwca")}
    branches = {"glca": other(features["glca"]), "pwca": shared(features["pwca"])}
    losses = task.losses(AttentionOutput(shared(features["main"]), branches), batch)
    for name, branch in (("centre", "main"), ("centre_glca", "glca"), ("centre_pwca", "pwca")):
        from_zero = features[branch].square().sum(dim=1).mean()  # no centre had moved before
        torch.testing.assert_close(losses[branch][name], 0.1 * from_zero)
    for head, name in ((shared, "main"), (other, "glca")):
        expected = torch.zeros(3, 6)
        move_centres(expected, features[name], batch.labels)
        torch.testing.assert_close(head.centres, expected)


class LeftRight(AttentionModel):
    """Embeds the mean of the left and of the right half."""

    def __init__(self) -> None:
        super().__init__()
        self.head = head_of(width=2).eval()

    def forward(self, batch: Batch, *, maps: tuple[str, ...] | None = None) -> AttentionOutput:
        left, right = batch.images.chunk(2, dim=3)
        head: HeadOutput = self.head(torch.stack([half.mean(dim=(1, 2, 3)) for half in (left, right)], dim=1))
        return AttentionOutput(head)

    def saliency(self, output: AttentionOutput, target: Tensor) -> Tensor:
        raise NotImplementedError


def test_flip_averaging_averages_raw_embeddings() -> None:
    model, batch = LeftRight().eval(), batch_of([0, 1])
    batch.images[:, :, :, :2] = 3.0
    batch.images[:, :, :, 2:] = 1.0
    plain = task_of(flip_average=False, normalise=False)
    averaged = task_of(flip_average=True, normalise=False)
    assert plain.embed(plain.predict(model, batch)).tolist() == [[3.0, 1.0]] * 2
    assert averaged.embed(averaged.predict(model, batch)).tolist() == [[2.0, 2.0]] * 2


def test_parts_of_a_batch_are_whole_identities() -> None:
    whole = batch_of([0, 0, 1, 1, 2, 2, 3, 3])
    parts = [whole.take(part) for part in task_of().parts(8, 4)]
    assert [part.labels.tolist() for part in parts] == [[0, 0, 1, 1], [2, 2, 3, 3]]


def settings(**changes: Any) -> dict[str, Any]:
    run = {"name": "run", "data": {"name": "market1501", "root": "x"}, "model": {"name": "cnn"}}
    return {**run, "task": {"name": "reid"}, "train": {"batch_size": 32}, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": {"name": "classification"}}, "data market1501 is for the task reid, got classification"),
        ({"data": {"name": "synthetic"}}, "data synthetic is for the task classification, got reid"),
        ({"train": {"batch_size": 30}}, "multiple of task.images_per_identity 4"),
        ({"train": {"batch_size": 32, "accumulation": 8}}, "of 2 identities at least"),
        ({"train": {"batch_size": 32, "teacher": {"checkpoint": "a"}}}, "train.teacher softens classes"),
        ({"evaluation": {"scores": {"families": ("average_drop",)}}}, "'average_drop' has no score of the task reid"),
        ({"task": {"name": "reid", "neck": False, "embedding": "after_neck"}}, "before_neck where neck is false"),
        ({"task": {"name": "reid", "arcface_margin": 0.3}}, "arcface_margin needs arcface_scale"),
        ({"task": {"name": "reid", "identity_weight": 0, "triplet_weight": 0}}, "must not both be 0"),
    ],
)
def test_settings_that_do_not_fit_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExperimentConfig.model_validate(settings(**changes))


def test_parts_that_hold_whole_identities_are_accepted() -> None:
    config = ExperimentConfig.model_validate(settings(train={"batch_size": 32, "accumulation": 4}))
    assert not config.can_train_in(8)
    assert config.can_train_in(2)


def test_embeddings_of_dcal_equal_the_reference(golden: Golden) -> None:
    reference = {name: torch.as_tensor(np.asarray(value)) for name, value in golden("dcal_inference").items()}
    vectors = {name: reference[f"{name}_cls"].float() for name in ("sa", "glca")}
    branches = {name: ReidOutput(torch.zeros(len(x), 3), x, x) for name, x in vectors.items()}
    joined = ReidHeads(3, ReidSettings()).combine(branches)
    assert joined.embedding is not None
    torch.testing.assert_close(joined.embedding.double(), reference["reid_concat"].double(), atol=1e-6, rtol=0)
    embedded = task_of().embed(AttentionOutput(joined, branches, is_combined=True))
    torch.testing.assert_close(embedded.double(), reference["reid_concat_l2"].double(), atol=1e-6, rtol=0)
