"""Repeats the best trials of a search with fresh seeds, and says whether the winner still wins.

The repetitions are the trials of a study of their own, in the same experiment and database: workers, leases and
resuming are those of any search. Only validation metrics are compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from attnsearch.config.load import LoadedStudy, load_stored_settings, with_settings
from attnsearch.config.study import Confirm, StudyConfig
from attnsearch.config.validation import validate
from attnsearch.config.yaml_layers import Layer
from attnsearch.errors import ConfigError
from attnsearch.metrics.registry import better_direction
from attnsearch.metrics.statistics import ALPHA, Floats, separation
from attnsearch.search.choice import best_trials
from attnsearch.search.run import SearchOutcome, run_study, standing_by
from attnsearch.search.study import OF_TRIAL
from attnsearch.search.trials import TrialRow, open_to_read, rows_of
from attnsearch.store.layout import StudyLayout
from attnsearch.store.study_files import Confirmation, ConfirmedMetric, ConfirmedTrial, Verdict, write_confirmation
from attnsearch.store.urls import url_named

EXPLANATION = "val/relevance_gain"
"""The score of maps that is compared wherever it was measured, also where it is no objective."""
Run = Callable[[LoadedStudy], SearchOutcome]
"""`run_study` with all but the study."""


def run_and_confirm(
    loaded: LoadedStudy, *, n_workers: int | None = None, is_fresh: bool = False, join: bool = False, **settings: Any
) -> SearchOutcome:
    """A search, and the confirmation that its settings ask for, once it has ended and its best trial is published.

    What is published stays: the repetitions choose nothing, they say how much the choice of the search is worth.

    Args:
        n_workers: as for `run_study`.
        is_fresh: whether this process has done nothing but import, so that workers can be copies of it.
        join: as for `run_study`; the machine that began the study confirms it.
        settings: others of `run_study`.
    """

    def run(study: LoadedStudy) -> SearchOutcome:
        return run_study(study, n_workers=n_workers, **settings)

    with standing_by(loaded, n_workers) if is_fresh else nullcontext():
        ended = run_study(loaded, n_workers=n_workers, join=join, **settings)
    asked = loaded.study.confirm
    if asked is None or join or ended.outcome != "finished":
        return ended
    return replace(ended, outcome=confirm_study(ended.plan.loaded, ended.plan.layout, asked, run).outcome)


def asked_or_begun(source: StudyConfig, layout: StudyLayout, name: str | None, **asked: int | None) -> Confirm:
    """How many trials and seeds: as asked for, else as a confirmation was begun, else as the study says.

    Args:
        name: of the study with the repetitions; None is the usual one.
        asked: `top` and `seeds`.
    """
    stored = _begun(layout, name or linked_name(source))
    usual = source.confirm or Confirm()
    if stored is not None and stored.repeats is not None:
        n_trials = len(stored.repeats.trials)
        usual = Confirm(top=max(2, n_trials), seeds=max(2, stored.n_trials // n_trials))
    values = {key: value for key, value in asked.items() if value is not None}
    return validate(Confirm, Layer({**usual.model_dump(), **values}))


def confirm_study(
    source: LoadedStudy, layout: StudyLayout, asked: Confirm, run: Run, *, name: str | None = None
) -> SearchOutcome:
    """Trains the best trials of a search again, and writes the verdict into its folder; called again, it continues.

    Args:
        source: as it was searched, with the URL of its database.
        layout: of its files.
        name: of the study with the repetitions; None is the usual one.
    Raises:
        ConfigError: fewer than two complete trials, or repetitions of other trials were begun under this name.
        AttnSearchError: what stopped the study.
    """
    study = open_to_read(url_named(source.study.storage, layout), layout)
    best = best_trials(study, source.study, k=asked.top)[: asked.top]
    if len(best) < 2:
        raise ConfigError(
            f"study {source.study.name!r}: a confirmation compares two complete trials at least, got {len(best)}"
        )
    linked = linked_study(source, best, n_seeds=asked.seeds, name=name or linked_name(source.study))
    _refuse_others(layout, linked.study)
    ended = run(linked)
    if ended.outcome == "finished":
        repeated = open_to_read(ended.plan.url, ended.plan.layout)
        rows = {trial.number: trial for trial in rows_of(study, ended.plan.url).trials}
        searched = [rows[trial.number] for trial in best]
        found = compare_repeats(linked.study, searched, rows_of(repeated, ended.plan.url).trials)
        write_confirmation(layout, found)
    return ended


def linked_name(study: StudyConfig) -> str:
    """The usual name of the study with the repetitions."""
    return f"{study.name}_confirm"


def linked_study(source: LoadedStudy, best: Sequence[FrozenTrial], *, n_seeds: int, name: str) -> LoadedStudy:
    """The study that trains some trials of another one again, in full, each with as many seeds."""
    values = source.study.model_dump(mode="json") | {
        "name": name,
        "base": source.experiment.model_dump(mode="json"),
        "overrides": {},
        "space": {},
        "enqueue": [],
        "pruner": None,
        "patience": None,
        "confirm": None,
        "n_trials": n_seeds * len(best),
        "sampler": {
            "name": "repeat",
            "trials": [trial.number for trial in best],
            "settings": [dict(trial.params) for trial in best],
        },
    }
    return LoadedStudy(validate(StudyConfig, Layer(values)), with_settings(source.experiment, {"name": name}))


def _begun(layout: StudyLayout, name: str) -> StudyConfig | None:
    """The settings of the repetitions of this name, where they were begun."""
    path = StudyLayout(layout.root, layout.experiment, name).study_yaml
    return load_stored_settings(path) if path.exists() else None


def _refuse_others(layout: StudyLayout, linked: StudyConfig) -> None:
    """Raises ConfigError where repetitions of this name were begun, and of other trials."""
    stored = _begun(layout, linked.name)
    assert linked.repeats is not None
    if stored is None or (stored.repeats is not None and stored.repeats.trials == linked.repeats.trials):
        return
    before = "no repetitions" if stored.repeats is None else f"repetitions of {_listed(stored.repeats.trials)}"
    raise ConfigError(
        f"study {linked.name!r} holds {before}, and the best trials are {_listed(linked.repeats.trials)} now; choose "
        "another --name"
    )


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def compare_repeats(linked: StudyConfig, searched: Sequence[TrialRow], repeats: Sequence[TrialRow]) -> Confirmation:
    """The verdict in each objective, in the monitor, and in the score of the maps where it was measured.

    Args:
        linked: of the repetitions.
        searched: the trials of the search that are repeated, the published one first.
        repeats: the trials of the study with the repetitions.
    """
    keys = [key for key in dict.fromkeys([*linked.objectives, linked.monitor, EXPLANATION]) if _is_known(key, searched)]
    complete = [trial for trial in repeats if trial.state == "complete"]
    metrics = tuple(_compared(key, linked.objectives, searched, complete) for key in keys)
    return Confirmation(study=linked.name, n_seeds=linked.n_trials // len(searched), metrics=metrics)


def _is_known(key: str, searched: Sequence[TrialRow]) -> bool:
    return all(math.isfinite(trial.metrics.get(key, math.nan)) for trial in searched)


def _compared(
    key: str, objectives: Mapping[str, str], searched: Sequence[TrialRow], repeats: Sequence[TrialRow]
) -> ConfirmedMetric:
    """The verdict in one metric: the winner is the trial that the search chose by it, or measured as the best in it.

    Where the one objective leaves ties, the search has chosen among them, see `search/choice.py`.
    """
    is_higher = objectives.get(key, better_direction(key, "maximize")) == "maximize"
    sign = -1.0 if is_higher else 1.0
    ordered = sorted(searched, key=lambda trial: sign * trial.metrics[key])  # of equal ones the search's first
    if list(objectives) == [key]:
        ordered = list(searched)
    groups = [_values_of(trial.number, key, repeats) for trial in ordered]
    found = separation(groups, higher_is_better=is_higher)
    trials = tuple(
        ConfirmedTrial(
            trial=trial.number,
            n_seeds=len(groups[place]),
            mean=_known(found.means[place]),
            low=_known(found.low[place]),
            high=_known(found.high[place]),
            p=_known(found.p[place]),
            is_ahead=bool(found.is_ahead[place]),
        )
        for place, trial in enumerate(ordered)
    )
    others = trials[1:]
    is_separated = all(other.p is not None and other.p < ALPHA for other in others)
    is_beaten = any(other.is_ahead for other in others)
    verdict: Verdict = "not confirmed" if is_beaten else "separated" if is_separated else "not separated"
    return ConfirmedMetric(metric=key, winner=ordered[0].number, verdict=verdict, trials=trials)


def _values_of(number: int, key: str, repeats: Sequence[TrialRow]) -> Floats:
    """(n,) a metric of the repetitions of a trial."""
    values = [trial.metrics.get(key, math.nan) for trial in repeats if trial.params.get(OF_TRIAL) == number]
    measured = np.array(values, dtype=np.float64)
    return measured[~np.isnan(measured)]


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
