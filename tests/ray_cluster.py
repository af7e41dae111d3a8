"""A cluster of Ray on this machine only, in a process of its own: Ray reads its environment when it is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # everything listens on 127.0.0.1
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "ab" * 32,
    "RAY_worker_niceness": "0",  # at 15, its own value, workers get 4 % of a processor that others use too
}
OBJECT_STORE_BYTES = 80 * 2**20


@dataclass(frozen=True)
class RayCluster:
    """A head without resources, and the nodes that were added; each has one CPU and one GPU, which does not exist."""

    process: subprocess.Popen[str]
    address: str

    def add_node(self) -> None:
        """Adds a node."""
        _ask(self.process, "add")

    def lose_node(self) -> None:
        """Ends the oldest node without a word."""
        _ask(self.process, "lose")


def _ask(process: subprocess.Popen[str], command: str) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    print(command, file=process.stdin, flush=True)
    for line in process.stdout:  # Ray prints too
        if line.startswith("done "):
            return line.removeprefix("done ").strip()
    raise RuntimeError("the cluster has ended")


@contextmanager
def running_ray() -> Iterator[RayCluster]:
    """A cluster that runs during the block."""
    command, environment = [sys.executable, __file__], {**os.environ, **ENVIRONMENT}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield RayCluster(process, _ask(process, "address"))
        assert process.stdin is not None
        process.stdin.close()


def _serve() -> None:
    """The process of the cluster: a command on each line, until there are no more."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    cluster, nodes = Cluster(initialize_head=True, head_node_args=head), []
    for line in sys.stdin:
        if line.strip() == "add":
            nodes.append(cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=OBJECT_STORE_BYTES))
        elif line.strip() == "lose":
            cluster.remove_node(nodes.pop(0), allow_graceful=False)
        print("done", cluster.address, flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    _serve()
