"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnsearch.errors import ConfigError

RESULTS = Path("results")


def at_least_one(value: int | None) -> int | None:
    """Checks a number of processes.

    Raises:
        ConfigError: it is zero or negative.
    """
    if value is not None and value < 1:
        raise ConfigError(f"--workers must be at least 1, got {value}")
    return value


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
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object per line, for machines.")]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        help="Worker processes; by default one per GPU.",
        callback=at_least_one,
        show_default=False,
    ),
]
