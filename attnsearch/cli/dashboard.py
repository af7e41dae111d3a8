"""The command that opens results in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnsearch.cli._options import PORT, RESULTS, Storage


def dashboard(
    results: Annotated[Path, typer.Argument(help="The results folder, an experiment in it, or its name.")] = RESULTS,
    host: Annotated[str, typer.Option("--host", help="Another address than this machine's own asks for a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", help="0 takes a free one.")] = PORT,
    allow_edit: Annotated[
        bool, typer.Option("--allow-edit", help="Let optuna-dashboard change studies, and keep photographs.")
    ] = False,
    storage: Storage = None,
) -> None:
    """Open studies, trials and attention maps in a browser, while a search runs or afterwards."""
    from attnsearch.cli._console import print_line
    from attnsearch.explorer.server import open_server
    from attnsearch.results.reader import find_experiments, find_folder

    experiments = find_experiments(find_folder(results, RESULTS))
    served = open_server(experiments, host=host, port=port, allow_edit=allow_edit, storage=storage)
    if served.token is not None:
        print_line(f"warning: {host} can be reached from other machines; only who has the token below gets in")
    if allow_edit:
        print_line("warning: everyone who opens the dashboard can change and delete studies")
    print_line(f"attention explorer: {served.url}")
    if served.dashboard_of is not None:
        root = served.url.replace("/attention/", "/", 1)
        print_line(f"optuna-dashboard of {served.dashboard_of}: {root}")
    print_line("Ctrl-C ends it")
    try:
        served.server.serve_forever()
    finally:
        served.server.server_close()
