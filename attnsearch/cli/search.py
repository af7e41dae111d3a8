"""The command that searches."""

from __future__ import annotations

import resource
import time
from typing import Annotated, Any

import typer

from attnsearch.cli._console import StopRequest, print_json, print_line, signals_to
from attnsearch.cli._ending import outcome_values, summary_lines
from attnsearch.cli._options import RESULTS, AsJson, Overrides, Plugins, Profile, Results, Storage, Workers
from attnsearch.errors import DONE, INTERRUPTED


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
    from attnsearch.config.load import load_study, with_storage

    loaded = load_study(study, profile=profile, overrides=overrides or (), plugins=plugins or ())
    loaded = with_storage(loaded, storage, overrides or ())

    from attnsearch.cli._progress import watching
    from attnsearch.results.reader import load_study as read_study
    from attnsearch.search.confirm import run_and_confirm  # imports torch

    started = time.monotonic()
    stop = StopRequest("stopping: running trials return to the queue; once more ends at once")
    with signals_to(stop.take), watching() as watcher:
        settings: dict[str, Any] = {"n_workers": workers, "should_stop": stop.is_asked, "tick": watcher}
        ended = run_and_confirm(loaded, root=results, is_fresh=True, **settings)
        watcher.refresh()
    reader = read_study(ended.plan.layout.study_dir, storage=loaded.study.storage)
    times = {"seconds": time.monotonic() - started, "processor_seconds": processor_seconds()}
    if as_json:
        print_json(outcome_values(reader, ended, times))
    else:
        print_line("\n".join(summary_lines(reader, ended, times)))
    return INTERRUPTED if ended.outcome == "interrupted" else DONE


def processor_seconds() -> float:
    """Processor time of this process and of its workers that have ended, user and system."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)
