"""A search before its first trial: what it runs, where, and every check of a start, made once."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage

from attnsearch.config.experiment import STUDY_PREFIX, ExperimentConfig
from attnsearch.config.load import (
    LoadedStudy,
    load_experiment,
    load_study,
    resolved_study,
    study_of_one,
    with_settings,
)
from attnsearch.config.study import StudyConfig
from attnsearch.data import DataTables, build_tables, data_errors
from attnsearch.data.loader import DataSource, open_data
from attnsearch.errors import ConfigError
from attnsearch.files import make_folder
from attnsearch.search.handle import StudyHandle, create_handle, open_handle
from attnsearch.search.space import check_models, extreme_experiments, extreme_settings, needed_cache_px, warnings_of
from attnsearch.search.study import (
    changes,
    check_imported,
    check_unchanged,
    describe_difference,
    study_identity,
)
from attnsearch.search.trials import best_checkpoint, find_stored, open_stored
from attnsearch.store.layout import StudyLayout
from attnsearch.store.urls import redact, url_named
from attnsearch.training.setup import check_start

logger = logging.getLogger(__name__)

TEACHER, WEIGHTS = "train.teacher.checkpoint", "model.weights"
MACHINE_SETTINGS = ("data.root=", "runtime.")
"""How settings begin in which the machines of a study may differ."""


@dataclass(frozen=True)
class SearchPlan:
    """A study that passed the checks of a start.

    Attributes:
        experiment: what the trials start from, with its checkpoints found and the size of the cached images settled.
        url: the database.
        identity: what all trials of the study share, compared with that of the stored study.
        limits: (description, experiment) of the base and of each range limit of the space; empty in a worker.
        warnings: what to read before the first trial.
    """

    study: StudyConfig
    experiment: ExperimentConfig
    tables: DataTables
    layout: StudyLayout
    url: str
    identity: Mapping[str, Any]
    limits: tuple[tuple[str, ExperimentConfig], ...] = ()
    warnings: tuple[str, ...] = ()

    @classmethod
    def check(cls, loaded: LoadedStudy, root: Path) -> SearchPlan:
        """Checks a study against its database, data, models, device and metrics; writes nothing.

        Args:
            root: the results folder.
        Raises:
            ConfigError: a range limit of the space does not work, the package of a logger is missing, a study that a
                checkpoint is taken from is missing or has no complete trial, or the study exists with other settings.
            DataError: the data set cannot be used, or not with the teacher or the backbone that the trials start from.
            StoreError: the database is foreign, corrupt or newer.
        """
        layout = layout_of(loaded, root)
        url = url_named(loaded.study.storage, layout)
        storage = open_stored(url, patience_s=loaded.study.storage_patience_s)
        loaded = find_checkpoints(loaded, layout, storage)
        limits = extreme_experiments(loaded)
        tables = build_tables(loaded.experiment.data)
        logger.info("%d classes, %s images", len(tables.class_names), "/".join(str(len(t)) for t in tables.present()))
        for _, experiment in limits:
            check_start(experiment, tables)
        metrics = [*loaded.study.objectives, loaded.study.monitor, *loaded.study.constraints]
        check_models(limits, n_classes=len(tables.class_names), metrics=metrics)
        warnings = [*data_errors(loaded.experiment.data, tables), *warnings_of(loaded, tables)]
        loaded = _with_cache_size(loaded, limits)
        plan = replace(cls._of(loaded, tables, layout, url), limits=tuple(limits), warnings=tuple(warnings))
        plan._check_stored(storage)
        return plan

    @classmethod
    def reopen(cls, study_yaml: Path, *, storage: str | None, overrides: Sequence[str] = ()) -> SearchPlan:
        """The plan of a study that was begun, from its study.yaml, for a worker: nothing is checked or built again.

        Args:
            storage: the database as it was given; None is the one that the study names, else the experiment's own file.
            overrides: `key=value` settings of this machine.
        Raises:
            ConfigError: the file cannot be used, or a setting is not one of the machine.
            DataError: the data set cannot be used.
        """
        others = [text for text in overrides if not text.startswith(MACHINE_SETTINGS)]
        if others:
            raise ConfigError(
                f"{others[0]}: all workers of a study share its settings; only data.root and those of runtime may "
                "differ between machines"
            )
        loaded = load_study(str(study_yaml), overrides=overrides)
        layout = layout_of(loaded, study_yaml.absolute().parents[2])
        named = loaded.study.storage if storage is None else storage
        return cls._of(loaded, build_tables(loaded.experiment.data), layout, url_named(named or None, layout))

    @classmethod
    def of_one(cls, experiment: ExperimentConfig, tables: DataTables, root: Path) -> SearchPlan:
        """The plan of one trial, which is the experiment as it stands, in its own file; nothing is checked.

        Args:
            root: the results folder.
        """
        loaded = study_of_one(experiment)
        layout = layout_of(loaded, root)
        return cls._of(loaded, tables, layout, url_named(None, layout))

    @classmethod
    def _of(cls, loaded: LoadedStudy, tables: DataTables, layout: StudyLayout, url: str) -> SearchPlan:
        identity = study_identity(loaded, val_hash=tables.val_hash, class_names=tables.class_names)
        return cls(loaded.study, loaded.experiment, tables, layout, url, identity)

    @property
    def loaded(self) -> LoadedStudy:
        """The study with its experiment."""
        return LoadedStudy(self.study, self.experiment)

    def open_data(self, *, progress: bool = False) -> DataSource:
        """The data set with its cached pixels; the first time this decodes all images.

        Raises:
            DataError, StoreError: an image or the cache cannot be used.
        """
        return open_data(self.experiment.data, tables=self.tables, progress=progress)

    def open(self, *, is_import: bool = False) -> StudyHandle:
        """The study in its database, made where it is missing.

        Args:
            is_import: whether trials of another study are to be imported.
        Raises:
            ConfigError: it exists with other settings, or an import of trials was cut off.
            StoreError: folder or database cannot be written.
        """
        make_folder(self.layout.study_dir)
        handle = create_handle(self.loaded, self.layout, self.url, self.identity)
        if not is_import:
            check_imported(handle.study)
        return handle

    def join(self) -> StudyHandle:
        """The study that another process has begun, for one of its workers; nothing is made.

        Raises:
            ConfigError: it exists with other settings, or an import of trials was cut off.
            StoreError: there is none, or its database cannot be used.
        """
        handle = open_handle(self.loaded, self.layout, self.url)
        check_unchanged(handle.study, self.identity)
        check_imported(handle.study)
        return handle

    def machine_overrides(self) -> tuple[str, ...]:
        """The `key=value` settings in which this machine differs from the one that began the study.

        Raises:
            ConfigError: it was not begun, or another setting differs; the difference is printed.
        """
        path = self.layout.study_yaml
        if not path.exists():
            raise ConfigError(f"{path} does not exist: no study was begun there; leave --join out, or check --results")
        before, now = (_plain_settings(loaded) for loaded in (load_study(str(path)), self.loaded))
        found = {f"{key}={json.dumps(new)}": key for key, _, new in changes(before, now)}
        if any(not text.startswith(MACHINE_SETTINGS) for text in found):
            raise ConfigError(describe_difference(f"{path}: this study was begun with other settings", before, now))
        return tuple(found)

    def _check_stored(self, storage: BaseStorage | None) -> None:
        """Compares the plan with what its database and its folder hold already."""
        study = None if storage is None else find_stored(storage, self.url, self.study.name)
        if study is not None:
            check_unchanged(study, self.identity, self.layout)
        elif self.layout.trial(0).directory.exists():
            self._check_folder()

    def _check_folder(self) -> None:
        """A folder that the database does not know may be that of the same trial: one of `train` in version 0.1."""
        config = self.layout.trial(0).config
        if not self.study.is_fixed or not config.exists():
            raise ConfigError(
                f"{self.layout.study_dir} holds trials that this database does not know (of `train` in version 0.1, or "
                "of another storage); choose another name=, or move the folder away"
            )
        stored = load_experiment(str(config))
        if stored.digest() != self.experiment.digest():
            head = f"{config}: this training was started with other settings"
            raise ConfigError(describe_difference(head, stored.identity(), self.experiment.identity()))


def _plain_settings(loaded: LoadedStudy) -> dict[str, Any]:
    """All settings but those of how a study is run, as plain values."""
    study = loaded.study.model_dump(mode="json", exclude={"base", "overrides", "storage", "n_workers"})
    return {**loaded.experiment.model_dump(mode="json"), "study": study}


def layout_of(loaded: LoadedStudy, root: Path) -> StudyLayout:
    """Where the files of a study lie.

    Args:
        root: the results folder.
    """
    return StudyLayout(root.absolute(), loaded.experiment.experiment, loaded.study.name)


def study_file(loaded: LoadedStudy) -> str:
    """The resolved study as YAML; user name and password of its storage stay out, names of $VARIABLES stay."""
    storage = loaded.study.storage
    shown = redact(storage) if storage else None
    return resolved_study(replace(loaded, study=loaded.study.model_copy(update={"storage": shown})))


def _with_cache_size(loaded: LoadedStudy, limits: list[tuple[str, ExperimentConfig]]) -> LoadedStudy:
    """The study with the one setting that its whole space decides, the size of the cached images.

    A cache of any size that valid settings need is a valid one, so nothing is validated again. Fixed and
    repeated trials keep their settings as they are.
    """
    if loaded.study.is_fixed or loaded.study.repeats:
        return loaded
    cache_px = needed_cache_px(loaded.study.space, limits)
    data = loaded.experiment.data.model_copy(update={"cache_px": cache_px})
    return replace(loaded, experiment=loaded.experiment.model_copy(update={"data": data}))


def find_checkpoints(loaded: LoadedStudy, layout: StudyLayout, storage: BaseStorage | None) -> LoadedStudy:
    """The study with each `study:NAME` replaced by the path of the best checkpoint of that study's best trial.

    Of a study with several objectives it is the trial that the flat published files are of. The path becomes part of
    the settings, so that a trial continues from what it began with, or is refused.

    Args:
        storage: the database of the plan; None where it is new.
    Raises:
        ConfigError: no such study in the experiment, no complete feasible trial, or its checkpoint is gone; also where
            the space itself names a study.
        StoreError: that study keeps its trials in another database.
    """
    for _, settings in extreme_settings(loaded.study.space):
        for key in (TEACHER, WEIGHTS):
            if str(settings.get(key, "")).startswith(STUDY_PREFIX):
                raise ConfigError(f"space.{key}: must choose between paths of files, got {settings[key]!r}")
    paths = {
        key: str(best_checkpoint(key, name, layout, storage, has_named_storage=loaded.study.storage is not None))
        for key, name in _references(loaded.experiment)
    }
    return replace(loaded, experiment=with_settings(loaded.experiment, paths)) if paths else loaded


def _references(experiment: ExperimentConfig) -> Iterator[tuple[str, str]]:
    """(key of the setting, name of the study)."""
    teacher = experiment.train.teacher
    for key, value in ((TEACHER, teacher.checkpoint if teacher else ""), (WEIGHTS, experiment.model.weights)):
        if value.startswith(STUDY_PREFIX):
            yield key, value.removeprefix(STUDY_PREFIX)
