"""Searches and trainings that Python code starts; what they return reads the results."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from attnsearch.config.load import load_experiment, load_study, study_of_one, with_storage
from attnsearch.errors import ConfigError
from attnsearch.files import make_folder
from attnsearch.plugins import of_main
from attnsearch.results.reader import load_study as read_study

if TYPE_CHECKING:
    import pandas as pd

    from attnsearch.config.load import LoadedStudy
    from attnsearch.results.study import StudyReader
    from attnsearch.results.trial import TrialReader

Source = str | os.PathLike[str] | Mapping[str, Any]
"""A bare name, the path of a YAML file, or the settings themselves."""


def run_search(
    study: Source,
    *,
    profile: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    results: str | os.PathLike[str] = "results",
    workers: int | None = None,
    plugins: Sequence[str] = (),
    data: pd.DataFrame | None = None,
    storage: str | None = None,
) -> StudyReader:
    """Searches the hyperparameters of a study; called again, it continues where it stopped.

    Ctrl-C returns running trials to the queue.

    Args:
        study: a file of `studies/` by its bare name, a path, or the settings of a study.
        profile: a file of `configs/profiles/`, merged over the study, such as `demo`.
        overrides: settings of the study or its experiment by dotted key, such as `{"n_trials": 8}`.
        results: the folder of all results.
        workers: processes; 0 runs the trials in this one, None means as the study says, and 0 where this script or
            notebook has registered parts of its own, which no other process knows.
        plugins: modules with models, data sets or metrics, which worker processes import too.
        data: a table with the columns `path`, `label`, `split` and perhaps `mask`, in place of the study's data set.
        storage: URL of the database; None is that of the study, or the experiment's own file.
    Raises:
        AttnSearchError: what stopped the study.
    """

    def load(table: Mapping[str, str]) -> LoadedStudy:
        named = _assignments({**(overrides or {}), **table})
        loaded = load_study(_source(study), profile=profile, overrides=named, plugins=plugins)
        return with_storage(loaded, storage, named)

    return _run(load, data, Path(results), workers)


def run_training(
    config: Source,
    *,
    profile: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    results: str | os.PathLike[str] = "results",
    plugins: Sequence[str] = (),
    data: pd.DataFrame | None = None,
    storage: str | None = None,
) -> TrialReader:
    """Trains one experiment in this process, as a study of one trial; called again, it continues where it stopped.

    Args:
        config: a file of `configs/` by its bare name, a path, or the settings of an experiment.
        profile: a file of `configs/profiles/`, merged over the experiment, such as `demo`.
        overrides: settings by dotted key, such as `{"train.epochs": 20}`.
        results: the folder of all results.
        plugins: modules with models, data sets or metrics.
        data: a table with the columns `path`, `label`, `split` and perhaps `mask`, in place of the data set.
        storage: URL of the database; None is the experiment's own file.
    Raises:
        AttnSearchError: what ended the training.
    """

    def load(table: Mapping[str, str]) -> LoadedStudy:
        named = _assignments({**(overrides or {}), **table})
        experiment = load_experiment(_source(config), profile=profile, overrides=named, plugins=plugins)
        return study_of_one(experiment, storage=storage)

    return _run(load, data, Path(results), 0).trial(0)


Load = Callable[[Mapping[str, str]], "LoadedStudy"]
"""The study with the settings that read a table of images, or with none."""


def _run(load: Load, data: pd.DataFrame | None, root: Path, workers: int | None) -> StudyReader:
    from attnsearch.search.confirm import run_and_confirm  # imports torch

    loaded = load({}) if data is None else load(_stored_table(load, data, root, workers))
    n_workers = _checked_workers(workers)  # only now: loading imports the plugins, which other processes know too
    plan = run_and_confirm(loaded, root=root, n_workers=n_workers).plan
    return read_study(plan.layout.study_dir, storage=loaded.study.storage)


def _stored_table(load: Load, data: pd.DataFrame, root: Path, workers: int | None) -> dict[str, str]:
    """The settings that read a table of images from the study's folder, where it is written once all checks pass.

    A refused table therefore never replaces the one that an existing study uses.
    """
    from attnsearch.data.csv_table import write_table
    from attnsearch.search.plan import SearchPlan

    def settings(path: Path) -> dict[str, str]:
        return {"data.name": "csv", "data.root": str(path)}

    with TemporaryDirectory() as folder:
        write_table(data, Path(folder, "table"))
        layout = SearchPlan.check(load(settings(Path(folder, "table"))), root).layout
    _checked_workers(workers)
    make_folder(layout.study_dir)
    write_table(data, layout.data_csv)
    return settings(layout.data_csv)


def _checked_workers(workers: int | None) -> int | None:
    """The number of processes; 0 where parts are known to this process alone.

    Raises:
        ConfigError: processes are asked for that would not know a part.
    """
    own = of_main()
    if own and workers:
        raise ConfigError(
            f"workers must be 0, got {workers}: no other process knows {', '.join(own)}, which this script or notebook "
            "registers; put it into a module and name that in plugins"
        )
    return 0 if own else workers


def _source(source: Source) -> str | Mapping[str, Any]:
    return source if isinstance(source, Mapping) else os.fspath(source)


def _assignments(overrides: Mapping[str, Any]) -> list[str]:
    """Overrides as the command line writes them; JSON is YAML.

    Raises:
        ConfigError: a value that YAML cannot hold.
    """
    return [f"{key}={json.dumps(value, default=_plain, ensure_ascii=False)}" for key, value in overrides.items()]


def _plain(value: Any) -> Any:
    """A path or a value of numpy as JSON has it."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise ConfigError(f"an override must be text, a number, a list, a mapping or a path, got {value!r}")
