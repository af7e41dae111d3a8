"""The command that a search starts: one of its workers."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Annotated

import typer

from attnsearch.cli._console import print_line, signals_to
from attnsearch.errors import DONE, INTERRUPTED, TRANSIENT, AttnSearchError, TransientError
from attnsearch.types import URL_VARIABLE

logger = logging.getLogger(__name__)


def worker(
    study_yaml: Annotated[Path, typer.Argument(help="The study.yaml of the study's folder.")],
    parent: Annotated[int, typer.Option("--parent", help="Process id of the search.")],
    started_at: Annotated[float, typer.Option("--started-at", help="Start of the search, UTC seconds since 1970.")],
) -> int:
    """Run trials for a search, which starts this command by itself.

    What it prints, the error that ended it, is what the search then reports: nobody reads its output before the end.
    """
    stop = threading.Event()
    with signals_to(lambda _signal, _frame: stop.set()):
        try:
            from attnsearch.search.launchers.local import work  # imports torch

            storage = os.environ.get(URL_VARIABLE)
            work(study_yaml, storage=storage, parent=parent, started_at=started_at, stop=stop)
        except Exception as error:
            logger.warning("this worker ends with an error", exc_info=True)
            return _report(error)
    return INTERRUPTED if stop.is_set() else DONE


def _report(error: Exception) -> int:
    """Prints an error in one line, and returns the exit code: another one where the next worker may not meet it."""
    from attnsearch.store.urls import hide

    if not isinstance(error, AttnSearchError):
        print_line(hide(f"unexpected {type(error).__name__}: {' '.join(str(error).split())}"))
        return TRANSIENT
    print_line(hide("; ".join(line.strip() for line in str(error).splitlines())))
    return TRANSIENT if isinstance(error, TransientError) else error.exit_code
