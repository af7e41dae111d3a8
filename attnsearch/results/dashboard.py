"""What optuna-dashboard is shown of an experiment: its storage with notes, and its artifacts."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from optuna.artifacts import FileSystemArtifactStore
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from attnsearch.files import FileCache, lies_in, stamp_of
from attnsearch.search.trials import is_own
from attnsearch.store.layout import ExperimentLayout
from attnsearch.store.urls import redact

_CONSTRAINTS = "constraints"
HIDDEN = frozenset({"scores", "folder", "ended_at", "monitor_curve", "brackets", "race"})
OWN = "attnsearch_"
"""What the names of a study's attributes begin with that only the package reads."""
TIMES = {"ended_at": "ended", "attnsearch_started_at": "started"}
"""Attribute -> the name under which it is shown, as a time."""
NOTE_LINES = 12
"""Of a file of settings, shown in a note."""
MAX_NOTES = 100
"""Best trials, and newest ones, that get a note: for each trial optuna-dashboard looks through all notes."""


class DashboardStorage:
    """A storage as optuna-dashboard should show it; what is stored stays as it is.

    Studies and trials have a note that links to the explorer, where nobody wrote another one. optuna-dashboard keeps
    notes among the system attributes of the study: `dashboard:<trial id>:note_str:0` and `note_ver`. Attributes that
    only the package reads are left out, times are readable, and steps count from 1, as epochs do everywhere else. All
    else goes to the storage behind.
    """

    def __init__(self, storage: BaseStorage, experiment: ExperimentLayout) -> None:
        self._storage, self._experiment = storage, experiment
        self._notes: FileCache[str] = FileCache(4096)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_studies(self) -> list[Any]:
        """As the storage behind, with notes."""
        studies = [copy.copy(study) for study in self._storage.get_all_studies()]
        for study in studies:
            study.system_attrs = self._with_notes(study.study_name, study._study_id, study.system_attrs)
            study.user_attrs = readable(study.user_attrs)
        return studies

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """As the storage behind, with notes."""
        attributes = self._storage.get_study_system_attrs(study_id)
        return self._with_notes(self._storage.get_study_name_from_id(study_id), study_id, attributes)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """As the storage behind, for people."""
        return readable(self._storage.get_study_user_attrs(study_id))

    def get_all_trials(self, *args: Any, **settings: Any) -> list[FrozenTrial]:
        """As the storage behind, for people, and with constraints where optuna-dashboard 0.21 looks for them.

        It reads the key of older Optunas, would call every trial feasible, and the best one the wrong one.
        """
        return [_shown(trial) for trial in self._storage.get_all_trials(*args, **settings)]

    def _with_notes(self, name: str, study_id: int, attributes: dict[str, Any]) -> dict[str, Any]:
        layout = next((layout for layout in self._experiment.studies() if layout.study == name), None)
        if layout is None or not is_own(self._storage.get_study_user_attrs(study_id), layout):
            return attributes  # a database that several experiments share may hold another one's study of this name
        notes: dict[int | None, str] = {None: self._note(layout.study_yaml, f"study/{layout.experiment}/{name}")}
        for trial in noted(
            self._storage.get_all_trials(study_id, deepcopy=False), is_minimized=self._is_minimized(study_id)
        ):
            page = f"trial/{layout.experiment}/{name}/{trial.number}"
            notes[trial._trial_id] = self._note(layout.trial(trial.number).config, page)
        added: dict[str, Any] = {}
        for trial_id, text in notes.items():
            prefix = "dashboard:" if trial_id is None else f"dashboard:{trial_id}:"
            if text and f"{prefix}note_ver" not in attributes:
                added |= {f"{prefix}note_ver": 1, f"{prefix}note_str:0": text}
        return {**attributes, **added}

    def _is_minimized(self, study_id: int) -> bool:
        """Whether less is better of the first objective."""
        return self._storage.get_study_directions(study_id)[0] == StudyDirection.MINIMIZE

    def _note(self, path: Path, page: str) -> str:
        """A link to a page of the explorer, and the first settings of a file; empty where the file is none of ours."""
        is_there = lies_in(path, self._experiment.directory)
        return self._notes.get(path, stamp_of(path), lambda: _note_of(path, page)) if is_there else ""


def artifact_store(experiment: ExperimentLayout) -> FileSystemArtifactStore | None:
    """The files that are attached to the trials of an experiment; None where there are none."""
    return FileSystemArtifactStore(experiment.artifacts) if experiment.artifacts.is_dir() else None


def noted(trials: list[FrozenTrial], *, is_minimized: bool) -> list[FrozenTrial]:
    """All trials, or of many the best by the first objective and the newest."""
    if len(trials) <= 2 * MAX_NOTES:
        return trials
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.values]
    ranked = sorted(complete, key=lambda trial: trial.values[0], reverse=not is_minimized)
    chosen = {trial.number: trial for trial in [*ranked[:MAX_NOTES], *trials[-MAX_NOTES:]]}
    return list(chosen.values())


def readable(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes without those that only the package reads; seconds since 1970 as a time."""
    shown = {key: value for key, value in attributes.items() if key not in HIDDEN and not key.startswith(OWN)}
    times = {name: attributes[key] for key, name in TIMES.items() if key in attributes}
    return {**shown, **{name: _time(value) for name, value in times.items()}}


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _shown(trial: FrozenTrial) -> FrozenTrial:
    """A copy for people, with constraints under the key of older Optunas."""
    copied = copy.copy(trial)
    copied.user_attrs = readable(trial.user_attrs)
    copied.intermediate_values = {step + 1: value for step, value in trial.intermediate_values.items()}
    if trial.constraints and _CONSTRAINTS not in trial.system_attrs:
        copied.system_attrs = {**trial.system_attrs, _CONSTRAINTS: list(trial.constraints.values())}
    return copied


def _note_of(path: Path, page: str) -> str:
    """Markdown: the link comes first, since optuna-dashboard shows the whole note."""
    lines = redact(path.read_text(encoding="utf-8", errors="replace")).splitlines()
    text, fence = "\n".join(lines[:NOTE_LINES]), "`" * 3
    while fence in text:
        fence += "`"
    more = f"\n{len(lines) - NOTE_LINES} more lines in `{path.name}`\n" if len(lines) > NOTE_LINES else ""
    link = f"[{page.split('/')[0].capitalize()} in the attention explorer](/attention/{page})"
    return f"{link}\n\n{fence}yaml\n{text}\n{fence}\n{more}"


BaseStorage.register(DashboardStorage)  # it answers all of a storage's calls through the one behind
