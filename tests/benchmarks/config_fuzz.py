"""Damages configs, studies, profiles and overrides, and counts what is neither taken nor refused in one message.

PYTHONPATH=. python tests/benchmarks/config_fuzz.py [--cases 10000] [--seed 1] [--only INDEX]
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tests.config.mutations import Case, cases, is_accepted, put

PATIENCE_S = 10
SLOWEST_S = 1.0


class TooLong(BaseException):
    """Raised by the watchdog."""


def stop(_: int, __: FrameType | None) -> NoReturn:
    raise TooLong


def outcome(case: Case) -> str:
    """`accepted`, `refused`, or the traceback."""
    signal.alarm(PATIENCE_S)
    try:
        return "accepted" if is_accepted(case) else "refused"
    except (Exception, TooLong):
        return traceback.format_exc()
    finally:
        signal.alarm(0)


def main() -> int:
    """Prints the counts; 1 if there was a traceback or a slow case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="run one case and show it")
    arguments = parser.parse_args()
    signal.signal(signal.SIGALRM, stop)
    warnings.simplefilter("ignore")
    counts: Counter[str] = Counter()
    seconds: list[tuple[float, float, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for index, case in enumerate(cases(arguments.seed, arguments.cases)):
            if arguments.only not in (None, index):
                continue
            put(case, Path())
            started, busy = time.perf_counter(), time.process_time()
            found = outcome(case)
            seconds.append((time.perf_counter() - started, time.process_time() - busy, index))
            counts[found if found in ("accepted", "refused") else "traceback"] += 1
            if found not in ("accepted", "refused") or arguments.only is not None:
                print(f"case {index}: {case}\n{found}" if arguments.only is not None else f"case {index}: {found}")
    slowest, of_processor, which = max(seconds)
    print(
        f"seed {arguments.seed}: {len(seconds)} cases, {counts['accepted']} accepted, {counts['refused']} refused, "
        f"{counts['traceback']} tracebacks; slowest {slowest:.2f} s, {of_processor:.2f} s of them of the processor "
        f"(case {which}); {sum(one[0] for one in seconds):.0f} s in all"
    )
    return int(counts["traceback"] > 0 or slowest >= SLOWEST_S)


if __name__ == "__main__":
    sys.exit(main())
