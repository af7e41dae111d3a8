"""The distillation loss against the released code."""

import pytest
import torch

from attnsearch.training.distillation import distillation_loss


def test_losses_of_the_released_code(golden):
    g = golden("brnpa_losses")
    assert len(g["losses"]) > 5
    for temperature, interpolation, weight, expected in zip(
        g["temps"], g["interps"], g["nll_weights"], g["losses"], strict=True
    ):
        loss = distillation_loss(
            g["student_logits"],
            g["teacher_logits"],
            g["labels"],
            temperature=float(temperature),
            interpolation=float(interpolation),
        )
        assert float(weight * loss) == pytest.approx(float(expected), rel=1e-6)


def test_label_smoothing_touches_the_labels_alone(golden):
    g = golden("brnpa_losses")
    logits, labels = g["student_logits"], g["labels"]
    smooth = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.2)
    half = distillation_loss(logits, logits, labels, temperature=2.0, interpolation=0.5, label_smoothing=0.2)
    torch.testing.assert_close(half, 0.5 * smooth)  # a teacher that agrees has no divergence


def test_teacher_gets_no_gradient():
    student = torch.tensor([[1.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 1.0]], requires_grad=True)
    distillation_loss(student, teacher, torch.tensor([0]), temperature=2.0, interpolation=0.7).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_bfloat16_logits_give_a_float32_loss():
    logits = torch.tensor([[40.0, 0.0, -40.0]], dtype=torch.bfloat16)
    loss = distillation_loss(logits, -logits, torch.tensor([0]), temperature=1.0, interpolation=0.5)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(0.5 * 80.0, rel=1e-5)  # KL is about 40 - (-40), CE about 0
