"""Harms real searches and counts what is lost: kills, sleeping workers, many writers, exports while running.

PYTHONPATH=. python tests/benchmarks/faults.py [--kills 5] [--only NAME]
"""

from __future__ import annotations

import argparse
import os
import signal
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

from attnsearch.errors import StoreError
from attnsearch.store.epochs import read_csv
from tests.search.faults import Harmed, polling, wait_for


def killed_workers(folder: Path, n_kills: int) -> list[str]:
    """Kills a worker in mid-trial, again and again, in one search."""
    harmed = Harmed(folder, n_trials=n_kills + 1, n_epochs=24)
    harmed.write(n_images=64)
    search = harmed.start()
    victims: dict[int, int] = {}
    for _ in range(n_kills):
        trial, epoch, pid = harmed.in_mid_trial(victims)
        os.kill(pid, signal.SIGKILL)
        victims[trial] = epoch
        wait_for(lambda pid=pid: True if pid not in [held[2] for held in harmed.held()] else None)  # type: ignore[misc]
        print(f"  killed a worker at trial {trial} after epoch {epoch}", flush=True)
    code = harmed.finish(search)
    return [*exit_fault(code, 0), *harmed.problems(), *not_resumed(harmed, victims)]


def killed_supervisors(folder: Path, n_kills: int) -> list[str]:
    """Kills the search itself in mid-trial and starts it again."""
    harmed = Harmed(folder, n_trials=n_kills + 1, n_epochs=24)
    harmed.write(n_images=64)
    victims: dict[int, int] = {}
    for _ in range(n_kills):
        search = harmed.start()
        trial, epoch, _ = harmed.in_mid_trial(victims)
        search.kill()
        search.wait()
        victims[trial] = epoch
        print(f"  killed the search at trial {trial} after epoch {epoch}", flush=True)
    code = harmed.finish(harmed.start())
    return [*exit_fault(code, 0), *harmed.problems(), *not_resumed(harmed, victims)]


def sleeping_worker(folder: Path, _: int) -> list[str]:
    """Stops a worker until its lease has run out and another one has its trial, then wakes it up."""
    harmed = Harmed(folder, n_trials=2, n_epochs=14)
    harmed.write(n_images=64, lease_s=2.0)
    search = harmed.start()
    trial, epoch, pid = harmed.in_mid_trial()
    harmed.pause(pid)
    wait_for(lambda: True if harmed.attempts(trial) == 2 else None)
    os.kill(pid, signal.SIGCONT)
    print(f"  stopped a worker at trial {trial} after epoch {epoch}, woke it up after the second attempt began")
    code = harmed.finish(search)
    logs = "".join(path.read_text() for path in harmed.layout.study_dir.glob("worker*.log"))
    lost = [] if "was taken over" in logs else ["the sleeper did not notice"]
    return [*exit_fault(code, 0), *harmed.problems(), *lost]


def many_writers(folder: Path, _: int) -> list[str]:
    """Four workers, a hundred enqueued short trials on one SQLite file, and a reader that polls five times a second."""
    points = [{"train.optimizer.lr": round(1e-4 * (1 + index / 2), 7)} for index in range(100)]
    harmed = Harmed(folder, n_trials=100, n_epochs=1)
    harmed.write(n_images=4, n_workers=4, enqueue=points)
    started = time.monotonic()
    with polling(harmed) as errors:
        code = harmed.finish(harmed.start())
    drawn = sorted(trial.params["train.optimizer.lr"] for trial in harmed.rows().trials)
    twice = [] if drawn == [point["train.optimizer.lr"] for point in points] else ["settings were lost or run twice"]
    logs = "".join(path.read_text() for path in harmed.layout.study_dir.glob("worker*.log"))
    print(f"  100 trials in {time.monotonic() - started:.0f} s; 'locked' in the logs: {logs.count('locked')}")
    return [*exit_fault(code, 0), *harmed.problems(), *errors, *twice]


def export_while_running(folder: Path, _: int) -> list[str]:
    """Copies a running experiment, and opens every finished trial of the copy."""
    harmed = Harmed(folder, n_trials=6, n_epochs=4)
    harmed.write(n_images=32)
    search = harmed.start()
    wait_for(lambda: True if harmed.layout.database.exists() and n_complete(harmed) >= 2 else None)
    target = folder / "copy.tar.gz"
    command = [sys.executable, "-m", "attnsearch", "export", "faults", "--to", str(target)]
    exported = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    code = harmed.finish(search)
    with tarfile.open(target) as archive:
        archive.extractall(folder / "copy", filter="data")
    faults, n_whole = copy_faults(next((folder / "copy").rglob("hypSearch.db")))
    print(f"  the copy holds {n_whole} finished trials, all whole" if not faults else "  the copy is damaged")
    return [*exit_fault(exported.returncode, 0), *exit_fault(code, 0), *faults, *harmed.problems()]


def copy_faults(database: Path) -> tuple[list[str], int]:
    """What is missing of the finished trials of a copy, and how many there are."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as copy:
        check = copy.execute("pragma integrity_check").fetchone()[0]
        numbers = [row[0] for row in copy.execute("select number from trials where state = 'COMPLETE'")]
    faults = [] if check == "ok" else [f"integrity: {check}"]
    for number in numbers:
        (folder,) = database.parent.glob(f"*/trials/{number:05d}")
        names = ("config.yaml", "epochs.csv", "best.safetensors", "attMaps_val.npy", "images_val.csv")
        faults += [f"trial {number} lacks {name}" for name in names if not (folder / name).exists()]
        if len(read_csv(folder / "epochs.csv")) != 4:
            faults.append(f"trial {number} lacks epochs")
    return faults, len(numbers)


def n_complete(harmed: Harmed) -> int:
    try:
        return sum(trial.state == "complete" for trial in harmed.rows().trials)
    except StoreError:  # the search is still making its tables
        return 0


def not_resumed(harmed: Harmed, victims: Iterable[int]) -> list[str]:
    return [f"trial {n} did not resume" for n in victims if "resumes after epoch" not in harmed.log(n)]


def exit_fault(code: int, expected: int) -> list[str]:
    return [] if code == expected else [f"exit code {code}, not {expected}"]


HARMS: dict[str, Callable[[Path, int], list[str]]] = {
    harm.__name__: harm
    for harm in (killed_workers, killed_supervisors, sleeping_worker, many_writers, export_while_running)
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--only", choices=HARMS)
    arguments = parser.parse_args()
    n_faults = 0
    for name, harm in HARMS.items():
        if arguments.only in (None, name):
            print(name, flush=True)
            with tempfile.TemporaryDirectory() as folder:
                faults = harm(Path(folder), arguments.kills)
            print("  " + ("; ".join(faults) if faults else "nothing lost, nothing twice, nothing half-written"))
            n_faults += len(faults)
    return min(n_faults, 1)


if __name__ == "__main__":
    sys.exit(main())
