"""The teacher of a run."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from attnsearch.config.experiment import STUDY_PREFIX, TeacherSettings
from attnsearch.data.tables import DataTables
from attnsearch.device import Arithmetic
from attnsearch.errors import ConfigError, DataError
from attnsearch.models.base import AttentionModel
from attnsearch.models.checkpoint import ModelCheckpoint, check_class_names, read_model_checkpoint
from attnsearch.tasks.base import SoftTargets, restore_model
from attnsearch.types import Batch


@dataclass(frozen=True)
class Teacher:
    """A frozen model in eval mode, and how much it counts beside the labels."""

    model: AttentionModel
    arithmetic: Arithmetic
    settings: TeacherSettings

    def soft_targets(self, batch: Batch) -> SoftTargets:
        """The teacher's logits (B, n_classes) of the student's batch."""
        with torch.no_grad(), self.arithmetic.autocast():
            logits = self.model(self.arithmetic.place_images(batch)).logits
        return SoftTargets(logits, self.settings.temperature, self.settings.interpolation)


def load_teacher(settings: TeacherSettings, tables: DataTables, arithmetic: Arithmetic) -> Teacher:
    """Rebuilds the teacher from its checkpoint's own config, on the student's device.

    Args:
        tables: of the student's data.
    Raises:
        ConfigError, DataError: as `read_teacher`; or its weights do not fit its config.
    """
    checkpoint = read_teacher(settings, tables)
    model = restore_model(checkpoint).requires_grad_(False).eval()
    own = Arithmetic(arithmetic.device, arithmetic.precision, channels_last=model.channels_last)
    return Teacher(own.place_model(model), own, settings)


def read_teacher(settings: TeacherSettings, tables: DataTables) -> ModelCheckpoint:
    """The teacher's checkpoint, which fits the student's data.

    Raises:
        ConfigError: the checkpoint is missing or broken.
        DataError: it was trained on other classes, or chosen on other validation images, which the student's
            validation would then share with the teacher's training.
    """
    if settings.checkpoint.startswith(STUDY_PREFIX):
        raise ConfigError(
            f"train.teacher.checkpoint is {settings.checkpoint!r}, which is looked up when a run starts; "
            "give the path of a best.safetensors"
        )
    try:
        checkpoint = read_model_checkpoint(settings.checkpoint)
    except ConfigError as error:
        raise ConfigError(f"train.teacher.checkpoint: {error}") from error
    check_class_names(tables.class_names, checkpoint.class_names, f"the teacher {checkpoint.path}")
    if checkpoint.val_hash != tables.val_hash:
        raise DataError(
            f"the teacher {checkpoint.path} was chosen on other validation images (hash "
            f"{checkpoint.val_hash[:12] or 'none'}, here {tables.val_hash[:12]}); use its data.val_share and "
            "data.split_seed, or another teacher"
        )
    return checkpoint
