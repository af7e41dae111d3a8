"""What `validate` does: all checks of a start, without the start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attnsearch.config.load import LoadedStudy, find_file, is_study, load_experiment, load_study, with_storage
from attnsearch.data import DataTables, build_tables
from attnsearch.search.handle import layout_of, storage_url
from attnsearch.search.space import extreme_settings


def check(name: str, *, profile: str | None, overrides: Sequence[str], root: Path, storage: str | None = None) -> str:
    """One line that says what was checked.

    Args:
        storage: from `--storage` or the environment.
    Raises:
        ConfigError, DataError, StoreError: every fault that a start would meet before its first trial.
    """
    from attnsearch.search.checkpoints import resolve_checkpoints  # these import torch
    from attnsearch.search.checks import check_models, check_scores_of_run
    from attnsearch.training.checks import check_start

    path = find_file(name, ("studies", "configs"))
    if is_study(path):
        loaded = with_storage(load_study(str(path), profile=profile, overrides=overrides), storage, overrides)
        return _check_study(path, loaded, root=root)
    experiment = load_experiment(str(path), profile=profile, overrides=overrides)
    experiment = resolve_checkpoints(experiment, root=root, storage=storage)
    tables = build_tables(experiment.data)
    check_start(experiment, tables)
    check_models([("base", experiment)], n_classes=len(tables.class_names), metrics=[experiment.monitor])
    check_scores_of_run(experiment, tables)
    return f"{path} is valid: {_describe(tables)}"


def _check_study(path: Path, loaded: LoadedStudy, *, root: Path) -> str:
    from attnsearch.search.run import check_study  # imports torch

    layout = layout_of(loaded, root=root)
    tables = check_study(loaded, layout, storage_url(loaded, layout))
    n_corners = len(list(extreme_settings(loaded.study.space)))
    n_axes, n_trials = len(loaded.study.space), loaded.study.n_trials
    return f"{path} is valid: {n_trials} trials over {n_axes} axes ({n_corners} corners checked), {_describe(tables)}"


def _describe(tables: DataTables) -> str:
    counts = ", ".join(f"{len(table)} {table.split}" for table in tables.present())
    return f"{len(tables.class_names)} classes, {counts} images"
