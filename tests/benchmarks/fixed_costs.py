"""What a search costs beside training: two checkouts of the package search the same study in turns.

    python tests/benchmarks/fixed_costs.py OLD NEW [--repeats 2] [--study br_npa_low_res] [key=value ...]

Prints for each search of the demo its seconds and processor seconds, as the command counts them, those of the whole
process, imports included, and the fraction of the workers' time in which epochs ran, training and validation.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd


def search(checkout: Path, study: str, overrides: list[str], folder: str) -> dict[str, float]:
    """Runs one search by the code of a checkout, by two workers."""
    words = [study, "--profile", "demo", "--workers", "2", "--results", folder, "--json", *overrides]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    before, started = _processor_seconds(), time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-m", "attnsearch", "search", *words],
        cwd=checkout,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    seconds, processor = time.perf_counter() - started, _processor_seconds() - before
    told = json.loads(ended.stdout.splitlines()[-1])
    tables = [pd.read_csv(path) for path in Path(folder).glob("*/*/trials/*/epochs.csv")]
    in_epochs = sum(float(table["seconds"].sum()) for table in tables)
    return {
        "seconds": told["seconds"],
        "processor": told["processor_seconds"],
        "whole": seconds,
        "whole_processor": processor,
        "fraction": in_epochs / (2 * told["seconds"]),
    }


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--study", default="br_npa_low_res")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_intermixed_args()
    for _ in range(arguments.repeats):
        for name, checkout in (("old", arguments.old), ("new", arguments.new)):
            with tempfile.TemporaryDirectory() as folder:
                found = search(checkout.resolve(), arguments.study, arguments.overrides, folder)
            print(
                f"{name}: {found['seconds']:.1f} s, {found['processor']:.1f} processor seconds; whole process "
                f"{found['whole']:.1f} s, {found['whole_processor']:.1f}; epochs are {found['fraction']:.1%} of it",
                flush=True,
            )


if __name__ == "__main__":
    main()
