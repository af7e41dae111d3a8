"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnsearch.config.variables import URL_VARIABLE
from attnsearch.errors import ConfigError

RESULTS = Path("results")


def parse_workers(text: str) -> int:
    """A number of processes.

    Raises:
        ConfigError: not a whole number, or one beyond the bounds of `n_workers`.
    """
    from attnsearch.config.study import MAX_WORKERS

    if not text.isdecimal() or len(text) > len(str(MAX_WORKERS)) or not 1 <= int(text) <= MAX_WORKERS:
        message = f"must be a whole number of at least 1 and at most {MAX_WORKERS}"
        raise ConfigError(f"--workers {message}, got {text[:80]!r}")
    return int(text)


Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Settings by dotted key, for example train.epochs=5.", show_default=False
    ),
]
Profile = Annotated[
    str | None, typer.Option("--profile", metavar="NAME", help="A file of configs/profiles: demo, photos or your own.")
]
Results = Annotated[Path, typer.Option("--results", metavar="DIR", help="Folder of all results.")]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        envvar=URL_VARIABLE,
        show_default=False,
        help="Database of the trials; by default hypSearch.db of the experiment, whatever its files name.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object per line, for machines.")]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        help="Worker processes; by default one per GPU.",
        parser=parse_workers,
        show_default=False,
    ),
]
