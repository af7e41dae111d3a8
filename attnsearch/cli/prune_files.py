"""`attnsearch prune-files`: deletes the weights and maps that retention does not keep."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from attnsearch.cli._console import print_line, print_table, size
from attnsearch.cli._options import RESULTS, Results, Storage, StudyArgument


def prune_files(
    study: StudyArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
    results: Results = RESULTS,
    storage: Storage = None,
) -> None:
    """Delete weights and maps that the study's retention does not keep; shows them first."""
    from attnsearch.results.reader import find_study
    from attnsearch.store.retention import remove

    files = find_study(study, results, storage=storage).removable_files()
    rows = [(str(file.number), file.path.name, size(file.bytes)) for file in files]
    print_table(("trial", "file", "size"), rows, title=f"{size(sum(file.bytes for file in files))} can be freed")
    if not files or not (yes or (sys.stdin.isatty() and typer.confirm("Delete these files?"))):
        print_line("nothing was deleted" if yes or not files else "nothing was deleted; --yes deletes without asking")
        return
    print_line(f"{size(remove(files))} freed")
