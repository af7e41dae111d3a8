"""How large the database is per trial, and how long commands take that read a study of many trials.

    PYTHONPATH=. python tests/benchmarks/many_trials.py [--n-trials 10000] [--n-epochs 30] [--repeats 3]

The bytes are of trials that four workers write at a time, epoch by epoch, with the metrics of a classifier, the scores
of its maps, files and leases. The study of many trials copies the rows of one such trial with other values. Each time
is that of a fresh process: `attnsearch list` and `attnsearch show` as a user waits for them, and in a worker the steps
from its start to its first trial, without its imports. Run it with the `PYTHONPATH` of another checkout to compare.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna

from attnsearch.config.load import resolved_study
from attnsearch.metrics.registry import score_metrics
from attnsearch.search.handle import StudyHandle, create_handle, open_handle
from attnsearch.search.study import study_identity
from attnsearch.store.file_records import FileRecord
from attnsearch.store.image_scores import make_table
from attnsearch.store.layout import StudyLayout
from attnsearch.store.score_journal import ImageScore
from attnsearch.store.urls import default_url
from attnsearch.types import EpochRecord
from tests.explorer.built import loaded

N_WRITTEN, N_WORKERS = 40, 4
COUNT = "WITH RECURSIVE copies(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM copies WHERE i + 1 < {end})"
SETTINGS = {"families": ["faithfulness", "localisation", "complexity"], "fill": "mean", "grid": None, "n_random": 1,
            "n_images": None, "n_steps": 16, "precision": "fp32", "protocol": "standard"}  # fmt: skip


def records_of(number: int, n_epochs: int) -> list[EpochRecord]:
    """What a classifier with one loss measures: 8 numbers of training and 13 of validation an epoch."""
    records = []
    for epoch in range(1, n_epochs + 1):
        value = 1 - 1 / (1.1 + epoch / 7 + number / 10_000)
        train = {"accuracy": value}
        halves = {"accuracy_half_a": value * 0.991, "accuracy_half_b": value * 1.007}
        val = {
            "accuracy": value,
            **halves,
            "cross_entropy": 1 / value,
            "mean_class_accuracy": value,
            "sparsity": 1.1 / 7,
        }
        for split, metrics in (("train", train), ("val", val)):
            costs = (2e-3 / epoch, 0.123 / value, 987.6 * value, 611.123456)
            loss = 1 / value
            records.append(EpochRecord(epoch, split, 4000, loss, {"cross_entropy": loss}, metrics, *costs))  # type: ignore[arg-type]
    return records


def write_trials(handle: StudyHandle, n_trials: int, n_epochs: int) -> None:
    """Whole trials as `N_WORKERS` workers write them at the same time."""
    axes = {"train.optimizer.name": optuna.distributions.CategoricalDistribution(("adam", "sgd")),
            "train.optimizer.lr": optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True)}  # fmt: skip
    for first in range(0, n_trials, N_WORKERS):
        trials = [handle.study.ask(axes) for _ in range(N_WORKERS)]
        attempts = [handle.store.leases.claim(one.number, f"host:{one.number}:a", duration_s=300) for one in trials]
        for epoch in range(1, n_epochs + 1):
            for trial, attempt in zip(trials, attempts, strict=True):
                handle.store.write_epochs(trial.number, records_of(trial.number, epoch), attempt=attempt)
                trial.report(records_of(trial.number, epoch)[-1].metrics["accuracy"], epoch - 1)
        for trial, attempt in zip(trials, attempts, strict=True):
            finish(handle, trial, attempt, n_epochs)
        assert first == trials[0].number


def finish(handle: StudyHandle, trial: optuna.Trial, attempt: int, n_epochs: int) -> None:
    """Scores, files, attributes and the end of a trial."""
    number, last = trial.number, records_of(trial.number, n_epochs)[-1]
    names = [metric.name for metric in score_metrics()[:20]]
    images = [ImageScore(f"{row}.jpg", dict.fromkeys(names, 0.1 + row / 7 + number / 10000.0), {}) for row in range(8)]
    about = {"version": 3, "split": "val", "settings": SETTINGS, "checkpoint": {"epoch": n_epochs}, "grid": [7, 7]}
    table = make_table(images, (), {**about, "digest": f"{number:064d}", "images": "i", "n_correct": 7})
    handle.store.write_scores(number, table, attempt=attempt)
    folder = f"br_npa_low_res/trials/{number:05d}"
    names_of = ("best.safetensors", "attMaps_val.npy", "norm_val.npy", "saliency_val.npy")
    files = {name: FileRecord(f"{folder}/{name}", (200, 3, 14, 14), "float32", "ab" * 32, 10**6) for name in names_of}
    handle.store.write_artifacts(number, files, attempt=attempt)
    measured = {
        f"val/{name}": value for name, value in {**last.metrics, **table.trial_means()}.items() if "half" not in name
    }
    attributes = {**measured, "val/loss": last.loss, "best_epoch": n_epochs, "epochs_run": n_epochs, "seconds": 60.123,
                  "images_per_s": 321.1, "folder": f"here/{folder}", "ended_at": 1.7e9 + number / 3}  # fmt: skip
    for key, value in attributes.items():
        trial.set_user_attr(key, value)
    for key in ("overlays.png", "curves.png", "epochs.csv"):
        words = {"artifact_id": "0" * 36, "filename": key, "mimetype": "image/png", "encoding": None}
        handle.study._storage.set_trial_system_attr(
            trial._trial_id, f"artifacts:{'0' * 33}{len(key):03d}", json.dumps(words)
        )
    handle.study.tell(trial, last.metrics["accuracy"])
    handle.store.leases.release(number, attempt, stalled=False)


def copy_trial(path: Path, n_trials: int) -> None:
    """Makes trials out of the last one, in all tables that name trials; values differ a little."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA synchronous = OFF")
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = {name: [row[1] for row in database.execute(f"PRAGMA table_info({name})")] for name in names}
        ((trial, number),) = database.execute("SELECT max(trial_id), max(number) FROM trials")
        count = COUNT.format(first=1, end=n_trials - number)
        for name in names:
            if "trial" in columns[name] and name != "attnsearch_score_values":
                copy_rows(database, count, name, columns[name], "trial", number)
            elif "trial_id" in columns[name]:
                copy_rows(database, count, name, columns[name], "trial_id", trial)
        if "attnsearch_score_values" in names:
            copy_scores(database, count, number, columns["attnsearch_score_values"])
        database.execute("UPDATE trial_values SET value = 0.3 + (trial_id * 7919 % 10007) / 20000.0")
        database.commit()


def copy_rows(database: sqlite3.Connection, count: str, name: str, columns: list[str], key: str, value: int) -> None:
    """The rows of one trial again and again, with new numbers."""
    own_key = next((one for one in columns if one in ("id", f"{name.removesuffix('s')}_id") or
                    (one in ("param_id", "trial_value_id", "trial_intermediate_value_id", "trial_user_attribute_id",
                            "trial_system_attribute_id", "trial_heartbeat_id") and one != key)), None)  # fmt: skip
    kept = [one for one in columns if one != own_key or one == key]
    new = {key: f"{key} + i", "number": "number + i", "digest": "printf('%064d', 1000000 + i)"}
    new |= {one: f"{one} * (1 - i * 1e-6)" for one in columns if one.startswith("value_") and one[6:].isdigit()}
    order = f"i, {', '.join(kept)}"
    database.execute(
        f"INSERT INTO {name} ({', '.join(kept)}) {count} SELECT {', '.join(new.get(one, one) for one in kept)} "
        f"FROM copies, {name} WHERE {key} = ? ORDER BY {order}",
        (value,),
    )


def copy_scores(database: sqlite3.Connection, count: str, number: int, columns: list[str]) -> None:
    """The scores of the copied scorings."""
    names = [one for one in columns if one != "scoring"]
    values = ", ".join(f"v.{one}" for one in names)
    database.execute(
        f"INSERT INTO attnsearch_score_values ({', '.join(['scoring', *names])}) "
        f"SELECT n.id, {values} FROM attnsearch_scorings n, attnsearch_scorings o, attnsearch_score_values v "
        "WHERE o.trial = ? AND n.trial > o.trial AND v.scoring = o.id ORDER BY n.id, v.metric",
        (number,),
    )


def first_claim(folder: Path) -> float:
    """Seconds of a worker from opening its study to its first trial."""
    from attnsearch.search.context import Worker
    from attnsearch.search.queue import claim_next

    layout, settings = study_in(folder)
    start = time.perf_counter()
    handle = open_handle(settings, layout, default_url(layout))
    claimed = claim_next(handle, Worker("host:1:a", None))
    seconds = time.perf_counter() - start
    assert not isinstance(claimed, str), claimed
    handle.database.close()
    return seconds


def study_in(folder: Path) -> tuple[StudyLayout, Any]:
    """The study, with room for more trials."""
    return StudyLayout(folder / "results", "here", "hunt"), loaded(
        folder, "squash", n_trials=10**5, objectives={"val/accuracy": "maximize"}, sampler={"name": "random"}
    )


def make(folder: Path, n_trials: int, n_epochs: int) -> None:
    layout, settings = study_in(folder)
    layout.study_dir.mkdir(parents=True)
    layout.study_yaml.write_text(resolved_study(settings), encoding="utf-8")
    identity = study_identity(settings, val_hash="split-a", class_names=("a", "b"))
    empty, handle = None, create_handle(settings, layout, default_url(layout), identity)
    with closing(sqlite3.connect(layout.database)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        empty = layout.database.stat().st_size
        write_trials(handle, N_WRITTEN, n_epochs)
        handle.database.close()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    per_trial = (layout.database.stat().st_size - empty) / N_WRITTEN
    print(f"{per_trial / 1000:.1f} kB per trial of {n_epochs} epochs", flush=True)
    copy_trial(layout.database, n_trials)


def seconds_of(command: list[str], repeats: int, *, prints: bool = False) -> str:
    """The median of fresh processes, the fastest, and processor seconds; what they import is compiled, as pip does."""
    found, busy = [], []
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for _ in range(repeats):
        start, before = time.perf_counter(), os.times()
        ended = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        found.append(float(ended.stdout) if prints else time.perf_counter() - start)
        after = os.times()
        busy.append(after.children_user + after.children_system - before.children_user - before.children_system)
    of_processor = "" if prints else f", {min(busy):.2f} s of a processor"
    return f"{statistics.median(found):.2f} s (fastest {min(found):.2f} s{of_processor})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-trials", type=int, default=10_000)
    parser.add_argument("--n-epochs", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the study is made, or was made before")
    parser.add_argument("--claim", action="store_true", help="only prints the seconds of a worker's first claim")
    arguments = parser.parse_args()
    if arguments.claim:
        print(first_claim(arguments.folder))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        if not (folder / "results").exists():
            make(folder, arguments.n_trials, arguments.n_epochs)
        results = str(folder / "results")
        megabytes = study_in(folder)[0].database.stat().st_size / 1e6
        print(f"{arguments.n_trials} trials of {arguments.n_epochs} epochs, database of {megabytes:.0f} MB")
        run = [sys.executable, "-m", "attnsearch"]
        steps: dict[str, Callable[[], str]] = {
            "list": lambda: seconds_of([*run, "list", "--results", results], arguments.repeats),
            "show": lambda: seconds_of([*run, "show", "here/hunt", "--results", results], arguments.repeats),
            "first claim of a worker": lambda: seconds_of(
                [sys.executable, __file__, "--claim", "--folder", str(folder)], arguments.repeats, prints=True
            ),
        }
        for name, step in steps.items():
            print(f"  {name}: {step()}", flush=True)


if __name__ == "__main__":
    main()
