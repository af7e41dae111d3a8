"""What the tests of concurrent access run in processes of their own: `processes.py ask|write|search|hold …`."""

from __future__ import annotations

import sys
from pathlib import Path

import optuna

from attnsearch.files import atomic_write
from attnsearch.store.database import Connections, connect_writer, open_writer
from attnsearch.store.layout import StudyLayout
from attnsearch.store.trial_store import SqlTrialStore
from attnsearch.types import EpochRecord


def open_storage(url: str) -> tuple[optuna.storages.RDBStorage, Connections]:
    return connect_writer(url, optuna.storages.RDBStorage, patience_s=0.0)


def ask(url: str, n_trials: str) -> None:
    """Runs trials of the study "gull" and prints their numbers."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage, _ = open_storage(url)
    study = optuna.load_study(study_name="gull", storage=storage)
    for _ in range(int(n_trials)):
        trial = study.ask()
        print(trial.number)
        study.tell(trial, 0.0)


def write(url: str, study_uuid: str, number: str, n_epochs: str) -> None:
    """Claims a trial, writes its epochs one by one and prints the attempt."""
    layout = StudyLayout(Path(), "CUB", "br_npa")
    store = SqlTrialStore(Connections(url, open_writer(url)), study_uuid, layout)
    attempt = store.leases.claim(int(number), f"worker {number}", duration_s=300)
    records: list[EpochRecord] = []
    for epoch in range(1, int(n_epochs) + 1):
        records.append(EpochRecord(epoch, "train", 10, 0.5, {}, {}, 0.1, 1.0, 10.0, 1.0))
        store.write_epochs(int(number), records, attempt=attempt)
        store.leases.renew(int(number), attempt, epoch=epoch, duration_s=300)
    print(attempt)


def search(url: str, root: str, study_uuid: str, n_trials: str) -> None:
    """Runs trials of the study "gull": two epochs in the database, then the weights, then the end."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage, connections = open_storage(url)
    study = optuna.load_study(study_name="gull", storage=storage)
    layout = StudyLayout(Path(root), "CUB", "br_npa")
    store = SqlTrialStore(connections, study_uuid, layout)
    for _ in range(int(n_trials)):
        trial = study.ask()
        records = [EpochRecord(epoch, "train", 10, 0.5, {}, {}, 0.1, 1.0, 10.0, 1.0) for epoch in (1, 2)]
        store.write_epochs(trial.number, records, attempt=None)
        atomic_write(layout.trial(trial.number).best, b"w" * 10_000)
        study.tell(trial, 0.0)


def hold(url: str) -> None:
    """Holds a write transaction until its input ends."""
    with open_writer(url).begin() as connection:
        connection.exec_driver_sql("INSERT INTO attnsearch_meta VALUES ('k', 'v')")
        print("held", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    {"ask": ask, "write": write, "search": search, "hold": hold}[sys.argv[1]](*sys.argv[2:])
