"""`attnsearch export`: an experiment as one archive file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnsearch.cli._console import print_line, size
from attnsearch.cli._options import RESULTS, Results


def export(
    experiment: Annotated[str, typer.Argument(help="An experiment in the results, or its folder.")],
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE", help="A new .tar.gz, .tgz or .zip file.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="With what unfinished trials need to continue.")] = False,
    results: Results = RESULTS,
) -> None:
    """Copy an experiment, running or not, into one archive file."""
    from attnsearch.results.reader import find_experiment
    from attnsearch.store.export import export_experiment

    layout = find_experiment(experiment, results)
    exported = export_experiment(layout.directory, to or Path(f"{layout.experiment}.tar.gz"), with_resume=resume)
    print_line(f"{exported.target}: {exported.n_files} files and the database, {size(exported.target.stat().st_size)}")
