"""Finds best checkpoints, opens them for evaluation, imports those of other code and exports ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import with_overrides, without_variables
from attnsearch.errors import ConfigError
from attnsearch.results.names import is_file_name
from attnsearch.results.reader import find_study
from attnsearch.results.trial import TrialReader
from attnsearch.types import Split

if TYPE_CHECKING:
    from attnsearch.evaluation.evaluation import Evaluation
    from attnsearch.models.checkpoint import Family

_COMMAND_OF = {"classification": "confusion", "reid": "retrieval"}
"""Task -> the command that analyses what its models answer."""
_EPOCH = re.compile(r"_best_epoch(\d+)")


def find_trial(source: str, trial: int | None, root: Path, storage: str | None = None) -> TrialReader:
    """A trial of a study, by default its best one.

    Args:
        storage: as `load_results`.
    Raises:
        ConfigError: no such study, or none of its trials is complete.
    """
    study = find_study(source, root, storage=storage)
    return study.best if trial is None else study.existing_trial(trial)


def find_published(name: str, number: int | None, root: Path, storage: str | None = None) -> TrialReader:
    """A trial of a study; by default the published one, or the best.

    Args:
        storage: as `load_results`.
    Raises:
        ConfigError: no such study, or a run that has not ended.
    """
    study = find_study(name, root, storage=storage)
    if number is not None:
        return study.existing_trial(number)
    first = study.first_published()
    if first is not None:
        return study.trial(first["trial"])
    if study.is_plain_run:
        raise ConfigError(f"run {study.layout.study!r} has not ended; start it again, or name the trial with --trial 0")
    return study.best


def train_again(trial: TrialReader) -> str:
    """The command that trains a trial again as a run of its own, as it is written beside the folder `results`."""
    layout = replace(trial.study.layout, root=Path("results"))
    return f"attnsearch train {layout.trial(trial.number).config} name={layout.study}_again"


def require_task(task: str, config: ExperimentConfig, name: str) -> ExperimentConfig:
    """The settings of what was trained for a task.

    Raises:
        ConfigError: it was trained for another one; the message names the command for that.
    """
    if config.task.name != task:
        command = _COMMAND_OF.get(config.task.name, "evaluate")
        raise ConfigError(f"{name} is trained for {config.task.name}; use `attnsearch {command}`")
    return config


def find_checkpoint(source: str, trial: int | None, root: Path, storage: str | None = None) -> Path:
    """The checkpoint that a source names: itself, or that of a study's trial, by default the best one.

    Raises:
        ConfigError: no such study or trial, or one without a checkpoint.
    """
    return Path(source) if is_file_name(source) else find_trial(source, trial, root, storage).checkpoint


def open_evaluation(
    source: TrialReader | Path,
    split: Split,
    overrides: Iterable[str],
    *,
    settle: Callable[[ExperimentConfig], ExperimentConfig] = lambda config: config,
) -> Evaluation:
    """A checkpoint on its data set; an evaluation on the test split of a study is logged before it begins.

    Args:
        source: a trial, or a checkpoint file.
        overrides: `key=value` settings of the data and the machine that differ from those of the training.
        settle: changes the settings of the checkpoint, before the overrides.
    Raises:
        ConfigError: the checkpoint or a setting cannot be used.
        DataError: the data set cannot be used, or has no such split.
    """
    from attnsearch.data.loader import open_data  # these import torch
    from attnsearch.evaluation.evaluation import Evaluation
    from attnsearch.models.checkpoint import read_model_checkpoint

    stored = read_model_checkpoint(source if isinstance(source, Path) else source.checkpoint)
    config = with_overrides(settle(without_variables(stored.config)), overrides)
    data = open_data(config.data)
    data.tables.of(split)
    evaluation = Evaluation.open(stored, data, config=config)
    if isinstance(source, TrialReader) and split == "test":
        source.log_test_evaluation(stored.epoch)
    return evaluation


def describe_source(source: TrialReader | Path, evaluation: Evaluation, split: Split) -> str:
    """`br_npa_low_res, trial 3, epoch 7, 320 val images`."""
    name = source.name if isinstance(source, Path) else f"{source.study.layout.study}, trial {source.number}"
    return f"{name}, epoch {evaluation.checkpoint.epoch}, {len(evaluation.table(split))} {split} images"


def import_file(
    family: Family, path: Path, experiment: ExperimentConfig, *, classes: Path | None, held_out: bool, to: Path
) -> int:
    """Writes a foreign checkpoint as one of ours and returns its number of classes.

    Args:
        experiment: its model is the one to fill; its data gives the class names, unless `classes` does.
        classes: a text file, one name a line, in the order of the logits.
        held_out: whether the weights never saw the validation images of that data; recorded as their hash.
    Raises:
        ConfigError: the file, the config or the list of classes does not fit; the target exists.
        DataError: the data set cannot be used.
        StoreError: the disk refuses.
    """
    from attnsearch.data import build_tables  # these import torch
    from attnsearch.models.checkpoint import ModelCheckpoint, import_checkpoint, write_model_checkpoint
    from attnsearch.tasks.base import build_task

    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give the checkpoint that {family}'s code wrote")
    if to.exists():
        raise ConfigError(f"{to} exists already; choose another file with --to")
    tables = build_tables(experiment.data) if held_out or classes is None else None
    names = _read_names(classes) if classes is not None else tables.class_names if tables is not None else ()
    heads = build_task(experiment.task).heads(len(names))
    model = import_checkpoint(family, path, heads, experiment.model)
    epoch = _EPOCH.search(path.name)
    write_model_checkpoint(
        ModelCheckpoint(
            to,
            config=experiment,
            class_names=names,
            epoch=max(1, int(epoch[1])) if epoch else 1,
            accumulation=experiment.train.accumulation,
            val_hash=tables.val_hash if tables is not None and held_out else "",
            state=model.state_dict(),
        )
    )
    return len(names)


def export_file(checkpoint: Path, to: Path) -> None:
    """Writes the checkpoint of an INTR in its authors' layout.

    Raises:
        ConfigError: not a checkpoint of an INTR, or the target exists.
        StoreError: the disk refuses.
    """
    from attnsearch.models.checkpoint import export_intr, read_model_checkpoint  # these import torch
    from attnsearch.tasks.base import restore_model

    if to.exists():
        raise ConfigError(f"{to} exists already; choose another file")
    export_intr(restore_model(read_model_checkpoint(checkpoint)), to)


def _read_names(path: Path) -> tuple[str, ...]:
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--classes {path} cannot be read as UTF-8 text ({error}); one class name a line") from error
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"--classes {path} must hold at least two names, one a line, none twice; got {len(names)}")
    return names
