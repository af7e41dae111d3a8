"""Starts a study from the finished trials of another one, over a space that holds all that they were trained with.

Optuna's samplers keep the limits of the trials that they learn from. So a space never grows in place: the trials are
imported into a new study, under its own distributions.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import optuna
from optuna.trial import FrozenTrial, TrialState

from attnsearch.config.load import LoadedStudy
from attnsearch.config.study import Parameter, Scalar
from attnsearch.errors import ConfigError
from attnsearch.files import atomic_write, disk_errors, is_temporary, make_folder
from attnsearch.search.brackets import BRACKET, PAUSED, PROMOTED, RUNG
from attnsearch.search.handle import StudyHandle
from attnsearch.search.plan import SearchPlan, study_file
from attnsearch.search.space import Settings, distribution, holds, is_active, range_text
from attnsearch.search.study import EXTENDS, IDENTITY, IMPORTED_FROM, RETURNED, UUID, changed_settings
from attnsearch.search.trials import open_to_read
from attnsearch.store.layout import StudyLayout
from attnsearch.store.study_files import write_classes
from attnsearch.store.trial_layout import TrialLayout
from attnsearch.store.trial_store import TrialRecords, open_trial_records

OWN_KEYS = {"name", "data.cache_px"}
"""What may differ between the studies; the size of the cached images follows from the space."""
OF_BRACKETS = (BRACKET, RUNG, PROMOTED, PAUSED, RETURNED)
"""User attributes that an imported trial loses: it is in no bracket and waits for nothing."""
IMPORTED = (TrialState.COMPLETE, TrialState.PRUNED)
"""A failed trial has no value that a sampler learns from, and its cause may be gone."""
MAX_SHOWN = 5


@dataclass(frozen=True)
class Extension:
    """A study that has the trials of another one.

    Attributes:
        source: the other study, as `EXPERIMENT/STUDY`.
        n_imported: trials that were imported, by an earlier call or this one.
        n_left: trials of the other study that were not, since they failed or had not ended.
    """

    plan: SearchPlan
    source: str
    n_imported: int
    n_left: int


@dataclass(frozen=True)
class Source:
    """The study whose trials are imported."""

    study: optuna.Study
    layout: StudyLayout

    @property
    def name(self) -> str:
        return f"{self.layout.experiment}/{self.layout.study}"

    @property
    def identity(self) -> Mapping[str, Any]:
        return cast(Mapping[str, Any], self.study.user_attrs.get(IDENTITY, {}))

    @property
    def uuid(self) -> str:
        return str(self.study.user_attrs.get(UUID, ""))


def extend_study(loaded: LoadedStudy, layout: StudyLayout, *, root: Path) -> Extension:
    """Makes a study with the complete and pruned trials of another one, which stays as it is.

    Nothing is run. A call that was cut off is continued by the next one.

    Args:
        loaded: the new study, of the same experiment as the other one.
        layout: of the other study, in the same database.
        root: the results folder.
    Raises:
        ConfigError: what the trials share differs, one was trained with a value outside of the new space, or the new
            study has trials of its own.
        StoreError: the other study is in another database, or the disk or the database refuses.
    """
    plan = SearchPlan.check(loaded, root)
    source = Source(open_to_read(plan.url, layout), layout)
    refuse_differences(source, plan)
    ended = source.study.get_trials(deepcopy=False, states=IMPORTED)
    settings = dict(zip([trial.number for trial in ended], moved_settings(source, ended, plan.loaded), strict=True))
    handle = plan.open(is_import=True)
    try:
        numbers = _begin(handle, source, ended)
        atomic_write(plan.layout.study_yaml, study_file(plan.loaded))
        write_classes(plan.layout.classes_csv, plan.tables.class_names)
        _import(handle, source, [(trial, settings[trial.number]) for trial in ended if trial.number in numbers])
    finally:
        handle.database.close()
    return Extension(plan, source.name, len(numbers), len(source.study.get_trials(deepcopy=False)) - len(numbers))


def refuse_differences(source: Source, plan: SearchPlan) -> None:
    """Checks that both studies differ in nothing but their name and space.

    Raises:
        ConfigError: base, objectives, monitor, constraints, scores, classes or validation split differ; one line each.
    """
    if plan.layout.study == source.layout.study:
        raise ConfigError(f"name: {plan.layout.study!r} is the study that is extended; choose another name=")
    lines = [
        f"  {key}: {source.name} has {_short(old)}, {plan.layout.study} has {_short(new)}"
        for key, old, new in changed_settings(source.identity, plan.identity)
        if key not in OWN_KEYS and not key.startswith("space.")
    ]
    if lines:
        head = f"{plan.layout.study} cannot take the trials of {source.name}, whose settings differ; write the same:"
        raise ConfigError("\n".join([head, *lines]))


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:97]}..."


def moved_settings(source: Source, trials: Sequence[FrozenTrial], loaded: LoadedStudy) -> list[Settings]:
    """The hyperparameters of trials in another space, where new ones have the value of the base.

    Raises:
        ConfigError: a hyperparameter is gone, or trials were trained with values that it cannot have; one line each.
    """
    base = loaded.experiment.model_dump(mode="json")
    moved = [_moved(trial.params, loaded, base) for trial in trials]
    problems = [
        f"space.{key}: is missing, and {source.name} has searched it; write it again"
        for key in source.identity.get("space", {})
        if key not in loaded.study.space
    ]
    pairs = list(zip(trials, moved, strict=True))
    problems += [line for key in loaded.study.space for line in _misfits(source, pairs, key, loaded.study.space[key])]
    if problems:
        raise ConfigError("\n".join(problems))
    return moved


def _misfits(
    source: Source, pairs: Sequence[tuple[FrozenTrial, Settings]], key: str, parameter: Parameter
) -> Iterator[str]:
    """A line where trials have values outside of a hyperparameter, and one where it does not exist for them.

    Args:
        pairs: trials, with their settings in the new space.
    """
    head = f"space.{key}: trials of {source.name} were trained with"
    found = [(settings[key], trial.number) for trial, settings in pairs if key in settings]
    if outside := [one for one in found if not holds(parameter, one[0])]:
        yield f"{head} {_listed(outside)}, which must lie in its range {range_text(parameter)}; widen it"
    if gone := [(trial.params[key], trial.number) for trial, new in pairs if key in trial.params and key not in new]:
        yield f"{head} {_listed(gone)}, where its `when` does not hold; widen that"


def _moved(params: Mapping[str, Any], loaded: LoadedStudy, base: Mapping[str, Any]) -> Settings:
    """One value for each hyperparameter whose condition holds: that of the trial, else that of the base."""
    settings: Settings = {}
    for key, parameter in loaded.study.space.items():
        if is_active(parameter, settings):
            settings[key] = params[key] if key in params else _base_value(base, key)
    return settings


def _base_value(base: Mapping[str, Any], key: str) -> Scalar:
    value: Any = base
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return cast(Scalar, value)


def _listed(found: Sequence[tuple[Any, int]]) -> str:
    """Values, each with the first trial that has it."""
    first: dict[Any, int] = {}
    for value, number in found:
        first.setdefault(str(value) if isinstance(value, list) else value, number)
    shown = [f"{value!r} (trial {number})" for value, number in list(first.items())[:MAX_SHOWN]]
    return ", ".join([*shown, *([f"{len(first) - MAX_SHOWN} more"] if len(first) > MAX_SHOWN else [])])


def _begin(handle: StudyHandle, source: Source, ended: Iterable[FrozenTrial]) -> set[int]:
    """Keeps which trials are to be imported, so that a call that is cut off can be continued.

    Returns:
        Their numbers in the other study, as they were when the first call began.
    """
    with handle.store.exclusive():
        stored = handle.study.user_attrs.get(EXTENDS)
        if stored is None:
            _refuse_begun(handle)
            stored = {"study": source.name, "uuid": source.uuid, "trials": [trial.number for trial in ended]}
            handle.study.set_user_attr(EXTENDS, stored)
    if stored["uuid"] != source.uuid:
        raise ConfigError(
            f"name: study {handle.layout.study!r} has the trials of {stored['study']}, not those of {source.name}; "
            "choose another name="
        )
    return set(stored["trials"])


def _refuse_begun(handle: StudyHandle) -> None:
    if handle.trials(*IMPORTED, TrialState.RUNNING, TrialState.FAIL):
        raise ConfigError(f"name: study {handle.layout.study!r} has trials of its own already; choose another name=")


def _import(handle: StudyHandle, source: Source, trials: Sequence[tuple[FrozenTrial, Settings]]) -> None:
    """Imports the trials that are missing, in their order."""
    records = open_trial_records(handle.database.url, source.uuid)
    scores = records.read_scores()
    for trial, settings in trials:
        name = f"{source.name}:{trial.number}"
        with handle.store.exclusive():
            known = handle.trials()
            if name in {one.user_attrs.get(IMPORTED_FROM) for one in known}:
                continue
            number = len(known)
            _copy_files(source.layout.trial(trial.number), handle.layout.trial(number))
            of_trial = scores[scores["trial"] == trial.number]
            handle.store.write_copy(number, records.read_epochs([trial.number]), of_trial)
            _copy_artifacts(handle, source, records, trial.number, number)
            handle.study.add_trial(_imported(handle, source, trial, settings, number))


def _imported(handle: StudyHandle, source: Source, trial: FrozenTrial, settings: Settings, number: int) -> FrozenTrial:
    """The trial as one of the new study."""
    config, space = handle.loaded.study, handle.loaded.study.space
    values = dict(zip(source.identity["objectives"], trial.values or (), strict=False))
    kept = {key: value for key, value in trial.user_attrs.items() if key not in OF_BRACKETS}
    folder = handle.layout.trial(number).directory.relative_to(handle.layout.root)
    copied = optuna.trial.create_trial(
        state=trial.state,
        values=[values[key] for key in config.objectives] if values else None,
        params=dict(settings),
        distributions={key: distribution(space[key]) for key in settings},
        user_attrs={**kept, "folder": str(folder), IMPORTED_FROM: f"{source.name}:{trial.number}"},
        system_attrs={key: value for key, value in trial.system_attrs.items() if key != "fixed_params"},
        intermediate_values=dict(trial.intermediate_values),
    )
    copied.datetime_start, copied.datetime_complete = trial.datetime_start, trial.datetime_complete
    return copied


def _copy_files(source: TrialLayout, target: TrialLayout) -> None:
    """Gives a trial the files of another one, without what only unfinished trials need.

    Each is a second name of the same file where the disk can do that, so that it takes no space and stays when the
    other study is deleted: no file of a finished trial is ever changed in its place.
    """
    with disk_errors(target.directory):
        shutil.rmtree(target.directory, ignore_errors=True)  # of a call that was cut off
        for path in (path for path in source.kept_files() if not is_temporary(path)):
            copy = target.directory / path.relative_to(source.directory)
            make_folder(copy.parent)
            try:
                os.link(path, copy)
            except FileNotFoundError:  # retention removes it just now
                continue
            except OSError:
                shutil.copyfile(path, copy)


def _copy_artifacts(handle: StudyHandle, source: Source, records: TrialRecords, old: int, new: int) -> None:
    """Lists the files of a trial as those of another one, with their checksums."""
    before, after = (
        layout.trial(number).directory.relative_to(layout.experiment_dir).as_posix()
        for layout, number in ((source.layout, old), (handle.layout, new))
    )
    files = records.read_artifacts([old]).get(old, {})
    moved = {kind: replace(file, path=file.path.replace(before, after, 1)) for kind, file in files.items()}
    handle.store.write_artifacts(new, moved, attempt=None)
