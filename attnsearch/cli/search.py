"""Commands that search: `search`, and the `worker` that it starts."""

from __future__ import annotations

import logging
import os
import resource
import threading
import time
from pathlib import Path
from typing import Annotated

import typer

from attnsearch.cli._console import print_json, print_line
from attnsearch.cli._options import RESULTS, AsJson, Overrides, Plugins, Profile, Results, Storage, Workers
from attnsearch.cli._progress import watching
from attnsearch.cli._signals import StopRequest, signals_to
from attnsearch.cli.summary import SearchSummary
from attnsearch.config.load import load_study, with_storage
from attnsearch.config.variables import URL_VARIABLE
from attnsearch.errors import DONE, INTERRUPTED, TRANSIENT, AttnSearchError, TransientError
from attnsearch.store.urls import hide

logger = logging.getLogger(__name__)


def search(
    study: Annotated[str, typer.Argument(help="A file of studies/ by its bare name, or a path.")],
    overrides: Overrides = None,
    profile: Profile = None,
    workers: Workers = None,
    results: Results = RESULTS,
    storage: Storage = None,
    plugins: Plugins = None,
    as_json: AsJson = False,
) -> int:
    """Search the hyperparameters of a study; started again, it continues where it stopped."""
    loaded = load_study(study, profile=profile, overrides=overrides or (), plugins=plugins or ())
    loaded = with_storage(loaded, storage, overrides or ())

    from attnsearch.search.run import run_study  # imports torch

    started = time.monotonic()
    stop = StopRequest("stopping: running trials return to the queue; once more ends at once")
    with signals_to(stop.take), watching() as watcher:
        ended = run_study(loaded, root=results, n_workers=workers, should_stop=stop.is_asked, tick=watcher)
        watcher.refresh()
    summary = SearchSummary.of(ended, time.monotonic() - started, processor_seconds())
    if as_json:
        print_json(summary.values())
    else:
        print_line("\n".join(summary.lines()))
    return INTERRUPTED if ended.outcome == "interrupted" else DONE


def processor_seconds() -> float:
    """Processor time of this process and of its workers that have ended, user and system."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


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
            from attnsearch.search.run import work  # imports torch

            storage = os.environ.get(URL_VARIABLE)
            work(study_yaml, storage=storage, parent=parent, started_at=started_at, stop=stop)
        except Exception as error:
            logger.warning("this worker ends with an error", exc_info=True)
            return _report(error)
    return INTERRUPTED if stop.is_set() else DONE


def _report(error: Exception) -> int:
    """Prints an error in one line, and returns the exit code: another one where the next worker may not meet it."""
    if not isinstance(error, AttnSearchError):
        print_line(hide(f"unexpected {type(error).__name__}: {' '.join(str(error).split())}"))
        return TRANSIENT
    print_line(hide("; ".join(line.strip() for line in str(error).splitlines())))
    return TRANSIENT if isinstance(error, TransientError) else error.exit_code
