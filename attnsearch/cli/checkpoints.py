"""What the verbs on checkpoints do: finding a kept one, importing a foreign one, handing one out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from attnsearch.cli.found import find_run, open_study
from attnsearch.config.experiment import ExperimentConfig
from attnsearch.errors import ConfigError
from attnsearch.search.study import best_trials
from attnsearch.store.layout import StudyLayout

if TYPE_CHECKING:
    from attnsearch.models.convert import Family

_EPOCH = re.compile(r"_best_epoch(\d+)")


def is_file_name(source: str) -> bool:
    """Whether a source names a checkpoint file rather than a study."""
    return source.endswith(".safetensors")


def kept_file(source: str, trial: int | None, root: Path, storage: str | None) -> Path:
    """The kept checkpoint that a source names: itself, or that of a study's trial.

    Args:
        trial: of the study; None is the best one.
        storage: as `reader_url`.
    Raises:
        ConfigError: no such study or trial, or one without a kept checkpoint.
    """
    if is_file_name(source):
        return Path(source)
    layout = find_run(source, root)
    return kept_of(layout, best_number(layout, storage) if trial is None else trial)


def kept_of(layout: StudyLayout, number: int) -> Path:
    """The kept checkpoint of a trial.

    Raises:
        ConfigError: it has none.
    """
    kept = layout.trial(number).kept
    if not kept.is_file():
        raise ConfigError(f"trial {number} of study {layout.study!r} has no kept checkpoint ({kept}); `show` lists all")
    return kept


def best_number(layout: StudyLayout, storage: str | None) -> int:
    """The best trial of a study; the one trial of a run of `attnsearch train`.

    Raises:
        ConfigError: none is complete.
    """
    if not layout.study_yaml.exists():
        return 0
    session = open_study(layout, storage)
    best = best_trials(session.study, session.loaded.study, k=1)
    if not best:
        raise ConfigError(f"study {layout.study!r} has no complete trial yet; name one with --trial")
    return best[0].number


def import_file(
    family: Family, path: Path, experiment: ExperimentConfig, *, classes: Path | None, held_out: bool, to: Path
) -> int:
    """Writes a foreign checkpoint as a kept one and returns its number of classes.

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
    from attnsearch.models import build_model
    from attnsearch.models.checkpoint import write_model_checkpoint
    from attnsearch.models.convert import import_checkpoint
    from attnsearch.models.weights import load_into
    from attnsearch.tasks.base import build_task

    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give the checkpoint that {family}'s code wrote")
    if to.exists():
        raise ConfigError(f"{to} exists already; choose another file with --to")
    tables = build_tables(experiment.data) if held_out or classes is None else None
    names = _read_names(classes) if classes is not None else tables.class_names if tables is not None else ()
    heads = build_task(experiment.task).heads(len(names))
    state = import_checkpoint(family, path, heads, experiment.model)
    model = build_model(experiment.model, heads, load_weights=False)
    load_into(model, state, str(path))
    epoch = _EPOCH.search(path.name)
    write_model_checkpoint(
        to,
        model,
        config=experiment,
        class_names=names,
        epoch=max(1, int(epoch[1])) if epoch else 1,
        accumulation=experiment.train.accumulation,
        val_hash=tables.val_hash if tables is not None and held_out else "",
    )
    return len(names)


def export_file(kept: Path, to: Path) -> None:
    """Writes a kept INTR in its authors' layout.

    Raises:
        ConfigError: not a checkpoint of an INTR, or the target exists.
        StoreError: the disk refuses.
    """
    from attnsearch.models.checkpoint import read_model_checkpoint
    from attnsearch.models.convert import export_intr  # these import torch
    from attnsearch.tasks.base import restore_model

    if to.exists():
        raise ConfigError(f"{to} exists already; choose another file")
    export_intr(restore_model(read_model_checkpoint(kept)), to)


def _read_names(path: Path) -> tuple[str, ...]:
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--classes {path} cannot be read as UTF-8 text ({error}); one class name a line") from error
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"--classes {path} must hold at least two names, one a line, none twice; got {len(names)}")
    return names
