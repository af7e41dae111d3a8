"""The command that a worker starts for each further device of its trials."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def follow(
    folder: Annotated[Path, typer.Argument(help="Where the processes of the worker meet.")],
    rank: Annotated[int, typer.Argument(help="Of this process, from 1.")],
    n_ranks: Annotated[int, typer.Argument(help="Processes of the worker, with itself.")],
    parent: Annotated[int, typer.Option("--parent", help="Process id of the worker.")],
) -> int:
    """Train along with a worker, which starts this command by itself."""
    from attnsearch.search.launchers.devices import follow_process  # imports torch

    return follow_process(folder, rank, n_ranks, parent=parent)
