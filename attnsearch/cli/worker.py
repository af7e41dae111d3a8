"""The command that a search starts: one of its workers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnsearch.cli._console import print_line


def worker(
    study_yaml: Annotated[Path, typer.Argument(help="The study.yaml of the study's folder.")],
    parent: Annotated[int, typer.Option("--parent", help="Process id of the search.")],
    started_at: Annotated[float, typer.Option("--started-at", help="Start of the search, UTC seconds since 1970.")],
) -> int:
    """Run trials for a search, which starts this command by itself.

    What it prints, the error that ended it, is what the search then reports: nobody reads its output before the end.
    """
    from attnsearch.search.launchers.process import run_process  # imports torch

    code, error = run_process(study_yaml, parent, started_at)
    if error:
        print_line(error)
    return code
