"""The loss of a student that also follows a teacher."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    interpolation: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """The float32 scalar b T² KL(teacher || student) + (1 - b) CE(student, labels), b being the interpolation.

    KL is a sum over classes and a mean over the batch, on probabilities softened by the temperature T.

    Args:
        student_logits, teacher_logits: (B, n_classes); the teacher's get no gradient.
        labels: (B,) int64.
        temperature: T > 0.
        interpolation: b in [0, 1]; 1 ignores the labels, 0 ignores the teacher.
        label_smoothing: of the cross entropy alone.
    Source: Hinton et al. 2015, section 2, as BR-NPA's released code (`TristanGomez44/br_npa`) applies it.
    """
    student_logits, teacher_logits = student_logits.float(), teacher_logits.detach().float()
    divergence = F.kl_div(
        F.log_softmax(student_logits / temperature, dim=1),
        F.log_softmax(teacher_logits / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    cross_entropy = F.cross_entropy(student_logits, labels, label_smoothing=label_smoothing)
    return interpolation * temperature**2 * divergence + (1.0 - interpolation) * cross_entropy
