"""Optuna's storages for readers: one without copies, and one with the notes that optuna-dashboard shows."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from attnsearch.files import lies_in
from attnsearch.results.cache import FileCache, stamp_of
from attnsearch.store.layout import ExperimentLayout, StudyLayout
from attnsearch.store.urls import redact

_CONSTRAINTS = "constraints"
MAX_NOTES = 100
"""Best trials, and newest ones, that get a note: for each trial optuna-dashboard looks through all notes."""


class NoCopyStorage:
    """A storage that hands out its trials as they are: a reader needs no copy of each, which takes a second for 5,000.

    All other calls go to the storage behind.
    """

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(self, study_id: int, deepcopy: bool = True, states: Any = None) -> list[FrozenTrial]:
        """As the storage behind, without copies."""
        return self._storage.get_all_trials(study_id, deepcopy=False, states=states)


BaseStorage.register(NoCopyStorage)  # it answers all of a storage's calls through the one behind


class DashboardStorage:
    """A storage whose studies and trials have their YAML as notes, where nobody wrote another one.

    optuna-dashboard keeps notes among the system attributes of the study: `dashboard:<trial id>:note_str:0` and
    `note_ver`. All else goes to the storage behind.
    """

    def __init__(self, storage: BaseStorage, experiment: ExperimentLayout) -> None:
        self._storage = storage
        self._experiment = experiment
        self._notes: FileCache[str] = FileCache(4096)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_studies(self) -> list[Any]:
        """As the storage behind, with notes."""
        studies = [copy.copy(study) for study in self._storage.get_all_studies()]
        for study in studies:
            study.system_attrs = self._with_notes(study.study_name, study._study_id, study.system_attrs)
        return studies

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """As the storage behind, with notes."""
        attributes = self._storage.get_study_system_attrs(study_id)
        return self._with_notes(self._storage.get_study_name_from_id(study_id), study_id, attributes)

    def get_all_trials(self, *args: Any, **settings: Any) -> list[FrozenTrial]:
        """As the storage behind, with constraints where optuna-dashboard 0.21 looks for them.

        It reads the key of older Optunas, would call every trial feasible, and the best one the wrong one.
        """
        return [_with_constraints(trial) for trial in self._storage.get_all_trials(*args, **settings)]

    def _with_notes(self, name: str, study_id: int, attributes: dict[str, Any]) -> dict[str, Any]:
        layout = next((one for one in self._experiment.studies() if one.study == name), None)
        if layout is None:
            return attributes
        notes: dict[int | None, str] = {None: self._note(layout.study_yaml)}
        for trial in noted(
            self._storage.get_all_trials(study_id, deepcopy=False), is_minimized=self._is_minimized(study_id)
        ):
            notes[trial._trial_id] = self._note(layout.trial(trial.number).config, _explorer_link(layout, trial.number))
        found: dict[str, Any] = {}
        for trial_id, text in notes.items():
            prefix = "dashboard:" if trial_id is None else f"dashboard:{trial_id}:"
            if text and f"{prefix}note_ver" not in attributes:
                found |= {f"{prefix}note_ver": 1, f"{prefix}note_str:0": text}
        return {**attributes, **found}

    def _is_minimized(self, study_id: int) -> bool:
        """Whether less is better of the first objective."""
        return self._storage.get_study_directions(study_id)[0] == StudyDirection.MINIMIZE

    def _note(self, path: Path, above: str = "") -> str:
        """The file as a block of code; empty where it is missing, or a link out of the experiment."""
        is_there = lies_in(path, self._experiment.directory)
        return self._notes.get(path, stamp_of(path), lambda: above + _block(path)) if is_there else ""


def noted(trials: list[FrozenTrial], *, is_minimized: bool) -> list[FrozenTrial]:
    """All trials, or of many the best by the first objective and the newest."""
    if len(trials) <= 2 * MAX_NOTES:
        return trials
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.values]
    ranked = sorted(complete, key=lambda trial: trial.values[0], reverse=not is_minimized)
    chosen = {trial.number: trial for trial in [*ranked[:MAX_NOTES], *trials[-MAX_NOTES:]]}
    return list(chosen.values())


def _with_constraints(trial: FrozenTrial) -> FrozenTrial:
    if not trial.constraints or _CONSTRAINTS in trial.system_attrs:
        return trial
    copied = copy.copy(trial)
    copied.system_attrs = {**trial.system_attrs, _CONSTRAINTS: list(trial.constraints.values())}
    return copied


def _block(path: Path) -> str:
    text = redact(path.read_text(encoding="utf-8", errors="replace"))
    fence = "`" * 3
    while fence in text:
        fence += "`"
    return f"{fence}yaml\n{text}\n{fence}\n"


def _explorer_link(layout: StudyLayout, number: int) -> str:
    return f"[Images of this trial](/attention/trial/{layout.experiment}/{layout.study}/{number})\n\n"


BaseStorage.register(DashboardStorage)  # it answers all of a storage's calls through the one behind
