"""`attnsearch status`: which workers run which trials of a study, on which machines, and how long it will take."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnsearch.cli._console import counted, print_json, print_line, print_table
from attnsearch.cli._options import RESULTS, AsJson, Results, Storage, StudyArgument
from attnsearch.progress import duration

if TYPE_CHECKING:
    from attnsearch.results.status import StudyStatus, WorkerStatus
    from attnsearch.results.study import StudyReader

LOOK_EVERY_S = 2.0
SECONDS_PER_HOUR = 3600


def status(
    study: StudyArgument,
    results: Results = RESULTS,
    storage: Storage = None,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every two seconds, until the study ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show who works on a study: machines, workers and their trials, speed, time left and cost so far."""
    from attnsearch.results.reader import find_study  # imports Optuna

    reader = find_study(study, results, storage=storage)
    while _show(reader, as_json=as_json).state != "finished" and watch:
        time.sleep(LOOK_EVERY_S)


def _show(reader: StudyReader, *, as_json: bool) -> StudyStatus:
    """Prints the status at this moment, and returns it."""
    from attnsearch.results.status import status_of

    found = status_of(reader)
    if as_json:
        print_json(status_values(found))
        return found
    print_line("\n".join(status_lines(found)))
    if found.workers:
        print_table(("machine", "process", "GPU", "trial", "epoch", "lease"), map(_cells, found.workers))
    return found


def status_values(found: StudyStatus) -> dict[str, Any]:
    """The status for machines."""
    workers = [vars(worker) | {"lease_s": round(worker.lease_s, 1)} for worker in found.workers]
    return {**vars(found), "machines": list(found.machines), "workers": workers}


def status_lines(found: StudyStatus) -> list[str]:
    """The status for people, but for the table of workers."""
    others = [f"{n} {word}" for n, word in ((found.n_paused, "paused"), (found.n_waiting, "waiting")) if n]
    trials = ", ".join([f"{found.n_done} of {found.n_trials} trials done", *others])
    speed = "" if found.epochs_per_hour is None else f", {found.epochs_per_hour:.0f} epochs per hour"
    left = "" if found.seconds_left is None else f", about {duration(found.seconds_left)} left"
    on = f" on {counted(len(found.machines), 'machine')}" if found.workers else ""
    tests = counted(found.n_test_evaluations, "evaluation")
    factor = found.correction
    compared = "" if factor is None else f", epochs take {factor:.2f} times as long as in the dry run"
    return [
        f"study {found.study}: {found.state}, {trials}",
        f"  now        {counted(len(found.workers), 'worker')}{on}{speed}{left}",
        f"  cost       {found.worker_seconds / SECONDS_PER_HOUR:.2f} worker hours so far{compared}",
        f"  test       {tests}",
    ]


def _cells(worker: WorkerStatus) -> tuple[str, ...]:
    lease = f"{duration(worker.lease_s)}" if worker.lease_s > 0 else "over: any worker takes the trial"
    trial = ("publishes", "") if worker.trial is None else (str(worker.trial), f"{worker.epoch}/{worker.n_epochs}")
    return worker.machine, str(worker.pid or "?"), worker.gpu or "-", *trial, lease
