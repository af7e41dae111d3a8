"""A Slurm cluster of the tests' own: one controller and two virtual nodes with a GPU each, on this machine only."""

from __future__ import annotations

import contextlib
import os
import platform
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "squeue")
NODES = ("n1", "n2")
PATIENCE_S, SETTLED_S = 60.0, 3.0
PREEMPTING, PREEMPTED = "high", "low"
"""The partitions; jobs of the second one are requeued where the first one needs their node."""

_CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=slurm
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/state/slurmctld.pid
SlurmctldLogFile={folder}/state/slurmctld.log
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/spool-%n/slurmd.pid
SlurmdLogFile={folder}/spool-%n/slurmd.log
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=2,bf_interval=2
ReturnToService=2
SlurmdTimeout=10
KillWait=20
MinJobAge=3600
GresTypes=gpu
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[2]}] CPUs=2 RealMemory=2000 Gres=gpu:1
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=2 State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF State=UP
"""
_GPUS = "NodeName=n1 Name=gpu File=/dev/null Count=1\nNodeName=n2 Name=gpu File=/dev/zero Count=1\n"


def missing() -> str | None:
    """Why there can be no cluster here; None where there can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"no {absent[0]} (Debian: apt-get install slurm-wlm munge)"
    accounts = {entry.pw_name for entry in pwd.getpwall()}
    if os.geteuid() != 0 or not {"munge", "slurm"} <= accounts:
        return "only root can start Slurm for the accounts munge and slurm"
    return None


@dataclass
class SlurmCluster:
    """The daemons, and the commands that speak to them.

    Attributes:
        folder: of all files of the cluster, which other accounts may enter.
        daemons: by the name of their node or program.
        waiting: element -> since when `start_at_once` has seen it wait, in seconds of `time.monotonic`.
    """

    folder: Path
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    waiting: dict[str, float] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """What the commands of Slurm need."""
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def start(self) -> None:
        """Starts all daemons, and returns when both nodes take jobs."""
        self._start_munge()
        ports = _neighbouring_ports(3)
        host = platform.node().partition(".")[0]
        text = _CONFIGURATION.format(host=host, ports=ports, folder=self.folder)
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text(_GPUS)
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir()
        shutil.chown(self.folder / "state", "slurm")
        self._daemon("slurmctld", "slurmctld", "-D", "-c")
        for node in NODES:
            self.start_node(node)
        self.wait_for(
            lambda: self.run("sinfo", "-h", "-N", "-p", PREEMPTED, "-o", "%T").split() == ["idle"] * len(NODES)
        )

    def _start_munge(self) -> None:
        folder = self.folder / "munge"
        folder.mkdir(mode=0o711)
        (folder / "key").write_bytes(secrets.token_bytes(128))
        (folder / "key").chmod(0o400)
        for path in (folder, folder / "key"):
            shutil.chown(path, "munge", "munge")
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={folder / name}" for option, name in files.items()]
        account = pwd.getpwnam("munge")
        identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        with (self.folder / "munged.log").open("ab") as log:
            self.daemons["munged"] = subprocess.Popen(
                ["munged", "--force", "--foreground", *options], stdout=log, stderr=log, **identity
            )
        self.wait_for((folder / "socket").exists)

    def start_node(self, node: str) -> None:
        """Starts the daemon of a node."""
        self._daemon(node, "slurmd", "-D", "-N", node)

    def _daemon(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                [*command, "-f", str(self.folder / "slurm.conf")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )

    def run(self, *command: str) -> str:
        """What a command of Slurm prints.

        Raises:
            RuntimeError: it failed.
        """
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{command}: {done.stderr}")
        return done.stdout

    def states(self, job: str) -> dict[str, str]:
        """Element of a job array -> its state, of elements that Slurm has not forgotten."""
        lines = self.run("squeue", "-h", "-a", "-r", "-t", "all", "-j", job, "-o", "%i %T").splitlines()
        return {name.rpartition("_")[2]: state for name, state in map(str.split, lines)}

    def start_at_once(self, job: str) -> None:
        """Spares requeued elements most of the two minutes that Slurm makes them wait; to be called again and again.

        A node that still ends the job of before would end one with the same number that starts in the same second.
        """
        for element, state in self.states(job).items():
            since = self.waiting.setdefault(f"{job}_{element}", time.monotonic())
            if state != "PENDING":
                del self.waiting[f"{job}_{element}"]
            elif time.monotonic() - since > SETTLED_S:
                with contextlib.suppress(RuntimeError):  # it has begun in between
                    self.run("scontrol", "update", f"JobId={job}_{element}", "StartTime=now")

    def kill_node(self, node: str) -> None:
        """Ends the daemon of a node and all that it has started, as a power cut would: nothing reports any end."""
        daemon = self.daemons.pop(node)
        marks = {f"SLURM_CONF={self.folder}/slurm.conf", f"SLURMD_NODENAME={node}"}
        jobs = [pid for pid in _all_pids() if marks <= _variables(pid)]
        steps = {parent for pid in jobs if (parent := _parent(pid)) not in (*jobs, 0, 1)}  # these would report
        for pid in (daemon.pid, *steps, *jobs):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        daemon.wait()

    def wait_for(self, is_true: object, patience_s: float = PATIENCE_S) -> None:
        """Returns once a function is true.

        Raises:
            TimeoutError: it is not for too long.
        """
        assert callable(is_true)
        deadline = time.monotonic() + patience_s
        while not is_true():
            if time.monotonic() > deadline:
                logs = "\n".join(path.read_text()[-3000:] for path in sorted(self.folder.glob("**/*.log")))
                raise TimeoutError(f"not within {patience_s:g} s:\n{logs}")
            time.sleep(0.2)

    def cancel_all(self) -> None:
        """Ends all jobs at once."""
        self.run("scancel", "--me", "--full", "--signal=KILL", "--state=RUNNING")
        self.run("scancel", "--me")

    def stop(self) -> None:
        """Ends all jobs, then all daemons."""
        if "slurmctld" in self.daemons:
            with contextlib.suppress(RuntimeError):
                self.cancel_all()
        for node in NODES:
            if node in self.daemons:
                self.kill_node(node)
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
            daemon.wait(PATIENCE_S)


def _all_pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]


def _variables(pid: int) -> set[str]:
    """The environment of a process; empty where it has ended."""
    try:
        return set(Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0"))
    except OSError:
        return set()


def _parent(pid: int) -> int:
    """The process that started one; 0 where that has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _neighbouring_ports(n_ports: int) -> list[int]:
    """Free ports in a row, as Slurm wants them for its nodes."""
    while True:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            first = stack.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            ports = [first.getsockname()[1] + index for index in range(n_ports)]
            for port in ports[1:]:
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return ports


@contextmanager
def running_cluster() -> Iterator[SlurmCluster]:
    """A cluster that runs during the block; afterwards nothing of it is left, process or file."""
    folder = Path(tempfile.mkdtemp(prefix="attnsearch-slurm-"))
    folder.chmod(0o755)
    cluster = SlurmCluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder)
