"""Builds all that one run works with, from its config."""

from __future__ import annotations

from attnsearch.data.loader import BatchLoader
from attnsearch.device import Arithmetic, evaluation_batch_size, pick_device, pick_precision, seed_torch, set_threads
from attnsearch.models import build_model
from attnsearch.training.loop import Run
from attnsearch.training.optim import build_optimizer, build_schedule, freeze_backbone
from attnsearch.training.teacher import load_teacher
from attnsearch.training.trial import Trial


def build_run(trial: Trial) -> Run:
    """Model, optimizer, schedule, loaders and teacher, ready for the first epoch.

    Raises:
        ConfigError, DataError: the device, the weights, the data or the teacher cannot be used.
    """
    config, tables = trial.config, trial.data.tables
    set_threads(config.runtime.n_threads)
    device = pick_device(config.runtime.device)
    seed_torch(config.seed, "weights")
    model = build_model(config.model, len(tables.class_names))
    arithmetic = Arithmetic(device, pick_precision(config.train.precision, device), model.channels_last)
    arithmetic.place_model(model)
    freeze_backbone(model, config.train.optimizer)
    optimizer = build_optimizer(model, config.train.optimizer)
    val_batch = evaluation_batch_size(config.train.batch_size // trial.accumulation)
    train = BatchLoader(
        trial.data,
        "train",
        config.data,
        batch_size=config.train.batch_size,
        device=device,
        training=True,
        seed=config.seed,
        with_masks=model.needs_masks,
    )
    val = BatchLoader(
        trial.data,
        "val",
        config.data,
        batch_size=val_batch,
        device=device,
        training=False,
        seed=config.seed,
        with_masks=model.needs_masks and tables.val.mask_paths is not None,
    )
    schedule = build_schedule(
        config.train.schedule,
        optimizer,
        lr=config.train.optimizer.lr,
        epochs=config.train.epochs,
        updates_per_epoch=len(train),
    )
    teacher = None
    if config.train.teacher is not None:
        teacher = load_teacher(
            config.train.teacher, class_names=tables.class_names, val_hash=tables.val_hash, arithmetic=arithmetic
        )
    return Run(config, model, len(tables.class_names), arithmetic, optimizer, schedule, train, val, teacher)
