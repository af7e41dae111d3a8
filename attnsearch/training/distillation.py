"""The teacher of a run and its loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from attnsearch.config.experiment import TeacherSettings
from attnsearch.device import Arithmetic
from attnsearch.errors import ConfigError, DataError
from attnsearch.models.base import AttentionModel
from attnsearch.models.checkpoint import ModelCheckpoint, read_model_checkpoint
from attnsearch.models.weights import STUDY_PREFIX, check_class_names
from attnsearch.types import AttentionOutput, Batch


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


@dataclass(frozen=True)
class Teacher:
    """A frozen model in eval mode, and how much it is listened to."""

    model: AttentionModel
    arithmetic: Arithmetic
    settings: TeacherSettings

    def replace_cross_entropy(
        self, terms: Mapping[str, Tensor], output: AttentionOutput, batch: Batch, *, label_smoothing: float
    ) -> dict[str, Tensor]:
        """The student's loss terms with `distillation` in the place of `cross_entropy`; the batch is the student's."""
        with torch.no_grad(), self.arithmetic.autocast():
            teacher_logits = self.model(self.arithmetic.place_images(batch)).logits
        distillation = distillation_loss(
            output.logits,
            teacher_logits,
            batch.labels,
            temperature=self.settings.temperature,
            interpolation=self.settings.interpolation,
            label_smoothing=label_smoothing,
        )
        return {"distillation": distillation, **{k: v for k, v in terms.items() if k != "cross_entropy"}}


def load_teacher(
    settings: TeacherSettings, *, class_names: tuple[str, ...], val_hash: str, arithmetic: Arithmetic
) -> Teacher:
    """Rebuilds the teacher from its checkpoint's own config, on the student's device.

    Args:
        class_names, val_hash: of the student's data.
    Raises:
        ConfigError, DataError: as `read_teacher`; or its weights do not fit its config.
    """
    kept = read_teacher(settings, class_names=class_names, val_hash=val_hash)
    model = kept.build_model().requires_grad_(False).eval()
    own = Arithmetic(arithmetic.device, arithmetic.precision, channels_last=model.channels_last)
    return Teacher(own.place_model(model), own, settings)


def read_teacher(settings: TeacherSettings, *, class_names: tuple[str, ...], val_hash: str) -> ModelCheckpoint:
    """The teacher's checkpoint, which fits the student's data.

    Raises:
        ConfigError: the checkpoint is missing or broken.
        DataError: it was trained on other classes, or chosen on other validation images, which the student's
            validation would then share with the teacher's training.
    """
    if settings.checkpoint.startswith(STUDY_PREFIX):
        raise ConfigError(
            f"train.teacher.checkpoint is {settings.checkpoint!r}, which is looked up when a run starts; "
            "give the path of a kept.safetensors"
        )
    try:
        kept = read_model_checkpoint(settings.checkpoint)
    except ConfigError as error:
        raise ConfigError(f"train.teacher.checkpoint: {error}") from error
    check_class_names(class_names, kept.class_names, f"the teacher {kept.path}")
    if kept.val_hash != val_hash:
        raise DataError(
            f"the teacher {kept.path} was chosen on other validation images (hash {kept.val_hash[:12] or 'none'}, here "
            f"{val_hash[:12]}); use its data.val_share and data.split_seed, or another teacher"
        )
    return kept
