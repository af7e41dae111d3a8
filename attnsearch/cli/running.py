"""Verbs that train: `search`, `train`, and the `worker` that a search starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnsearch.cli._options import RESULTS, AsJson, Overrides, Plugins, Profile, Results, Storage, Workers


def search(
    study: Annotated[str, typer.Argument(help="A file of studies/ by its bare name, or a path.")],
    overrides: Overrides = None,
    profile: Profile = None,
    workers: Workers = None,
    results: Results = RESULTS,
    storage: Storage = None,
    plugins: Plugins = None,
    as_json: AsJson = False,
) -> int:
    """Search the settings of a study; started again, it goes on where it stopped."""
    from attnsearch.config.load import load_study, with_storage

    loaded = load_study(study, profile=profile, overrides=overrides or (), plugins=plugins or ())
    loaded = with_storage(loaded, storage, overrides or ())

    from attnsearch.cli.searching import run_search

    return run_search(loaded, root=results, n_workers=workers, as_json=as_json)


def train(
    config: Annotated[str, typer.Argument(help="A file of configs/ by its bare name, or a path.")],
    overrides: Overrides = None,
    profile: Profile = None,
    results: Results = RESULTS,
    storage: Storage = None,
    plugins: Plugins = None,
    as_json: AsJson = False,
) -> int:
    """Train one experiment without a search; started again, it goes on where it stopped."""
    from attnsearch.config.load import load_experiment

    experiment = load_experiment(config, profile=profile, overrides=overrides or (), plugins=plugins or ())

    from attnsearch.cli.training import run_training

    return run_training(experiment, root=results, storage=storage, as_json=as_json)


def worker(
    study_yaml: Annotated[Path, typer.Argument(help="The study.yaml of the study's folder.")],
    parent: Annotated[int, typer.Option("--parent", help="Process id of the search.")],
    started_at: Annotated[float, typer.Option("--started-at", help="Start of the search, UTC seconds since 1970.")],
) -> int:
    """Run trials for a search, which starts this verb by itself."""
    from attnsearch.cli.searching import work

    return work(study_yaml, parent=parent, started_at=started_at)
