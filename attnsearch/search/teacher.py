"""Finds the teacher that an experiment names by its study."""

from __future__ import annotations

from pathlib import Path

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import LoadedStudy, load_study, with_settings
from attnsearch.errors import ConfigError
from attnsearch.search.session import storage_url
from attnsearch.search.space import corners
from attnsearch.search.study import best_trials, find_study
from attnsearch.search.trials import read_storage
from attnsearch.store.layout import ExperimentLayout, StudyLayout

KEY = "train.teacher.checkpoint"
PREFIX = "study:"


def resolve_teacher(experiment: ExperimentConfig, *, root: Path) -> ExperimentConfig:
    """The experiment with `study:NAME` replaced by the path of the kept checkpoint of that study's best trial.

    Of a study with several objectives it is the trial that the flat published files are of. The path becomes part of
    the settings, so that a run goes on with the teacher that it began with, or is refused.

    Args:
        root: the results folder.
    Raises:
        ConfigError: no such study in the experiment, no complete feasible trial, or its checkpoint is gone.
        StoreError: the database of that study cannot be read.
    """
    teacher = experiment.train.teacher
    if teacher is None or not teacher.checkpoint.startswith(PREFIX):
        return experiment
    shared = ExperimentLayout(root.absolute(), experiment.experiment)
    return with_settings(experiment, {KEY: str(_best_kept(shared, teacher.checkpoint.removeprefix(PREFIX)))})


def resolve_teacher_of(loaded: LoadedStudy, *, root: Path) -> LoadedStudy:
    """The study with the teacher of its experiment found.

    Raises:
        ConfigError, StoreError: as `resolve_teacher`; also where the space itself names a study.
    """
    named = [str(settings[KEY]) for _, settings in corners(loaded.study.space) if KEY in settings]
    for name in named:
        if name.startswith(PREFIX):
            raise ConfigError(f"space.{KEY}: an axis chooses between paths of kept.safetensors, got {name!r}")
    return LoadedStudy(loaded.study, resolve_teacher(loaded.experiment, root=root))


def _best_kept(shared: ExperimentLayout, name: str) -> Path:
    known = {layout.study: layout for layout in shared.studies() if layout.study_yaml.exists()}
    if name not in known:
        listed = ", ".join(sorted(known)) or "none"
        raise ConfigError(f"{KEY}: no study {name!r} in {shared.directory}; known: {listed}")
    best = _best_number(known[name])
    if best is None:
        raise ConfigError(f"{KEY}: study {name!r} has no complete trial that keeps its constraints; search it first")
    kept = known[name].trial(best).kept
    if not kept.exists():
        raise ConfigError(f"{KEY}: {kept} of the best trial of study {name!r} is gone; give the path of another one")
    return kept


def _best_number(layout: StudyLayout) -> int | None:
    loaded = load_study(str(layout.study_yaml))
    study = find_study(read_storage(storage_url(loaded, layout)), layout.study)
    best = [] if study is None else best_trials(study, loaded.study, k=1)
    return best[0].number if best else None
