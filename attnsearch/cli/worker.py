"""The command that runs trials of a study: started by a search, by a cluster, or by hand."""

from __future__ import annotations

from typing import Annotated

import typer

from attnsearch.cli._console import print_line, report_error
from attnsearch.cli._options import RESULTS, BegunStudy, Overrides, Plugins, Results, Storage, parse_duration


def worker(
    study: BegunStudy,
    overrides: Overrides = None,
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="End where only other workers have trials left, instead of waiting.")
    ] = False,
    stop_after: Annotated[
        float | None,
        typer.Option(
            "--stop-after",
            metavar="TIME",
            parser=parse_duration,
            show_default=False,
            help="Return the trial to the queue after this time, such as 3h50m, and end with 75.",
        ),
    ] = None,
    results: Results = RESULTS,
    storage: Storage = None,
    plugins: Plugins = None,
    parent: Annotated[int | None, typer.Option("--parent", hidden=True)] = None,
) -> int:
    """Run trials of a study that was begun, beside other workers on this and on other machines.

    Of the settings only data.root and those of runtime may be given. What a worker of a search prints, the error that
    ended it, is what the search then reports: nobody reads its output before the end.
    """
    from attnsearch.results.reader import find_study

    study_yaml = find_study(study, results).layout.study_yaml

    from attnsearch.search.launchers import WorkerOrders
    from attnsearch.search.launchers.process import run_process  # imports torch

    orders = WorkerOrders(study_yaml, tuple(overrides or ()), storage, parent, until_idle, stop_after)
    code, error = run_process(orders)
    if parent is None and error:
        return report_error(error, code)
    if error:
        print_line(error)
    return code
