"""Heads, losses and targets of classification; the distillation loss against the released code."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from attnsearch.config.experiment import ClassificationSettings, ExperimentConfig
from attnsearch.errors import ConfigError
from attnsearch.tasks.base import SoftTargets, build_task
from attnsearch.tasks.classification import ClassificationMeter, ClassTarget, LinearHeads, distillation_loss
from attnsearch.types import AttentionOutput, Batch, HeadOutput

CPU = torch.device("cpu")
TASK = build_task(ClassificationSettings())


def make_output(**changes):
    """Two images, two classes, and one more branch."""
    head = HeadOutput(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    branches = {"a": HeadOutput(torch.tensor([[0.0, 0.0], [3.0, 0.0]]))}
    return AttentionOutput(head, **{"branches": branches, **changes})


def make_batch():
    return Batch(torch.zeros(2, 3, 4, 4), torch.tensor([0, 1]), ("x", "y"), torch.arange(2))


def test_the_default_task_changes_neither_digest_nor_file():
    settings = {"name": "run", "data": {"name": "synthetic"}, "model": {"name": "cnn"}}
    plain, named = (
        ExperimentConfig.model_validate(settings | more) for more in ({}, {"task": {"name": "classification"}})
    )
    assert plain == named
    assert named.digest() == plain.digest()
    assert "task" not in named.identity()
    assert "task" not in named.model_dump(mode="json")
    assert ExperimentConfig.model_validate_json(named.model_dump_json()) == plain
    # of version 0.1, which had no tasks
    assert plain.digest() == "f82e6c2ebfcb9854412bac06a5b8210d59500644f6ab6262b4d74852ad21e605"


def test_an_unknown_task_is_named_with_those_that_there_are():
    with pytest.raises(ConfigError, match="unknown task 'sorting'; known: classification"):
        build_task(ClassificationSettings.model_construct(name="sorting"))


def test_each_trained_head_has_a_loss_and_the_first_is_the_main_one():
    output, batch = make_output(), make_batch()
    losses = TASK.losses(output, batch, label_smoothing=0.2)
    expected = F.cross_entropy(output.logits, batch.labels, label_smoothing=0.2)
    assert {branch: list(terms) for branch, terms in losses.items()} == {
        "main": ["cross_entropy"],
        "a": ["cross_entropy_a"],
    }
    assert torch.equal(losses["main"]["cross_entropy"], expected)


def test_a_combined_head_has_no_loss_of_its_own():
    losses = TASK.losses(make_output(is_combined=True), make_batch())
    assert {branch: list(terms) for branch, terms in losses.items()} == {"a": ["cross_entropy"]}


def test_a_teacher_takes_the_place_of_the_labels_in_the_main_branch_alone():
    teacher = SoftTargets(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), temperature=2.0, interpolation=0.25)
    output, batch = make_output(), make_batch()
    losses = TASK.losses(output, batch, soft_targets=teacher)
    assert [list(terms) for terms in losses.values()] == [["distillation"], ["cross_entropy_a"]]
    wanted = (teacher.logits / 2.0).softmax(1)
    divergence = (wanted * (wanted.log() - (output.logits / 2.0).log_softmax(1))).sum(1).mean()
    expected = 0.25 * 4.0 * divergence + 0.75 * F.cross_entropy(output.logits, batch.labels)
    torch.testing.assert_close(losses["main"]["distillation"], expected)


def test_embeddings_of_combined_branches_stand_side_by_side():
    first, second = HeadOutput(torch.zeros(2, 3), torch.ones(2, 4)), HeadOutput(torch.zeros(2, 3), torch.zeros(2, 5))
    heads = LinearHeads(3)
    assert heads.combine({"a": first, "b": second}).embedding.shape == (2, 9)
    assert heads.combine({"a": first, "b": dataclasses.replace(second, embedding=None)}).embedding is None


def test_the_target_is_the_probability_of_the_class():
    target = ClassTarget(torch.tensor([1, 0]))
    probabilities = make_output().logits.softmax(dim=1)
    assert target.score(make_output()).tolist() == [float(probabilities[0, 1]), float(probabilities[1, 0])]
    assert target.raw_score(make_output()).tolist() == make_output().logits[[0, 1], [1, 0]].tolist()
    assert target.take(slice(1, 2)).classes.tolist() == [0]


def test_an_explanation_explains_the_predicted_class_or_the_label():
    output = make_output()
    assert torch.equal(TASK.target(output).classes, output.logits.argmax(dim=1))
    archived = SimpleNamespace(labels=np.array([0, 1, 2]), predictions=np.array([0, 2, 1]))
    places = np.array([2, 1])
    assert TASK.archived_target(archived, places).classes.tolist() == [1, 2]
    assert TASK.archived_target(archived, places, choice="label").classes.tolist() == [2, 1]


def test_losses_of_the_released_code(golden):
    g = golden("brnpa_losses")
    assert len(g["losses"])
    for temperature, interpolation, weight, expected in zip(
        g["temps"], g["interps"], g["nll_weights"], g["losses"], strict=True
    ):
        teacher = SoftTargets(g["teacher_logits"], float(temperature), float(interpolation))
        loss = distillation_loss(g["student_logits"], teacher, g["labels"])
        assert float(weight * loss) == pytest.approx(float(expected), rel=1e-5)


def test_label_smoothing_touches_the_labels_alone(golden):
    g = golden("brnpa_losses")
    logits, labels = g["student_logits"], g["labels"]
    smooth = F.cross_entropy(logits, labels, label_smoothing=0.2)
    half = distillation_loss(logits, SoftTargets(logits, 2.0, 0.5), labels, label_smoothing=0.2)
    torch.testing.assert_close(half, 0.5 * smooth)  # a teacher that agrees has no divergence


def test_teacher_gets_no_gradient():
    student = torch.tensor([[1.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 1.0]], requires_grad=True)
    distillation_loss(student, SoftTargets(teacher, 2.0, 0.7), torch.tensor([0])).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_bfloat16_logits_give_a_float32_loss():
    logits = torch.tensor([[40.0, 0.0, -40.0]], dtype=torch.bfloat16)
    loss = distillation_loss(logits, SoftTargets(-logits, 1.0, 0.5), torch.tensor([0]))
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(0.5 * 80.0, rel=1e-5)  # KL is about 40 - (-40), CE about 0


def batch_of(*labels):
    n_images = len(labels)
    return Batch(torch.zeros(n_images, 3, 1, 1), torch.tensor(labels), ("",) * n_images, torch.arange(n_images))


def votes(*classes, n_classes=3):
    return torch.eye(n_classes)[list(classes)]


def test_losses_are_weighted_by_images():
    totals = ClassificationMeter(3, CPU, in_training=True)
    totals.add(
        batch_of(0, 1, 2),
        AttentionOutput(HeadOutput(votes(0, 1, 2))),
        {"a": torch.tensor(1.0), "b": torch.tensor(10.0)},
    )
    totals.add(batch_of(0), AttentionOutput(HeadOutput(votes(1))), {"a": torch.tensor(5.0), "b": torch.tensor(2.0)})
    scores = totals.scores()
    assert scores.terms == {"a": 2.0, "b": 8.0}  # (3·1 + 5) / 4, (3·10 + 2) / 4
    assert scores.loss == totals.loss() == 10.0
    assert scores.metrics == {"accuracy": 0.75}
    assert scores.n_images == 4


def test_mean_class_accuracy_leaves_out_classes_that_do_not_occur():
    totals = ClassificationMeter(3, CPU)
    totals.add(batch_of(0, 0, 0, 1), AttentionOutput(HeadOutput(votes(0, 0, 2, 0))), {"a": torch.tensor(0.0)})
    scores = totals.scores()
    assert scores.metrics["accuracy"] == 0.5
    assert scores.metrics["mean_class_accuracy"] == pytest.approx((2 / 3 + 0) / 2)


def test_halves_have_their_own_accuracy():
    totals = ClassificationMeter(3, CPU, halves=np.array([0, 1, 1, 0, 1]))
    for rows, labels, predicted in [((4, 0), (1, 0), (1, 2)), ((1, 2, 3), (0, 1, 2), (0, 0, 2))]:
        batch = dataclasses.replace(batch_of(*labels), rows=torch.tensor(rows))
        totals.add(batch, AttentionOutput(HeadOutput(votes(*predicted))), {"a": torch.tensor(0.0)})
    metrics = totals.scores().metrics
    assert (metrics["accuracy_half_a"], metrics["accuracy_half_b"]) == (1 / 2, pytest.approx(2 / 3))
    assert metrics["accuracy"] == pytest.approx(3 / 5)


def test_further_heads_have_their_own_accuracy():
    totals = ClassificationMeter(3, CPU, in_training=True)
    output = AttentionOutput(HeadOutput(votes(0, 0)), branches={"01": HeadOutput(votes(0, 1))})
    totals.add(batch_of(0, 1), output, {"a": torch.tensor(0.0)})
    assert totals.scores().metrics == {"accuracy": 0.5, "accuracy_01": 1.0}


def test_sparsity_is_a_mean_over_images():
    totals = ClassificationMeter(3, CPU, in_training=True)
    maps = torch.stack([torch.ones(1, 2, 2), torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])])
    totals.add(
        batch_of(0, 1),
        AttentionOutput(HeadOutput(votes(0, 1)), maps=maps, map_names=("one",)),
        {"a": torch.tensor(0.0)},
    )
    assert totals.scores().metrics["sparsity"] == pytest.approx((1 + 0.25) / 2, abs=1e-4)  # epsilon 1e-5 in each


def test_a_map_that_is_the_norm_itself_counts_once():
    totals = ClassificationMeter(3, CPU, in_training=True)
    norms = torch.tensor([[[[1.0, 0.5], [0.5, 0.0]]]])
    output = AttentionOutput(HeadOutput(votes(0)), maps=norms, map_names=("norm",), norms=norms)
    totals.add(batch_of(0), output, {"a": torch.tensor(0.0)})
    assert totals.scores().metrics["sparsity"] == pytest.approx(0.5, abs=1e-4)


def test_the_cross_entropy_of_validation_is_a_mean_over_images_and_no_part_of_the_loss():
    totals = ClassificationMeter(2, CPU)
    for size, logit in ((3, 0.0), (1, 2.0)):
        logits = torch.tensor([[logit, 0.0]]).expand(size, 2)
        totals.add(batch_of(*[0] * size), AttentionOutput(HeadOutput(logits)), {"a": torch.tensor(1.0)})
    scores = totals.scores()
    expected = (3 * math.log(2) + math.log(1 + math.exp(-2))) / 4
    assert scores.metrics["cross_entropy"] == pytest.approx(expected, rel=1e-6)
    assert scores.loss == 1.0


def test_an_undefined_loss_stays_undefined():
    totals = ClassificationMeter(3, CPU, in_training=True)
    totals.add(batch_of(0), AttentionOutput(HeadOutput(votes(0))), {"a": torch.tensor(math.nan)})
    totals.add(batch_of(0), AttentionOutput(HeadOutput(votes(0))), {"a": torch.tensor(1.0)})
    assert math.isnan(totals.loss())
    assert math.isnan(totals.scores().loss)


def test_there_are_no_scores_without_images():
    with pytest.raises(ValueError, match="without images"):
        ClassificationMeter(3, CPU, in_training=True).scores()


def test_totals_hold_no_graph():
    totals = ClassificationMeter(2, CPU)
    value = torch.ones((), requires_grad=True)
    totals.add(batch_of(0), AttentionOutput(HeadOutput(votes(0, n_classes=2) * value)), {"a": value * 2})
    assert not any(total.requires_grad for total in totals._terms.values())


def test_the_target_of_an_image_that_may_be_of_several_classes_is_uniform_over_them():
    output = AttentionOutput(HeadOutput(torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 3.0]])))
    batch = dataclasses.replace(make_batch(), possible=torch.tensor([[True, False, True], [False, True, False]]))
    losses = TASK.losses(output, batch)
    log_p = output.logits.log_softmax(dim=1)
    expected = -(0.5 * (log_p[0, 0] + log_p[0, 2]) + log_p[1, 1]) / 2
    torch.testing.assert_close(losses["main"]["cross_entropy"], expected)
    one_class = dataclasses.replace(batch, possible=torch.tensor([[True, False, False], [False, True, False]]))
    hard = TASK.losses(output, make_batch())["main"]["cross_entropy"]
    torch.testing.assert_close(TASK.losses(output, one_class)["main"]["cross_entropy"], hard)
    teacher = SoftTargets(output.logits, 2.0, 0.5)
    halves = TASK.losses(output, batch, soft_targets=teacher)["main"]["distillation"]
    torch.testing.assert_close(halves, 0.5 * expected)
