"""Loses nodes and reaches time limits on a Slurm cluster of two virtual nodes, where a study must end whole.

PYTHONPATH=. python tests/benchmarks/clusters.py [--only limit|node]

Needs root, `slurm-wlm`, `munge` and `postgresql` of Debian, and some minutes. `limit`: elements of two minutes, which
return their trials after one and are queued again. `node`: the daemon of a node and all that it started are killed in
mid-trial. Every trial must end complete, with each epoch once.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.postgres import find_binaries, running_server
from tests.search.faults import Harmed
from tests.slurm import SlurmCluster, missing, running_cluster

PATIENCE_S = 900.0
NODE_LOST = "n1"
Event = Callable[[SlurmCluster, str], None]


def limit(cluster: SlurmCluster, number: str) -> None:
    """Nothing is done: time passes."""


def node(cluster: SlurmCluster, number: str) -> None:
    """Ends a node with all that runs on it; it comes back once Slurm knows."""
    cluster.kill_node(NODE_LOST)
    cluster.wait_for(lambda: "PENDING" in cluster.states(number).values())
    cluster.start_node(NODE_LOST)


EVENTS: dict[str, tuple[Event, int]] = {"limit": (limit, 250), "node": (node, 120)}
"""What happens in mid-trial, and the epochs of a trial."""


def run(name: str, cluster: SlurmCluster, url: str, folder: Path) -> list[str]:
    """One scenario; what must not be."""
    event, n_epochs = EVENTS[name]
    harmed = Harmed(folder / name, 3, n_epochs, server=url)
    harmed.write(lease_s=8, n_images=64)
    assert harmed.finish(harmed.start("--create-only")) == 0
    words = ["slurm", "victim", "--workers", "2", "--time", "2:00", "--storage", url]
    done = subprocess.run(
        [sys.executable, "-m", "attnsearch", *words], cwd=harmed.folder, capture_output=True, text=True, check=True
    )
    number = re.findall(r"job (\d+):", done.stdout)[0]
    began = time.monotonic()
    cluster.wait_for(lambda: [trial.state for trial in harmed.rows().trials] == ["running"] * 2)
    time.sleep(3.0)
    event(cluster, number)

    def is_over() -> bool:
        cluster.start_at_once(number)
        return set(cluster.states(number).values()) == {"COMPLETED"}

    cluster.wait_for(is_over, patience_s=PATIENCE_S)
    logs = "".join(harmed.layout.worker_log(f"{number}_{index}").read_text() for index in range(2))
    problems = harmed.problems()
    print(
        f"{name}: over after {time.monotonic() - began:.0f} s; attempts of the trials "
        f"{[harmed.attempts(index) for index in range(3)]}; {logs.count('returns to the queue')} were returned; "
        f"problems: {problems or 'none'}",
        flush=True,
    )
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=EVENTS)
    only, binaries, reason = parser.parse_args().only, find_binaries(), missing()
    if binaries is None or reason is not None:
        print(reason or "no PostgreSQL server")
        return 2
    problems: list[str] = []
    with running_server(binaries) as server, tempfile.TemporaryDirectory() as name:
        os.environ["ATTNSEARCH_CACHE"] = f"{name}/cache"
        for scenario in [only] if only else EVENTS:
            with running_cluster() as cluster, server.empty_database() as url:
                os.environ.update(cluster.environment)
                problems += run(scenario, cluster, url, Path(name))
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
