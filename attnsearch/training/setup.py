"""Whether a run may start, and what it starts with: model, optimizer, schedule, loaders and teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from timm.scheduler import create_scheduler_v2  # type: ignore[attr-defined]
from timm.scheduler.scheduler import Scheduler
from torch.optim import Optimizer

from attnsearch.config.data import DataConfig
from attnsearch.config.experiment import STUDY_PREFIX, ExperimentConfig, OptimizerSettings, ScheduleSettings
from attnsearch.data.loader import BatchLoader, TrainingOrder
from attnsearch.device import Arithmetic, evaluation_batch_size, pick_device, pick_precision, seed_torch, set_threads
from attnsearch.errors import ConfigError, DataError
from attnsearch.models import build_model
from attnsearch.models.checkpoint import read_model_checkpoint
from attnsearch.models.weights import is_checkpoint
from attnsearch.tasks.base import Task, build_task
from attnsearch.training.distillation import load_teacher, read_teacher
from attnsearch.training.loop import Schedule, TrainingSetup
from attnsearch.training.state import TrainingState

if TYPE_CHECKING:
    from pathlib import Path

    from attnsearch.data.tables import DataTables
    from attnsearch.models.base import AttentionModel

#: Setting -> timm's name; timm's `sgd` is the one with Nesterov momentum.
_TIMM_NAMES = {"sgd": "momentum", "adam": "adam", "amsgrad": "adam", "adamw": "adamw", "lion": "lion"}


def parameter_groups(model: AttentionModel, settings: OptimizerSettings) -> list[dict[str, Any]]:
    """Parameters by learning rate and weight decay: up to four groups, in a fixed order.

    `model.undecayed` and, without `decay_norms`, all vectors and scalars get no weight decay. Parameters under
    `model.backbone_prefix` carry `lr_scale`, which timm's schedulers multiply in. Parameters that need no
    gradient are left out.
    """
    groups: dict[tuple[bool, bool], list[Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_vector = parameter.ndim <= 1 and not settings.decay_norms
            is_exempt = is_vector or name.rpartition(".")[2] in model.undecayed
            key = (name.startswith(model.backbone_prefix), is_exempt)
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": groups[is_backbone, is_exempt],
            "lr_scale": settings.backbone_lr_factor if is_backbone else 1.0,
            "weight_decay": 0.0 if is_exempt else settings.weight_decay,
        }
        for is_backbone, is_exempt in sorted(groups)
    ]


def freeze_backbone(model: AttentionModel, settings: OptimizerSettings) -> None:
    """With `backbone_lr_factor: 0` the backbone gets no gradients; its batch norms are for `loop.set_training_mode`."""
    if settings.backbone_lr_factor == 0:
        for name, parameter in model.named_parameters():
            if name.startswith(model.backbone_prefix):
                parameter.requires_grad_(False)


def build_optimizer(model: AttentionModel, settings: OptimizerSettings) -> Optimizer:
    """timm's optimizer over `parameter_groups`; `sgd` is without Nesterov momentum, `amsgrad` a variant of Adam.

    One kernel updates all parameters where torch has one, which is for all but `lion`.
    """
    options: dict[str, Any] = {} if settings.name == "lion" else {"fused": True}
    if settings.name == "amsgrad":
        options["amsgrad"] = True
    if settings.name == "sgd":
        options["momentum"] = 0.9 if settings.momentum is None else settings.momentum
    optimizer: Optimizer = create_optimizer_v2(
        parameter_groups(model, settings),
        opt=_TIMM_NAMES[settings.name],
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        **options,
    )
    return optimizer


def build_schedule(
    settings: ScheduleSettings, optimizer: Optimizer, *, lr: float, epochs: int, updates_per_epoch: int
) -> Schedule:
    """timm's schedule, to be stepped by `step_update(n)` after n updates; it also sets the rate of the first update.

    `step` follows BR-NPA's StepLR, which its authors advance once before training: in epoch e (from 1) the rate is
    lr · step_factor^floor(e / step_epochs); with `milestones` it falls after these epochs instead. `cosine` falls from
    lr to lr · final_lr_factor over all updates. A warm-up rises linearly from one update's part of lr and replaces the
    start of the schedule. With `per_epoch` an epoch keeps the rate of its first update, and a warm-up starts from 1 %.
    """
    warmup_updates = settings.warmup_epochs * updates_per_epoch
    first = 0.01 if settings.per_epoch else 1 / max(1.0, warmup_updates)
    warmup: dict[str, Any] = {"warmup_epochs": settings.warmup_epochs, "warmup_lr": lr * first}
    options: dict[str, Any] = {"sched": "step", "decay_epochs": 1, "decay_rate": 1.0}  # constant, also in old timm
    if settings.name == "cosine":
        options = {"sched": "cosine", "min_lr": lr * settings.final_lr_factor}
    elif settings.name == "step":
        options = {
            "sched": "multistep",
            "decay_milestones": _step_milestones(settings, epochs, updates_per_epoch),
            "decay_rate": settings.step_factor,
        }
    schedule: Scheduler = create_scheduler_v2(
        optimizer,
        num_epochs=epochs,
        step_on_epochs=False,
        updates_per_epoch=updates_per_epoch,
        **options,
        **warmup,
    )[0]
    held: Schedule = HeldSchedule(schedule, updates_per_epoch) if settings.per_epoch else schedule
    held.step_update(0)
    return held


@dataclass(frozen=True)
class HeldSchedule:
    """A schedule whose rate changes between epochs alone."""

    schedule: Scheduler
    updates_per_epoch: int

    def step_update(self, num_updates: int) -> None:
        """Sets the rate that the epoch of the next update begins with, after so many updates."""
        self.schedule.step_update(num_updates - num_updates % self.updates_per_epoch)


def _step_milestones(settings: ScheduleSettings, epochs: int, updates_per_epoch: int) -> list[float]:
    """Where `step` falls, in epochs for timm: at the first update of the epochs with a lower rate.

    timm's milestone m holds from update m - 1 on; half an update keeps the comparison clear of rounding.
    """
    falling = [epoch + 1 for epoch in settings.milestones] or range(
        settings.step_epochs, epochs + 1, settings.step_epochs
    )
    return [epoch - 1 + 0.5 / updates_per_epoch for epoch in falling]


def build_run(trial: TrainingState) -> TrainingSetup:
    """Model, optimizer, schedule, loaders and teacher, ready for the first epoch.

    Raises:
        ConfigError, DataError: the device, the weights, the data or the teacher cannot be used.
    """
    config, tables = trial.config, trial.data.tables
    set_threads(config.runtime.n_threads)
    device = pick_device(config.runtime.device)
    seed_torch(config.seed, "weights")
    task, n_classes = build_task(config.task), len(tables.class_names)
    model = build_model(config.model, task.heads(n_classes))
    arithmetic = Arithmetic(
        device,
        pick_precision(config.train.precision, device),
        model.channels_last,
        sizes_vary=config.data.multi_scale is not None,
    )
    arithmetic.place_model(model)
    if config.runtime.compile:
        model.compile(mode="reduce-overhead" if device.type == "cuda" else "default")
    freeze_backbone(model, config.train.optimizer)
    optimizer = build_optimizer(model, config.train.optimizer)
    train, val = _open_loaders(trial, task, model)
    train.memory_format = val.memory_format = arithmetic.memory_format
    schedule = build_schedule(
        config.train.schedule,
        optimizer,
        lr=config.train.optimizer.lr,
        epochs=config.train.epochs,
        updates_per_epoch=len(train),
    )
    teacher = None
    if config.train.teacher is not None:
        teacher = load_teacher(config.train.teacher, tables, arithmetic)
    return TrainingSetup(config, task, model, arithmetic, optimizer, schedule, train, val, teacher, trial.ranks)


def _open_loaders(trial: TrainingState, task: Task, model: AttentionModel) -> tuple[BatchLoader, BatchLoader]:
    """The batches of training and of validation."""
    config, data = trial.config, trial.data.under(trial.config.data)
    device = pick_device(config.runtime.device)
    train = BatchLoader(
        data,
        "train",
        batch_size=config.train.batch_size,
        device=device,
        order=TrainingOrder(task.row_order, config.seed),
        with_masks=model.needs_masks,
    )
    val = BatchLoader(
        data,
        "val",
        batch_size=evaluation_batch_size(
            config.train.batch_size,
            accumulation=trial.accumulation,
            image_hw=config.data.image_hw,
            device=device,
        ),
        device=device,
        with_masks=model.needs_masks and data.tables.val.mask_paths is not None,
    )
    return train, val


def check_start(experiment: ExperimentConfig, tables: DataTables) -> None:
    """Checks teacher, warm start, batches, part masks and cameras before anything is trained.

    Raises:
        ConfigError: a checkpoint is missing or broken, or the backbone is another one.
        DataError: it knows images that this run validates on, the teacher has other classes, masks or cameras are
            missing, or there are fewer identities than a batch needs.
    """
    _check_batches(experiment, tables)
    _check_masks(experiment, tables)
    _check_cameras(experiment, tables)
    if (teacher := experiment.train.teacher) is not None:
        checkpoint = read_teacher(teacher, tables)
        _check_same_generator(experiment.data, checkpoint.config.data, checkpoint.path)
    _check_warm_start(experiment, tables)


def _check_batches(experiment: ExperimentConfig, tables: DataTables) -> None:
    """Makes the order of the first epoch, which the task refuses where the training split is too small for it."""
    task, batch_size = build_task(experiment.task), experiment.train.batch_size
    task.row_order(tables.train, batch_size=batch_size, seed=experiment.seed, epoch=1)


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


def _check_cameras(experiment: ExperimentConfig, tables: DataTables) -> None:
    n_known, names = experiment.model.n_known_cameras, tables.train.camera_names
    if n_known is None:
        return
    if tables.train.cameras is None:
        raise DataError(
            f"model.n_cameras {n_known} asks for the camera of each image, and {tables.root} names none; set it to null"
        )
    if len(names) > n_known:
        raise DataError(
            f"{tables.root} has {len(names)} cameras and the model {n_known}; set model.n_cameras={len(names)}"
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
