"""The command that has Slurm run workers of a study."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import typer

from attnsearch.cli._console import print_line
from attnsearch.cli._options import RESULTS, BegunStudy, Overrides, Plugins, Results, Storage
from attnsearch.cli._placing import WorkerCount, begun_study


def slurm(
    study: BegunStudy,
    workers: WorkerCount,
    overrides: Overrides = None,
    gpus: Annotated[int, typer.Option("--gpus-per-worker", metavar="N", help="0 trains on processors.")] = 1,
    cpus: Annotated[
        int | None, typer.Option("--cpus-per-worker", metavar="N", help="By default as Slurm is set up.")
    ] = None,
    memory: Annotated[str | None, typer.Option("--memory", metavar="SIZE", help="Of each worker, as 32G.")] = None,
    time: Annotated[
        str,
        typer.Option("--time", help="Limit of each worker; at its end it is queued again, until the study is over."),
    ] = "4:00:00",
    partition: Annotated[str | None, typer.Option("--partition", metavar="NAME", help="Where to run.")] = None,
    sbatch: Annotated[
        list[str] | None,
        typer.Option("--sbatch", metavar="OPTION", help="Also for sbatch: --sbatch=--account=birds; may be repeated."),
    ] = None,
    only_print: Annotated[bool, typer.Option("--print", help="Print the script instead of submitting it.")] = False,
    results: Results = RESULTS,
    storage: Storage = None,
    plugins: Plugins = None,
) -> None:
    """Submit a job array of Slurm whose elements run trials of a study that was begun."""
    from attnsearch.search.launchers.placement import require_server, worker_words
    from attnsearch.search.launchers.slurm import SlurmJob, submit

    layout, named = begun_study(study, results), require_server(storage)
    name, log = f"attnsearch-{layout.experiment}-{layout.study}", layout.worker_log("%A_%a")
    job = SlurmJob(name, log, workers, time, gpus, cpus, memory, partition, tuple(sbatch or ()))
    words = worker_words(layout, overrides=overrides or (), plugins=plugins or ())
    script = job.script([sys.executable, *words, "--stop-after", f"{job.stop_after_s}s"])
    if only_print:
        print_line(script.rstrip("\n"))
        return
    number = submit(script, storage=named)
    print_line(f"job {number}: {workers} workers of study {layout.study}")
    print_line(f"  progress   attnsearch status {shlex.quote(str(layout.study_dir))}")
    print_line(f"  queue      squeue --job {number}")
    print_line(f"  logs       {layout.worker_log(f'{number}_*')}")
    print_line(f"  stop       scancel {number}")
