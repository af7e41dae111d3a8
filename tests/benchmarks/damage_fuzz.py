"""Damages databases and files of a results folder, asks every reader, and counts raw exceptions.

PYTHONPATH=. python tests/benchmarks/damage_fuzz.py [--databases 500] [--files 200] [--seed 0]

A raw exception is anything but the package's own errors in a command, and a page that fails without saying why.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.explorer.damage import copy_of, harm_results
from tests.explorer.every_reader import ask_every_reader, build_whole


@dataclass
class Tally:
    """What was asked of some damaged results."""

    n_damaged: int = 0
    n_readers: int = 0
    slowest_s: float = 0.0
    harms: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def line(self, what: str) -> str:
        return (
            f"{self.n_damaged} {what}, {self.n_readers} answers: {len(self.faults)} raw exceptions; "
            f"all readers of one took at most {self.slowest_s:.1f} s of processor time"
        )


def fuzz(kind: str, seeds: range, folder: Path) -> Tally:
    """Damages a copy of the same results for each seed.

    Args:
        kind: `databases` or `files`.
        folder: for the results and their copies.
    """
    built = build_whole(folder / "sound")
    layout = replace(built.layout, root=folder / "damaged")
    tally = Tally()
    for seed in seeds:
        copy_of(built.root, layout.root)
        harm = harm_results(kind, seed, layout)
        started = time.process_time()
        asked = ask_every_reader(layout, folder)
        tally.slowest_s = max(tally.slowest_s, time.process_time() - started)
        tally.n_damaged += 1
        tally.n_readers += asked.n_readers
        tally.harms[harm.split()[0]] = tally.harms.get(harm.split()[0], 0) + 1
        tally.faults += [f"{kind} {seed}, {harm}: {fault}" for fault in asked.faults]
    return tally


def _tallies(counts: dict[str, int], first: int) -> Iterator[tuple[str, Tally]]:
    for kind, count in counts.items():
        with tempfile.TemporaryDirectory() as folder:
            yield kind, fuzz(kind, range(first, first + count), Path(folder))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--databases", type=int, default=500)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")  # numpy and matplotlib on odd values
    os.environ["ATTNSEARCH_CACHE"] = tempfile.mkdtemp()
    n_faults = 0
    for kind, tally in _tallies({"databases": arguments.databases, "files": arguments.files}, arguments.seed):
        print(tally.line(kind), flush=True)
        print("  " + ", ".join(f"{name} {count}" for name, count in sorted(tally.harms.items())))
        for fault in tally.faults:
            print(f"  {fault}")
        n_faults += len(tally.faults)
    return min(n_faults, 1)


if __name__ == "__main__":
    sys.exit(main())
