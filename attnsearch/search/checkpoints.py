"""Finds the checkpoints that an experiment names by their study: of its teacher, and of the backbone it starts from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import LoadedStudy, load_stored_study, with_settings
from attnsearch.errors import ConfigError
from attnsearch.search.space import extreme_settings
from attnsearch.search.study import best_trials, find_optuna_study
from attnsearch.search.trials import read_storage, reader_url
from attnsearch.store.layout import ExperimentLayout, StudyLayout

TEACHER, WEIGHTS = "train.teacher.checkpoint", "model.weights"
PREFIX = "study:"


def resolve_checkpoints(experiment: ExperimentConfig, *, root: Path, storage: str | None = None) -> ExperimentConfig:
    """The experiment with each `study:NAME` replaced by the path of the kept checkpoint of that study's best trial.

    Of a study with several objectives it is the trial that the flat published files are of. The path becomes part of
    the settings, so that a run goes on from what it began with, or is refused.

    Args:
        root: the results folder.
        storage: the database that a person named for this start; None is the experiment's own file.
    Raises:
        ConfigError: no such study in the experiment, no complete feasible trial, or its checkpoint is gone.
        StoreError: the database of that study cannot be read.
    """
    shared = ExperimentLayout(root.absolute(), experiment.experiment)
    found = {key: str(_best_kept(key, shared, name, storage)) for key, name in _named_studies(experiment)}
    return with_settings(experiment, found) if found else experiment


def resolve_checkpoints_of(loaded: LoadedStudy, *, root: Path) -> LoadedStudy:
    """The study with the checkpoints of its experiment found.

    Raises:
        ConfigError, StoreError: as `resolve_checkpoints`; also where the space itself names a study.
    """
    for _, settings in extreme_settings(loaded.study.space):
        for key in (TEACHER, WEIGHTS):
            if str(settings.get(key, "")).startswith(PREFIX):
                raise ConfigError(f"space.{key}: an axis chooses between paths of files, got {settings[key]!r}")
    return LoadedStudy(loaded.study, resolve_checkpoints(loaded.experiment, root=root, storage=loaded.study.storage))


def _named_studies(experiment: ExperimentConfig) -> Iterator[tuple[str, str]]:
    """(key of the setting, name of the study)."""
    teacher = experiment.train.teacher
    for key, value in ((TEACHER, teacher.checkpoint if teacher else ""), (WEIGHTS, experiment.model.weights)):
        if value.startswith(PREFIX):
            yield key, value.removeprefix(PREFIX)


def _best_kept(key: str, shared: ExperimentLayout, name: str, storage: str | None) -> Path:
    known = {layout.study: layout for layout in shared.studies() if layout.study_yaml.exists()}
    if name not in known:
        listed = ", ".join(sorted(known)) or "none"
        raise ConfigError(
            f"{key}: no study {name!r} in {shared.directory}; run `attnsearch search {name}` first, or name one of "
            f"those that are there; known: {listed}"
        )
    best = _best_number(known[name], storage)
    if best is None:
        raise ConfigError(f"{key}: study {name!r} has no complete trial that keeps its constraints; search it first")
    kept = known[name].trial(best).kept
    if not kept.exists():
        raise ConfigError(f"{key}: {kept} of the best trial of study {name!r} is gone; give the path of another one")
    return kept


def _best_number(layout: StudyLayout, storage: str | None) -> int | None:
    loaded = load_stored_study(layout.study_yaml)
    study = find_optuna_study(read_storage(reader_url(layout, storage)), layout.study)
    best = [] if study is None else best_trials(study, loaded.study, k=1)
    return best[0].number if best else None
