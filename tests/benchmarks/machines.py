"""Whether many processes on PostgreSQL keep to the budget, lose nothing and wait for nobody, and what they write.

    PYTHONPATH=. python tests/benchmarks/machines.py claims    # 20 rounds of 6 claimers, with a budget of 4 trials
    PYTHONPATH=. python tests/benchmarks/machines.py starts    # 10 rounds of 10 first starts on an empty database
    PYTHONPATH=. python tests/benchmarks/machines.py writers   # 32 writers of trials and a viewer, for 10 minutes
    PYTHONPATH=. python tests/benchmarks/machines.py takeover  # from the kill of a machine to its trial elsewhere

The first three need no torch: processes are forked from one that has imported the store, and start together at a
barrier. A writer claims trials, writes 30 epochs of each and ends it, as fast as the server answers; it trains nothing.
The viewer reads all trials and the epochs of the last ones, again and again, as a browser does. `takeover` kills the
worker of one PID namespace (root only), with a lease of 8 s, while workers of others run.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from attnsearch.config.load import LoadedStudy
from attnsearch.results.databases import StudyDatabases
from attnsearch.search.context import Worker
from attnsearch.search.handle import StudyHandle, create_handle, open_handle
from attnsearch.search.plan import layout_of, study_file
from attnsearch.search.queue import claim_next, tell_trial
from attnsearch.store.inspection import inspect_database
from attnsearch.store.layout import StudyLayout
from attnsearch.store.leases import HELD, Lease
from attnsearch.types import TrialResult
from tests.benchmarks.many_trials import records_of
from tests.postgres import PostgresServer, find_binaries, running_server
from tests.search.faults import Harmed, wait_for
from tests.search.studies import identity_of, loaded_study

N_EPOCHS = 30
FORK = multiprocessing.get_context("fork")
Results = Any
"""A queue that processes put their results into."""


@contextmanager
def server() -> Iterator[PostgresServer]:
    binaries = find_binaries()
    assert binaries is not None, "no PostgreSQL server (Debian: apt-get install postgresql)"
    with running_server(binaries) as running:
        yield running


def at_once(n: int, step: Callable[[int], object]) -> list[object]:
    """What `step` returns in each of n processes that begin it together; an exception as its text."""
    barrier, results = FORK.Barrier(n), FORK.Queue()

    def run(index: int, barrier: Barrier, results: Results) -> None:
        barrier.wait()
        try:
            results.put(step(index))
        except Exception as error:
            results.put(f"{type(error).__name__}: {error}")

    processes = [FORK.Process(target=run, args=(index, barrier, results)) for index in range(n)]
    for process in processes:
        process.start()
    found = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return found


def create(url: str, root: Path, **study: Any) -> LoadedStudy:
    """A study, made if it is new."""
    loaded = loaded_study(**study)
    inspect_database(url)
    layout = layout_of(loaded, root)
    create_handle(loaded, layout, url, identity_of(loaded)).database.close()
    layout.study_dir.mkdir(parents=True, exist_ok=True)
    layout.study_yaml.write_text(study_file(loaded))
    return loaded


def claims(rounds: int = 20, n_claimers: int = 6, n_trials: int = 4) -> None:
    counts: Counter[tuple[int, int]] = Counter()
    with server() as running:
        for _ in range(rounds):
            with running.empty_database() as url, tempfile.TemporaryDirectory() as folder:
                found = at_once(
                    n_claimers, partial(claim_all, create(url, Path(folder), n_trials=n_trials), url, folder)
                )
                claimed = [one for one in found if isinstance(one, int)]
                counts[sum(claimed), n_claimers - len(claimed)] += 1
    for (n_claimed, n_errors), n in counts.items():
        print(f"{n} rounds: {n_claimed} of {n_trials} trials claimed by {n_claimers} processes, {n_errors} errors")


def claim_all(loaded: LoadedStudy, url: str, folder: str, index: int) -> int:
    """Claims trials as long as there are any, from a results folder of its own; how many it got."""
    handle, n_claimed = open_handle(loaded, layout_of(loaded, Path(folder, str(index))), url), 0
    while claim_next(handle, Worker(f"host{index}:{n_claimed}:a", None)) not in ("wait", "done"):
        n_claimed += 1
    handle.database.close()
    return n_claimed


def starts(rounds: int = 10, n: int = 10) -> None:
    errors: list[object] = []
    with server() as running:
        for _ in range(rounds):
            with running.empty_database() as url, tempfile.TemporaryDirectory() as folder:
                errors += [one for one in at_once(n, partial(start, url, folder)) if one != "begun"]
    print(f"{rounds} rounds of {n} first starts of 3 studies on an empty database: {len(errors)} errors", *errors[:3])


def start(url: str, folder: str, index: int) -> str:
    create(url, Path(folder, str(index)), name=f"hunt{index % 3}")
    return "begun"


def write_trials(handle: StudyHandle, index: int, *, until: float) -> tuple[int, int, float]:
    """Trials, epochs and the longest claim in seconds of one writer."""
    n_written, longest_s, worker = 0, 0.0, Worker(f"host{index}:{os.getpid()}:a", None)
    while time.monotonic() < until:
        begun = time.monotonic()
        claim = claim_next(handle, worker)
        longest_s = max(longest_s, time.monotonic() - begun)
        assert not isinstance(claim, str), claim
        records = records_of(claim.trial.number, N_EPOCHS)
        for epoch in range(1, N_EPOCHS + 1):
            so_far = [record for record in records if record.epoch <= epoch]
            handle.store.write_epochs(claim.trial.number, so_far, attempt=claim.attempt)
            handle.store.leases.renew(claim.trial.number, claim.attempt, duration_s=300, epoch=epoch)
            claim.trial.report(records[2 * epoch - 1].metrics["accuracy"], epoch - 1)
        metrics = {f"val/{key}": value for key, value in records[-1].metrics.items()}
        tell_trial(handle, claim, TrialResult("complete", N_EPOCHS, N_EPOCHS, metrics, 60.0, 300.0))
        n_written += 1
    return n_written, n_written * N_EPOCHS, longest_s


def view(url: str, layout: StudyLayout, *, until: float) -> tuple[int, float]:
    """How often a viewer has read the study, and the longest time that it took."""
    databases, n_reads, longest_s = StudyDatabases(url), 0, 0.0
    while time.monotonic() < until:
        begun = time.monotonic()
        rows = databases.rows(layout)
        databases.epochs(layout, [trial.number for trial in rows.trials[-64:]])
        n_reads, longest_s = n_reads + 1, max(longest_s, time.monotonic() - begun)
        time.sleep(0.5)
    return n_reads, longest_s


def writers(n: int = 32, minutes: float = 10.0) -> None:
    with server() as running, tempfile.TemporaryDirectory() as folder, running.empty_database() as url:
        loaded = create(url, Path(folder), n_trials=100_000, sampler={"name": "random"})
        layout, until = layout_of(loaded, Path(folder)), time.monotonic() + 60 * minutes

        def run(index: int) -> object:
            if index == n:
                return view(url, layout, until=until)
            handle = open_handle(loaded, layout, url)
            try:
                return write_trials(handle, index, until=until)
            finally:
                handle.database.close()

        found = at_once(n + 1, run)
        errors = [one for one in found if isinstance(one, str)]
        written = [one for one in found if isinstance(one, tuple) and len(one) == 3]
        n_trials, n_epochs = sum(one[0] for one in written), sum(one[1] for one in written)
        stored = StudyDatabases(url).rows(layout).trials
        print(f"{n} writers and a viewer for {minutes:g} minutes: {len(errors)} errors", *errors[:3])
        print(f"{n_trials} trials of {N_EPOCHS} epochs, {n_epochs / minutes / 60:.0f} epochs/s, "
              f"{sum(trial.state == 'complete' for trial in stored)} complete in the database")  # fmt: skip
        print(f"longest claim {max(one[2] for one in written):.2f} s")
        for n_reads, longest_s in (one for one in found if isinstance(one, tuple) and len(one) == 2):
            print(f"viewer: {n_reads} reads, the longest {longest_s:.2f} s")


def takeover(rounds: int = 3, lease_s: float = 8.0) -> None:
    with server() as running:
        for _ in range(rounds):
            with running.empty_database() as url, tempfile.TemporaryDirectory() as folder:
                harmed = Harmed(Path(folder), n_trials=2, n_epochs=12, server=url)
                harmed.write(lease_s=lease_s, n_workers=1, n_images=192)
                assert harmed.finish(harmed.start("--create-only")) == 0
                print(kill_one(harmed), f"(lease {lease_s:g} s); problems: {harmed.problems()}", flush=True)


def kill_one(harmed: Harmed) -> str:
    """Kills one of two workers in mid-trial while a third one finds nothing to do; what becomes of its trial."""
    names = ("one", "two", "three")
    workers = dict(zip(names, [harmed.start_worker(machine=name) for name in names], strict=True))

    def in_mid_trial() -> Lease | None:
        held = [lease for lease in harmed.leases() if lease.state == HELD]
        return next((lease for lease in held if len(held) == 2 and 3 <= lease.epoch < 9), None)

    lease = wait_for(in_mid_trial)
    killed = workers.pop(lease.worker.partition(":")[0])
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    killed_at = time.monotonic()
    wait_for(lambda: "resumes after" in harmed.log(lease.number) or None)
    waited_s = time.monotonic() - killed_at
    resumed = re.search(r"resumes after epoch (\d+)", harmed.log(lease.number))
    assert resumed is not None
    codes = [harmed.finish(worker) for worker in workers.values()]
    after = f"resumed after epoch {resumed[1]}, {waited_s:.1f} s later"
    return f"killed after epoch {lease.epoch}, {after}; exit codes of the others {codes}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["claims", "starts", "writers", "takeover"])
    parser.add_argument("--minutes", type=float, default=10.0, help="of `writers`")
    asked = parser.parse_args()
    if asked.part == "writers":
        writers(minutes=asked.minutes)
    else:
        {"claims": claims, "starts": starts, "takeover": takeover}[asked.part]()
