"""After the last trial: those that are not surely beaten are scored on all archived images before one is chosen.

A search measures few images of each trial, which ranks them well and cannot separate the best ones. The others are not
worth more images. What is found is a `Race`, an attribute of the study.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from attnsearch.config.load import load_experiment
from attnsearch.data.loader import DataSource
from attnsearch.data.tables import places_of
from attnsearch.evaluation.evaluation import Evaluation
from attnsearch.files import atomic_path, disk_errors
from attnsearch.metrics.racing import contenders
from attnsearch.metrics.registry import find_metric, higher_is_better, is_score, leading_metric
from attnsearch.search.choice import RACE, Race, current_ties, is_feasible, stored_race
from attnsearch.search.handle import StudyHandle
from attnsearch.store.archive import read_archive
from attnsearch.store.image_scores import ScoreTable, best_scores, has_scores, read_scores, remove_journal
from attnsearch.store.retrieval import n_explained
from attnsearch.store.trial_layout import TrialLayout

logger = logging.getLogger(__name__)

MAX_IMAGES = 500
"""That a race scores of a trial, or all where fewer are archived."""


@dataclass(frozen=True, eq=False)
class _Entry:
    """A trial in a race, with the scores of its images."""

    trial: FrozenTrial
    files: TrialLayout
    table: ScoreTable

    @property
    def number(self) -> int:
        return self.trial.number


def race(handle: StudyHandle, data: DataSource, *, check: Callable[[], None] = lambda: None) -> Race | None:
    """Scores the trials that are not surely beaten on all archived images, and keeps which of them still are not.

    What was scored already is read, so a race that was cut off continues, and one that no trial has ended after is not
    repeated. The measured images of all trials, which a
    race continues from, are removed at its end.

    Args:
        check: called between chunks of images.
    Returns:
        None where no objective is a score of single images, or fewer than two trials have it; also where trials of
        another study are repeated, among which nothing is chosen.
    Raises:
        AttnSearchError: a checkpoint or the data cannot be used, or the disk refuses.
    """
    found = stored_race(handle.study) if current_ties(handle.study) else _race_anew(handle, data, check)
    for trial in handle.trials():
        for is_refined in (False, True):
            remove_journal(handle.layout.trial(trial.number).scores("val", is_refined=is_refined))
    return found


def _race_anew(handle: StudyHandle, data: DataSource, check: Callable[[], None]) -> Race | None:
    keys = [] if handle.loaded.study.repeats else _scored_objectives(handle)
    entries = _entries(handle, [key.partition("/")[2] for key in keys]) if keys else []
    return _run(handle, data, entries, keys, check) if len(entries) > 1 else None


def _run(
    handle: StudyHandle, data: DataSource, entries: list[_Entry], keys: Sequence[str], check: Callable[[], None]
) -> Race:
    remaining = _contending(handle, entries, keys)
    raised = [_raised(one, data, check) for one in remaining] if len(remaining) > 1 else []
    if raised:
        logger.info("scored %d trials that are not surely beaten on all archived images", len(raised))
    remaining = _contending(handle, raised or remaining, keys)
    ordered = sorted(remaining, key=lambda one: _rank(handle, one))
    n_complete = sum(trial.state == TrialState.COMPLETE for trial in handle.trials())
    result = Race(
        n_images=len(_shared_ids(raised or remaining)),
        n_complete=n_complete,
        scores={one.number: {f"val/{name}": mean for name, mean in one.table.trial_means().items()} for one in raised},
        ties=tuple(one.number for one in ordered),
    )
    handle.study.set_user_attr(RACE, result.as_attribute())
    return result


def _scored_objectives(handle: StudyHandle) -> list[str]:
    """The objectives that have a value of each image."""
    keys = [key for key in handle.loaded.study.objectives if is_score(key.partition("/")[2])]
    return [key for key in keys if find_metric(key.partition("/")[2]).when == "image"]


def _entries(handle: StudyHandle, names: Sequence[str]) -> list[_Entry]:
    """The complete feasible trials whose scores lie on the disk, all measured alike."""
    entries = []
    for trial in handle.trials():
        files = handle.layout.trial(trial.number)
        if trial.state == TrialState.COMPLETE and is_feasible(trial) and has_scores(files.scores("val")):
            table = read_scores(files.scores("val"))
            if all(name in table.values for name in names):
                entries.append(_Entry(trial, files, table))
    expected = handle.loaded.experiment.evaluation.scores.identity()
    return [one for one in entries if one.table.about["settings"] == expected]


def _contending(handle: StudyHandle, entries: Sequence[_Entry], keys: Sequence[str]) -> list[_Entry]:
    """Those of some trials that none of them surely beats on the images that all were scored on."""
    objectives = handle.loaded.study.objectives
    signs = {key: 1.0 if direction == "maximize" else -1.0 for key, direction in objectives.items()}
    ids = _shared_ids(entries)
    scores = np.stack([[signs[key] * _column(one, key, ids) for one in entries] for key in keys])  # (S, M, N)
    places = [place for place, key in enumerate(objectives) if key not in keys]
    signed = np.array([list(signs.values())])  # (1, objectives)
    others = (signed * np.array([one.trial.values for one in entries]))[:, places].T  # (F, M)
    return [one for one, is_in in zip(entries, contenders(scores, others), strict=True) if is_in]


def _shared_ids(entries: Sequence[_Entry]) -> tuple[str, ...]:
    """The images that all trials were scored on: those of the trial with the fewest, see `fixed_subset`."""
    return min((one.table.image_ids for one in entries), key=len)


def _column(entry: _Entry, key: str, ids: tuple[str, ...]) -> NDArray[np.float64]:
    """The values (N,) of a score in the order of some images."""
    column = entry.table.defined_values()[key.partition("/")[2]]
    return column[places_of(ids, entry.table.image_ids)]


def _raised(entry: _Entry, data: DataSource, check: Callable[[], None]) -> _Entry:
    """With the scores of all archived images, up to `MAX_IMAGES`, or those that are there where its maps are gone."""
    archive, files = entry.files.archive("val"), entry.files
    if not archive.saliency.exists() or not files.best.exists():
        return replace(entry, table=read_scores(best_scores(files, "val") or files.scores("val")))
    n_images = min(n_explained(read_archive(archive)), MAX_IMAGES)
    if n_images <= len(entry.table.image_ids):
        return entry
    paths = files.scores("val", is_refined=True)
    _continue_from(files)
    config = load_experiment(str(files.config))
    settings = config.evaluation.scores.model_copy(update={"n_images": n_images})
    with Evaluation.open(files.best, data.serving(config.data), config=config) as evaluation:
        table = evaluation.score(archive, paths, settings=settings, check=check)
    return replace(entry, table=table)


def _continue_from(files: TrialLayout) -> None:
    """Starts the journal of a race with the images that the search has measured."""
    measured, journal = files.scores("val").journal, files.scores("val", is_refined=True).journal
    with disk_errors(journal):
        if measured.exists() and not journal.exists():
            with atomic_path(journal) as temporary:
                shutil.copyfile(measured, temporary)


def _rank(handle: StudyHandle, entry: _Entry) -> tuple[float, int]:
    """Of trials that are tied the more accurate one comes first, then the first one."""
    metrics: Mapping[str, float] = entry.trial.user_attrs
    key = f"val/{leading_metric({name.removeprefix('val/') for name in metrics})}"
    sign = 1.0 if higher_is_better(key) else -1.0
    return -sign * float(metrics.get(key, 0.0)), entry.number
