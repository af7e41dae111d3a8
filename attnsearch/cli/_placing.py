"""What the commands have in common that place workers on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnsearch.cli._options import parse_workers
from attnsearch.errors import ConfigError

if TYPE_CHECKING:
    from attnsearch.store.layout import StudyLayout

WorkerCount = Annotated[
    int, typer.Option("--workers", metavar="N", help="Workers on the cluster.", parser=parse_workers)
]


def begun_study(name: str, results: Path) -> StudyLayout:
    """The files of a study that workers can run.

    Raises:
        ConfigError: there is none, or several.
    """
    from attnsearch.results.reader import find_study

    try:
        layout = find_study(name, results).layout
    except ConfigError as error:
        raise ConfigError(f"{error}; `attnsearch search STUDY --create-only` begins one") from error
    if not layout.study_yaml.is_file():
        raise ConfigError(f"{layout.study_dir} holds a run of version 0.1, which has no workers; name a study")
    return layout
