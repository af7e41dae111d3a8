"""What `search` and `worker` do: signals and progress around a search, and the error that ends a worker."""

from __future__ import annotations

import logging
import os
import resource
import time
from pathlib import Path

from attnsearch.cli._console import print_json, print_line
from attnsearch.cli._progress import watching
from attnsearch.cli._signals import StopRequest, signals_to
from attnsearch.cli.summary import SearchSummary
from attnsearch.config.load import LoadedStudy, load_study
from attnsearch.config.variables import URL_VARIABLE
from attnsearch.errors import DONE, INTERRUPTED, TRANSIENT, AttnSearchError, TransientError
from attnsearch.search.context import Worker
from attnsearch.search.handle import layout_of, open_session, storage_url
from attnsearch.search.launchers.local import worker_name
from attnsearch.search.trials import read_study
from attnsearch.store.urls import hide, url_named

logger = logging.getLogger(__name__)


def run_search(loaded: LoadedStudy, *, root: Path, n_workers: int | None, as_json: bool) -> int:
    """Runs a study to its end, or to the first Ctrl-C or SIGTERM; prints the summary and returns the exit code.

    Raises:
        AttnSearchError: what stopped the study.
    """
    from attnsearch.search.run import run_study  # imports torch

    started = time.monotonic()
    stop = StopRequest("stopping: running trials return to waiting; once more ends at once")
    with signals_to(stop.take), watching() as watcher:
        ended = run_study(loaded, root=root, n_workers=n_workers, should_stop=stop.is_asked, tick=watcher)
        watcher.refresh()
    layout = layout_of(loaded, root=root)
    url = storage_url(loaded, layout)
    rows = read_study(url, loaded.study.name)
    summary = SearchSummary(rows, ended, layout, url, time.monotonic() - started, processor_seconds())
    if as_json:
        print_json(summary.values())
    else:
        print_line("\n".join(summary.lines()))
    return INTERRUPTED if ended.outcome == "interrupted" else DONE


def processor_seconds() -> float:
    """Processor time of this process and of its workers that have ended, user and system."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def work(study_yaml: Path, *, parent: int, started_at: float) -> int:
    """One worker's life; its only word on stdout is the error that the search then reports.

    Nobody reads stdout before the end, and its pipe can fill.

    Args:
        parent: process id of the search; the worker ends when it is gone.
        started_at: of the search, UTC seconds since 1970.
    Returns:
        The exit code; that of an interruption if a signal ended the worker before the study was over.
    """
    worker = Worker(worker_name(), parent)
    with signals_to(lambda _signal, _frame: worker.stop.set()):
        try:
            from attnsearch.search.worker import run_worker  # imports torch

            loaded = load_study(str(study_yaml))
            layout = layout_of(loaded, root=study_yaml.absolute().parents[2])
            url = url_named(os.environ.get(URL_VARIABLE), layout)
            run_worker(open_session(loaded, layout, url), worker, started_at=started_at)
        except AttnSearchError as error:
            print_line(hide("; ".join(line.strip() for line in str(error).splitlines())))
            return TRANSIENT if isinstance(error, TransientError) else error.exit_code
        except Exception as error:
            logger.exception("the worker met an unexpected error")
            print_line(hide(f"unexpected {type(error).__name__}: {' '.join(str(error).split())}"))
            return TRANSIENT
    return INTERRUPTED if worker.stop.is_set() else DONE
