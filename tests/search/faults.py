"""Runs real searches in processes of their own, harms them, and looks at what is left."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sqlalchemy import select

from attnsearch.config.yaml_layers import to_yaml
from attnsearch.errors import StoreError
from attnsearch.files import is_temporary
from attnsearch.processes import ProcessName
from attnsearch.search.trials import StudyRows, read_study
from attnsearch.store.database import open_reader, transaction
from attnsearch.store.epochs import read_csv
from attnsearch.store.layout import StudyLayout
from attnsearch.store.leases import HELD, Lease
from attnsearch.store.tables import leases_table
from attnsearch.store.urls import sqlite_url

PATIENCE_S = 300.0
_MAIN = """
import sys, time
real, ahead_s = time.time, %r
time.time = lambda: real() + ahead_s
from attnsearch.__main__ import main
sys.exit(main())
"""
T = TypeVar("T")


@dataclass(frozen=True)
class Harmed:
    """A search in a folder of its own; `server` is the URL of a database on one, None an SQLite file in the folder."""

    folder: Path
    n_trials: int
    n_epochs: int
    name: str = "victim"
    server: str | None = None

    @property
    def layout(self) -> StudyLayout:
        return StudyLayout(self.folder / "results", "faults", self.name)

    @property
    def url(self) -> str:
        return self.server or sqlite_url(self.layout.database)

    def _experiment(self, n_images: int) -> dict[str, object]:
        """The settings of trials of a second or more, on two classes of synthetic birds."""
        data = {
            "name": "synthetic",
            "n_classes": 2,
            "image_size_px": 32,
            "picture_px": 48,
            "n_train_per_class": n_images,
        }
        return {
            "name": self.name,
            "experiment": "faults",
            "data": {**data, "n_val_per_class": 4, "n_test_per_class": 4},
            "model": {"name": "br_npa", "backbone": "resnet10t", "width": 0.25},
            "train": {"epochs": self.n_epochs, "batch_size": 8, "precision": "fp32"},
            "runtime": {"n_threads": 1, "device": "cpu"},
        }

    def write_training(self) -> None:
        """The file of one training."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "train.yaml").write_text(to_yaml(self._experiment(n_images=32)))

    def write(self, *, n_images: int = 32, n_workers: int = 2, **study: object) -> None:
        """The study file."""
        base = self._experiment(n_images)
        space = {"train.optimizer.lr": {"kind": "float", "low": 1e-4, "high": 1e-2, "log": True}}
        values = {"name": self.name, "base": base, "space": space, "n_trials": self.n_trials, "n_workers": n_workers}
        values["storage"] = self.server
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "study.yaml").write_text(to_yaml({**values, **study}))

    def start(self, *words: str, machine: str | None = None) -> subprocess.Popen[bytes]:
        """Starts, or starts again, the search."""
        return self._start("search", "study.yaml", *words, machine=machine)

    def start_training(self) -> subprocess.Popen[bytes]:
        """Starts, or starts again, the training."""
        return self._start("train", "train.yaml")

    def _start(self, *words: str, machine: str | None = None, clock_s: float = 0.0) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", _MAIN % clock_s, *words]
        if machine is not None:
            rename = ["bash", "-c", f'hostname {machine}; exec "$@"', "_"]
            command = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", *rename, *command]
        environment = {**os.environ, "ATTNSEARCH_CACHE": str(self.folder / "cache"), "OMP_NUM_THREADS": "1"}
        with (self.folder / "search.log").open("ab") as log:
            return subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, env=environment)

    def start_worker(self, *words: str, machine: str | None = None, clock_s: float = 0.0) -> subprocess.Popen[bytes]:
        """Starts a worker of the study, which was begun.

        Args:
            machine: the host name of a PID namespace of its own, which is a machine as far as processes can tell.
            clock_s: by how many seconds its clock is ahead.
        """
        return self._start("worker", self.name, *self._named_storage(), *words, machine=machine, clock_s=clock_s)

    def _named_storage(self) -> tuple[str, ...]:
        return () if self.server is None else ("--storage", self.server)

    def finish(self, search: subprocess.Popen[bytes]) -> int:
        """Waits for the end of a search; its exit code."""
        return search.wait(timeout=PATIENCE_S)

    def rows(self) -> StudyRows:
        return read_study(self.url, self.name)

    def held(self) -> list[tuple[int, int, int]]:
        """(trial, epoch, process id) of every lease of a trial in force."""
        leases = [lease for lease in self.leases() if lease.state == HELD]
        processes = [(lease, ProcessName.of_worker(lease.worker)) for lease in leases]
        return [(lease.number, lease.epoch, process.pid) for lease, process in processes if process is not None]

    def leases(self) -> list[Lease]:
        """The last lease of each trial that was claimed."""
        try:
            with transaction(open_reader(self.url)) as connection:
                rows = connection.execute(select(leases_table).where(leases_table.c.trial >= 0)).mappings().all()
        except StoreError:  # database or tables do not exist yet
            return []
        return [
            Lease(row["trial"], **{key: value for key, value in row.items() if key not in ("study", "trial")})
            for row in rows
        ]

    def in_mid_trial(self, beyond: Mapping[int, int] | None = None) -> tuple[int, int, int]:
        """(trial, epoch, process id) of a worker in a trial of which one epoch at least is on the disk, and not all.

        That is known from the second epoch in the database on: files are written beside training.

        Args:
            beyond: trial -> epoch that it must have passed, so that a trial killed before gets somewhere first.
        """
        floor = beyond or {}
        return wait_for(lambda: next((h for h in self.held() if floor.get(h[0], 1) < h[1] < self.n_epochs - 1), None))

    def pause(self, pid: int) -> None:
        """Stops a worker, on SQLite outside of its transactions: one that is stopped inside holds up every writer."""
        if self.server is not None:
            os.kill(pid, signal.SIGSTOP)
            return
        while True:
            os.kill(pid, signal.SIGSTOP)
            with closing(sqlite3.connect(self.layout.database, timeout=1, isolation_level=None)) as database:
                try:
                    database.execute("begin immediate")
                    return
                except sqlite3.OperationalError:
                    os.kill(pid, signal.SIGCONT)

    def log(self, number: int) -> str:
        path = self.layout.trial(number).log
        return path.read_text() if path.exists() else ""

    def problems(self, lengths: Mapping[int, int] | None = None) -> list[str]:
        """Everything that a harmed and then finished study must not show; empty if all is well.

        Args:
            lengths: number of a trial -> epochs that it is trained for, where it pauses and may end at a rung; None
                where all are trained to the end.
        """
        trials = self.rows().trials
        found = [f"{len(trials)} trials, not {self.n_trials}"] if len(trials) != self.n_trials else []
        for trial in trials:
            last = self.n_epochs if lengths is None else lengths[trial.number]
            if trial.state != ("complete" if last == self.n_epochs else "pruned"):
                found.append(f"trial {trial.number} is {trial.state}")
                continue
            epochs = read_csv(self.layout.trial(trial.number).epochs_csv)["epoch"].tolist()
            if epochs != list(range(1, last + 1)):
                found.append(f"trial {trial.number} has the epochs {epochs}")
            if (n := self.log(trial.number).count(f"epoch {last}/{self.n_epochs}:")) != 1:
                found.append(f"trial {trial.number} finished its last epoch {n} times")
        found += [f"half-written {path.name}" for path in self.layout.experiment_dir.rglob("*") if is_temporary(path)]
        return found

    def attempts(self, number: int) -> int:
        return self.log(number).count(", attempt ")


def wait_for(look: Callable[[], T | None], *, patience_s: float = PATIENCE_S) -> T:
    """The first thing that `look` finds."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        found = look()
        if found is not None:
            return found
        time.sleep(0.02)
    raise TimeoutError(f"nothing happened in {patience_s} s")


@contextmanager
def polling(harmed: Harmed) -> Iterator[list[str]]:
    """Reads the study all the time, as a dashboard does; the list gets every error once it can be read."""
    stop, errors = threading.Event(), list[str]()

    def poll() -> None:
        was_read = False
        while not stop.is_set():
            try:
                harmed.rows()
                was_read = True
            except Exception as error:
                if was_read or not isinstance(error, StoreError):
                    errors.append(f"{type(error).__name__}: {error}")
            stop.wait(0.2)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield errors
    finally:
        stop.set()
        thread.join()
