"""The command that makes all checks of a start, without the start."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attnsearch.cli._console import counted, print_line, say
from attnsearch.cli._options import RESULTS, Overrides, Profile, Results, Storage, StudyOrConfig, setting_options

if TYPE_CHECKING:
    from attnsearch.config.load import LoadedStudy
    from attnsearch.search.plan import SearchPlan

logger = logging.getLogger(__name__)


@setting_options("n_trials", "device", "seed")
def validate(
    name: StudyOrConfig,
    overrides: Overrides = None,
    profile: Profile = None,
    results: Results = RESULTS,
    storage: Storage = None,
) -> None:
    """Check a study or config with its data, models and database as a start would, and write nothing."""
    from attnsearch.config.yaml_reader import find_file

    path = find_file(name, ("studies", "configs"))
    loaded = _load(str(path), profile, overrides or (), storage)
    say(f"checking {loaded.study.name}, data {loaded.experiment.data.name}")

    from attnsearch.search.plan import SearchPlan  # imports torch

    plan = SearchPlan.check(loaded, results)
    for warning in plan.warnings:
        logger.warning(warning)
    print_line(f"{path} is valid: {_description(plan)}")


def _load(path: str, profile: str | None, overrides: Sequence[str], storage: str | None) -> LoadedStudy:
    """A study, or a config as a study of one trial."""
    from attnsearch.config.load import is_study, load_experiment, load_study, study_of_one, with_storage

    if is_study(Path(path)):
        loaded = load_study(path, profile=profile, overrides=overrides)
        return with_storage(loaded, storage, overrides)
    experiment = load_experiment(path, profile=profile, overrides=overrides)

    return study_of_one(experiment, storage=storage)


def _description(plan: SearchPlan) -> str:
    """What was checked, in one line."""
    counts = ", ".join(f"{len(table)} {table.split}" for table in plan.tables.present())
    what = "classes" if plan.tables.train.match_rule is None else "training identities"
    data = f"{len(plan.tables.class_names)} {what}, {counts} images"
    if plan.study.is_fixed:
        return data
    limits = counted(len(plan.limits) - 1, "range limit")
    space = f"{counted(len(plan.study.space), 'hyperparameter')} ({limits} checked)"
    return f"{counted(plan.study.n_trials, 'trial')} over {space}, {data}"
