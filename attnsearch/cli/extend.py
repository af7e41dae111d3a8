"""The command that continues a search in a larger space."""

from __future__ import annotations

from typing import Annotated

import typer

from attnsearch.cli._console import counted, print_line
from attnsearch.cli._options import RESULTS, Overrides, Plugins, Profile, Results, Storage, StudyArgument


def extend(
    old: StudyArgument,
    study: Annotated[str, typer.Argument(help="The new study: a file of studies/ by its bare name, or a path.")],
    overrides: Overrides = None,
    profile: Profile = None,
    results: Results = RESULTS,
    storage: Storage = None,
    plugins: Plugins = None,
) -> None:
    """Start a study with the trials of another one, over wider ranges, more choices or more hyperparameters."""
    from attnsearch.config.load import load_study, with_storage
    from attnsearch.results.reader import find_study
    from attnsearch.search.extend import extend_study  # imports torch

    loaded = load_study(study, profile=profile, overrides=overrides or (), plugins=plugins or ())
    loaded = with_storage(loaded, storage, overrides or ())
    done = extend_study(loaded, find_study(old, results, storage=storage).layout, root=results)
    left = f"; {counted(done.n_left, 'trial')} failed or not ended stay there" if done.n_left else ""
    new = f"{counted(done.plan.study.n_trials, 'new trial')}"
    print_line(f"study {loaded.study.name}: {counted(done.n_imported, 'trial')} of {done.source} imported{left}")
    print_line(f"  next       attnsearch search {study} with the same options runs {new}")
