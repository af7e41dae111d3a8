"""What a dry run says of five settings and of one whole study, beside what the same searches then take.

    PYTHONPATH=. python tests/benchmarks/forecast.py [--cases 0 1 2 3 4 5] [--epochs 4] [--json FILE]

Each case is a search of the demo profile: five of one trial at range limits of image size, width, batch size and model
family, and one study of eight trials with halving and two workers. The dry run comes first, then the search itself, as
a process of its own. Processor time is that of all processes, without the imports and checks at the start, which both
have in common; memory is the private memory of the largest worker, and disk what lies in the results folder, both at
most and looked at 50 times a second. A ratio is forecast by measured. Other work on the machine makes all times longer,
by how much the load average before and after tells: wall time means something on an idle machine alone.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from attnsearch.files import bytes_below

ONE = ("n_trials=1", "n_workers=1", "enqueue=[]", "space.train.optimizer.lr=null")
CASES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("br_npa 128 px, width 1, batch 32", "br_npa_low_res",
     (*ONE, "data.image_size_px=128", "model.width=1.0", "train.batch_size=32")),
    ("br_npa 64 px, width 0.25, batch 8", "br_npa_low_res",
     (*ONE, "data.image_size_px=64", "model.width=0.25", "train.batch_size=8")),
    ("br_npa high res, batch 16", "br_npa_high_res", ONE),
    ("intr, batch 16", "intr_cub", ONE),
    ("cnn 96 px, batch 64, no scores", "cnn", (*ONE, "train.batch_size=64", "evaluation.scores.families=[]")),
    ("study of 8, halving, 2 workers", "br_npa_low_res",
     ("n_trials=8", "n_workers=2", "enqueue=[]", "pruner={name: halving, first_epochs: 2}",
      "space.train.batch_size={kind: int, low: 8, high: 32, log: true}",
      "space.model.width={kind: choice, choices: [0.25, 0.5]}")),
)  # fmt: skip
ALLOWED = {"processor s": 0.2, "memory MB": 0.2, "disk MB": 0.2, "wall s": 0.3}
LOOK_EVERY_S = 0.02


@dataclass
class Measured:
    """What one search has taken."""

    wall_s: float = 0.0
    processor_s: float = 0.0
    memory_mb: float = 0.0
    disk_mb: float = 0.0


def command(study: str, overrides: list[str], results: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "attnsearch", "search", study, "--profile", "demo", *overrides,
            "--results", str(results), *more]  # fmt: skip


def searched(study: str, overrides: list[str], log: Path) -> Measured:
    """Runs the search and looks at its workers and its folder."""
    with tempfile.TemporaryDirectory() as folder:
        results, measured = Path(folder) / "results", Measured()
        begun = time.perf_counter()
        with log.open("ab") as file:
            process = subprocess.Popen(command(study, overrides, results), stdout=file, stderr=file)
        is_over = threading.Event()
        watcher = threading.Thread(target=watch, args=(process.pid, results, measured, is_over))
        watcher.start()
        _, status, used = os.wait4(process.pid, 0)
        measured.wall_s = time.perf_counter() - begun
        is_over.set()
        watcher.join()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"the search ended with {process.returncode}, see {log}")
        measured.processor_s = used.ru_utime + used.ru_stime
        return measured


def watch(pid: int, results: Path, measured: Measured, is_over: threading.Event) -> None:
    """Keeps the largest private memory of any worker and the most bytes in the folder."""
    while not is_over.wait(LOOK_EVERY_S):
        for child in children(pid):
            measured.memory_mb = max(measured.memory_mb, private_mb(child))
        try:
            measured.disk_mb = max(measured.disk_mb, bytes_below(results) / 1e6)
        except FileNotFoundError:  # a temporary file got its name meanwhile
            continue


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def private_mb(pid: int) -> float:
    try:
        found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def compare(name: str, study: str, overrides: list[str], log: Path) -> dict[str, object]:
    """Dry run and search of one case, as a table of forecast, measured and ratio."""
    load_before, begun = os.getloadavg()[0], time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, log.open("ab") as file:
        ran = subprocess.run(
            command(study, overrides, Path(folder), "--dry-run", "--json"),
            stdout=subprocess.PIPE,
            stderr=file,
            check=True,
        )
    found, dry_run_s = json.loads(ran.stdout), time.perf_counter() - begun
    real = searched(study, overrides, log)
    common = found["preparation"]["processor_seconds"]
    worker = max(found["draws"], key=lambda draw: draw["memory_bytes"])
    rows = {
        "processor s": (found["total"]["processor_seconds"] - common, real.processor_s - common),
        "memory MB": (worker["memory_bytes"] / 1e6, real.memory_mb),
        "disk MB": (found["disk"]["peak"] / 1e6, real.disk_mb),
        "wall s": (found["total"]["seconds"], real.wall_s),
    }
    print(f"\n{name}  (dry run {dry_run_s:.0f} s; load {load_before:.1f} before, {os.getloadavg()[0]:.1f} after)")
    for what, (foretold, measured) in rows.items():
        ratio = foretold / measured
        verdict = "" if abs(ratio - 1) <= ALLOWED[what] else f"  outside of {ALLOWED[what]:.0%}"
        print(
            f"  {what:12} forecast {foretold:8.1f}   measured {measured:8.1f}   ratio {ratio:.2f}{verdict}", flush=True
        )
    return {"case": name, "dry_run_s": dry_run_s, **{what: list(row) for what, row in rows.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, nargs="*", default=range(len(CASES)))
    parser.add_argument("--epochs", type=int, default=4, help="of the trials of the five settings")
    parser.add_argument("--json", type=Path, help="file that gets the numbers")
    given = parser.parse_args()
    log = Path(tempfile.gettempdir()) / "attnsearch-forecast.log"
    found = []
    for index in given.cases:
        name, study, overrides = CASES[index]
        epochs = [f"train.epochs={given.epochs}"] if overrides[: len(ONE)] == ONE else []
        found.append(compare(name, study, [*overrides, *epochs], log))
        if given.json:
            given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
