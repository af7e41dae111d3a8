"""Whether a run may start: the checkpoints of other runs that it begins with, on its data."""

from __future__ import annotations

from pathlib import Path

from attnsearch.config.data import DataConfig
from attnsearch.config.experiment import ExperimentConfig
from attnsearch.data.tables import DataTables
from attnsearch.errors import ConfigError, DataError
from attnsearch.models.checkpoint import read_model_checkpoint
from attnsearch.models.weights import STUDY_PREFIX, is_checkpoint
from attnsearch.training.distillation import read_teacher


def check_start(experiment: ExperimentConfig, tables: DataTables) -> None:
    """Checks teacher, warm start and part masks before anything is trained.

    Raises:
        ConfigError: a checkpoint is missing or broken, or the backbone is another one.
        DataError: it knows images that this run validates on, the teacher has other classes, or masks are missing.
    """
    _check_masks(experiment, tables)
    if (teacher := experiment.train.teacher) is not None:
        checkpoint = read_teacher(teacher, class_names=tables.class_names, val_hash=tables.val_hash)
        _check_same_generator(experiment.data, checkpoint.config.data, checkpoint.path)
    _check_warm_start(experiment, tables)


def _check_masks(experiment: ExperimentConfig, tables: DataTables) -> None:
    if not experiment.model.needs_masks:
        return
    reason = f"model {experiment.model.name!r} learns from part masks"
    if tables.train.mask_paths is None:
        raise DataError(
            f"{reason}, and {tables.root} has no part masks; use data that has them, such as data.name=synthetic or "
            "CUB with its segmentations, or turn that loss off (for loupe: model.mask_weight=0)"
        )
    if experiment.data.rand_augment is not None:
        raise DataError(
            f"{reason}, and part masks cannot follow data.rand_augment {experiment.data.rand_augment}; set one of the "
            "two to nothing (0, null)"
        )


def _check_same_generator(data: DataConfig, teachers: DataConfig, path: Path) -> None:
    """Synthetic images have the same names whatever they show, so that names and hash cannot tell them apart."""
    if data.name != teachers.name:
        return
    for key in data.drawn_by:
        if getattr(data, key) != getattr(teachers, key):
            raise DataError(
                f"the teacher {path} was trained on other synthetic images: its data.{key} is "
                f"{getattr(teachers, key)}, here {getattr(data, key)}; use its settings or another teacher"
            )


def _check_warm_start(experiment: ExperimentConfig, tables: DataTables) -> None:
    """A backbone may come from other data or other classes, but not from this data under another hold-out."""
    model = experiment.model
    if model.weights in ("none", "hub") or model.weights.startswith(STUDY_PREFIX) or not is_checkpoint(model.weights):
        return
    checkpoint = read_model_checkpoint(model.weights)
    source = checkpoint.config.model
    if (source.backbone, source.width) != (model.backbone, model.width):
        raise ConfigError(
            f"model.weights: {checkpoint.path} holds a {source.backbone} of width {source.width:g}, the model has a "
            f"{model.backbone} of width {model.width:g}; set model.backbone={source.backbone} "
            f"model.width={source.width:g}"
        )
    if checkpoint.val_hash != tables.val_hash and _is_same(checkpoint.config.data, experiment.data):
        raise DataError(
            f"model.weights: {checkpoint.path} was trained on this data with other validation images (hash "
            f"{checkpoint.val_hash[:12] or 'none'}, here {tables.val_hash[:12]}), so it may know those of this run; "
            "use its data.val_share and data.split_seed"
        )


def _is_same(data: DataConfig, other: DataConfig) -> bool:
    roots = [None if cfg.root_path is None else cfg.root_path.resolve() for cfg in (data, other)]
    return data.name == other.name and roots[0] == roots[1]
