"""The command that has Ray run workers of a study."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from attnsearch.cli._console import StopRequest, print_line, signals_to
from attnsearch.cli._options import RESULTS, BegunStudy, Overrides, Plugins, Results, Storage
from attnsearch.cli._placing import WorkerCount, begun_study
from attnsearch.errors import DONE, INTERRUPTED


def ray(
    study: BegunStudy,
    workers: WorkerCount,
    overrides: Overrides = None,
    gpus: Annotated[
        float, typer.Option("--gpus-per-worker", metavar="N", min=0, help="Also a part of one; 0 trains on processors.")
    ] = 1.0,
    cpus: Annotated[float, typer.Option("--cpus-per-worker", metavar="N", min=0, help="Cores of each worker.")] = 1.0,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            envvar="RAY_ADDRESS",
            show_default=False,
            help="Of a cluster that runs, such as auto or HOST:6379; by default one is started on this machine.",
        ),
    ] = None,
    results: Results = RESULTS,
    storage: Storage = None,
    plugins: Plugins = None,
) -> int:
    """Run trials of a study that was begun on a cluster of Ray, until the study is over."""
    from attnsearch.cli._progress import watching
    from attnsearch.search.launchers.placement import require_server, worker_words
    from attnsearch.search.launchers.ray import RayRequest, connected, run_on_ray

    layout = begun_study(study, results)
    named = require_server(storage) if address else storage
    words = worker_words(layout, overrides=overrides or (), plugins=plugins or ())
    request = RayRequest(layout, tuple(words), named, workers, gpus, cpus)
    stop = StopRequest("stopping: running trials return to the queue; once more ends at once")
    with connected(address), signals_to(stop.take), watching() as watcher:
        run_on_ray(request, should_stop=stop.is_asked, tick=watcher)
    print_line(f"the workers have ended; see attnsearch show {shlex.quote(str(layout.study_dir))}")
    return INTERRUPTED if stop.is_asked() else DONE
