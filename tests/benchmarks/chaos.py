"""Harms real searches at random and checks that nothing is lost, twice or left over.

PYTHONPATH=. python tests/benchmarks/chaos.py [--seed 1] [--database sqlite|postgresql] [--signals 50] [--only PHASE]

Signals end or pause workers and searches, the second time while trials pause at rungs and are promoted; device errors
come out of the training step; a results folder on a small tmpfs (needs root) is filled while trials run; the PostgreSQL
server is stopped and started again. Every trial must end as in a search that nobody harmed, with each epoch once and
the very same numbers.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from attnsearch.store.epochs import read_csv
from attnsearch.store.trial_store import open_trial_records
from tests.postgres import PostgresServer, find_binaries, running_server
from tests.search.faults import Harmed, wait_for

N_TRIALS, N_EPOCHS, N_WORKERS = 6, 12, 2
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSTOP)
LEASE_S = 10.0
PAUSE_S = (1.0, 15.0)
"""Some stopped processes sleep through their leases, some do not."""
BETWEEN_S = (1.0, 8.0)
DISK_MIB = 48
N_HALVED = 8
HALVING = {"pruner": {"name": "halving"}, "sampler": {"name": "random"}}
"""Its settings depend on the number of a trial alone, so that all searches have the same trials."""
POINTS = [{"train.optimizer.lr": round(1e-3 * (1 + index), 7)} for index in range(N_TRIALS)]

#: Loaded by every Python process of a search: the first worker that sees the file raises what a broken device does.
INJECTION = """
    import importlib.abc, importlib.machinery, os, sys
    from pathlib import Path

    TRIGGER = Path(os.environ["CHAOS_TRIGGER"])

    class Loop(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name != "attnsearch.training.loop":
                return None
            spec = importlib.machinery.PathFinder.find_spec(name, path)
            execute = spec.loader.exec_module
            def exec_and_patch(module):
                execute(module)
                forward = module.forward
                def harmed(*arguments, **settings):
                    try:
                        TRIGGER.unlink()
                    except FileNotFoundError:
                        return forward(*arguments, **settings)
                    raise RuntimeError("CUDA error: unspecified launch failure")
                module.forward = harmed
            spec.loader.exec_module = exec_and_patch
            return spec

    sys.meta_path.insert(0, Loop())
"""


@dataclass
class Chaos:
    """All that is harmed on one kind of database."""

    folder: Path
    rng: random.Random
    server: PostgresServer | None
    reference: list[pd.DataFrame]
    halved: list[pd.DataFrame]
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def study(self, name: str, *, folder: Path | None = None, is_halved: bool = False) -> Harmed:
        """A new study; all of one folder share an experiment and its database."""
        url = self.server.url("chaos") if self.server else None
        n_trials = N_HALVED if is_halved else N_TRIALS
        harmed = Harmed(folder or self.folder, n_trials=n_trials, n_epochs=N_EPOCHS, name=name, server=url)
        own = HALVING if is_halved else {"enqueue": POINTS}
        harmed.write(n_images=64, n_workers=N_WORKERS, lease_s=LEASE_S, **own)
        return harmed

    def rungs(self, n_signals: int) -> None:
        """As `signals`, while trials pause at rungs and are promoted."""
        self.signals(n_signals, is_halved=True)

    def signals(self, n_signals: int, *, is_halved: bool = False) -> None:
        """Random signals to random processes, in one study after the other until all are sent."""
        for index in range(n_signals):
            name = f"{'rungs' if is_halved else 'signals'}{index}"
            harmed = self.study(name, is_halved=is_halved)
            search = harmed.start()
            while n_signals and search.poll() is None:
                time.sleep(self.rng.uniform(*BETWEEN_S))
                n_signals -= self.send_signal(search)
                if search.poll():
                    search = self.start_again(harmed, search)
            self.end(harmed, search, n_starts=5)
            if not n_signals:
                return

    def send_signal(self, search: subprocess.Popen[bytes]) -> bool:
        """Whether there was a process to send one to; two of three go to a worker."""
        who, number = self.rng.choice(["search", "worker", "worker"]), self.rng.choice(SIGNALS)
        if who == "worker":
            wait_for(lambda: True if children(search.pid) or search.poll() is not None else None)
        victims = children(search.pid) if who == "worker" else [search.pid]
        if search.poll() is not None or not victims:
            return False
        victim = self.rng.choice(victims)
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, number)
            self.counts[f"{number.name} to a {who}"] += 1
            print(f"    {number.name} to the {who} {victim}", flush=True)
            if number == signal.SIGSTOP:
                time.sleep(self.rng.uniform(*PAUSE_S))
                os.kill(victim, signal.SIGCONT)
            elif victim == search.pid:
                search.wait(timeout=120)
            return True
        return False

    def start_again(self, harmed: Harmed, search: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        self.counts["starts after an end"] += 1
        said = f" ({last_line(harmed)})" if search.returncode == 1 else ""
        print(f"    the search ended with {search.returncode}{said} and is started again", flush=True)
        return harmed.start()

    def devices(self, n_errors: int) -> None:
        """Device errors in one study, whose search must not end."""
        harmed = self.study("devices")
        search = harmed.start()
        for _ in range(n_errors):
            harmed.in_mid_trial()
            trigger(self.folder).touch()
            wait_for(lambda: None if trigger(self.folder).exists() else True)
            self.counts["device errors"] += 1
            wait_for(lambda: True if len(harmed.held()) == N_WORKERS or search.poll() is not None else None)
            print("    a device error", flush=True)
        self.end(harmed, search)

    def disks(self, n_disks: int) -> None:
        """Fills the disk of a results folder, waits for the search to say so, frees it and starts again."""
        for index in range(n_disks):
            folder = self.folder / f"disk{index}"
            with small_disk(folder / "results"):
                harmed = self.study(f"disk{index}", folder=folder)
                search = harmed.start()
                self.at_random_epoch(harmed)
                fill(folder / "results/filler")
                code = search.wait(timeout=300)
                said = last_line(harmed)
                print(f"    full disk, the search ended with {code}: {said}", flush=True)
                if code != 1 or str(folder / "results") not in said or not re.search("full|No space left", said):
                    self.faults.append(f"full disk: exit code {code}, {said!r}")
                (folder / "results/filler").unlink()
                self.counts["full disks"] += 1
                self.end(harmed, harmed.start())

    def restarts(self, n_restarts: int) -> None:
        """Stops the server for some seconds while trials run; the search must not end."""
        assert self.server is not None
        harmed = self.study("restarts")
        search = harmed.start()
        for index in range(n_restarts):
            self.at_random_epoch(harmed)
            before = n_logged(harmed)
            self.server.stop(signal.SIGQUIT if index == 1 else signal.SIGINT)
            time.sleep(self.rng.uniform(2, 12))
            trained = n_logged(harmed) - before
            self.server.start()
            print(f"    the server was away; {trained} epochs were trained meanwhile", flush=True)
            self.counts["server restarts"] += 1
            self.counts["epochs trained while the server was away"] += trained
        self.end(harmed, search)

    def at_random_epoch(self, harmed: Harmed) -> None:
        """Waits until some running trial is that far."""
        floor = self.rng.randrange(1, N_EPOCHS - 2)
        wait_for(lambda: True if any(epoch >= floor for _, epoch, _ in harmed.held()) else None)

    def end(self, harmed: Harmed, search: subprocess.Popen[bytes], *, n_starts: int = 1) -> None:
        """Waits for the end of a study and checks it; a search that a signal has ended may start again."""
        code = search.wait(timeout=900)
        while code and n_starts > 1:
            search, n_starts = self.start_again(harmed, search), n_starts - 1
            code = search.wait(timeout=900)
        found = [f"exit code {code}"] if code else []
        expected = self.halved if harmed.n_trials == N_HALVED else self.reference
        lengths = {number: len(frame) for number, frame in enumerate(expected)} or None
        if expected or harmed.n_trials == N_TRIALS:
            found += harmed.problems(lengths)
        found += [*left_over(harmed), *self.epoch_faults(harmed, expected)]
        self.faults += [f"{harmed.name}: {fault}" for fault in found]
        self.counts["studies"] += 1
        self.counts["trials"] += len(harmed.rows().trials)
        print(f"  {harmed.name}: {'; '.join(found) or 'exact'}", flush=True)

    def epoch_faults(self, harmed: Harmed, expected: list[pd.DataFrame]) -> list[str]:
        """Epochs that CSV, database or log have twice or differently, and numbers that harm has changed."""
        rows, found = harmed.rows(), []
        stored = open_trial_records(harmed.url, rows.uuid).read_epochs()
        for trial in rows.trials:
            frame = read_csv(harmed.layout.trial(trial.number).epochs_csv)
            in_database = stored.loc[stored["trial"] == trial.number]
            self.counts["epochs"] += len(frame)
            if in_database["epoch"].tolist() != frame["epoch"].tolist():
                found.append(f"trial {trial.number}: epochs of database and CSV differ")
            elif in_database["train/loss"].tolist() != frame["train_loss"].tolist():
                found.append(f"trial {trial.number}: losses of database and CSV differ")
            logged = Counter(re.findall(r" epoch (\d+)/", harmed.log(trial.number)))
            found += [f"trial {trial.number}: epoch {e} trained {n} times" for e, n in logged.items() if n > 1]
            if expected and not same_numbers(frame, expected[trial.number]):
                found.append(f"trial {trial.number}: other numbers than without harm")
        return found


def same_numbers(frame: pd.DataFrame, other: pd.DataFrame) -> bool:
    names = ["epoch", *(name for name in other.columns if name.endswith(("_loss", "_accuracy", "_sparsity")))]
    return frame[names].equals(other[names])


def left_over(harmed: Harmed) -> list[str]:
    """Resume checkpoints of finished trials; `Harmed.problems` looks for temporary files."""
    return [f"left over: {path.name}" for path in harmed.layout.study_dir.rglob("resume.*.pt")]


def last_line(harmed: Harmed) -> str:
    """What the search said at its end."""
    return (harmed.folder / "search.log").read_text().strip().splitlines()[-1]


def n_logged(harmed: Harmed) -> int:
    return sum(len(re.findall(r" epoch \d+/", harmed.log(number))) for number in range(N_TRIALS))


def children(pid: int) -> list[int]:
    """Process ids of the workers of a search."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def trigger(folder: Path) -> Path:
    return folder / "fail"


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    """Writes until nothing more fits."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def undisturbed(folder: Path, *, is_halved: bool) -> list[pd.DataFrame]:
    """The epochs of every trial of the study that nobody harms."""
    plain = Chaos(folder, random.Random(0), None, [], [])
    harmed = plain.study(f"undisturbed_{'rungs' if is_halved else 'signals'}", is_halved=is_halved)
    plain.end(harmed, harmed.start())
    assert not plain.faults, plain.faults
    return [read_csv(harmed.layout.trial(number).epochs_csv) for number in range(harmed.n_trials)]


def harm(arguments: argparse.Namespace, folder: Path, reference: list[pd.DataFrame], halved: list[pd.DataFrame]) -> int:
    """Everything on one kind of database; returns the number of problems."""
    with contextlib.ExitStack() as stack:
        server = None
        if arguments.database == "postgresql":
            binaries = find_binaries()
            if binaries is None:
                print("no PostgreSQL server is installed (Debian: apt-get install postgresql)")
                return 1
            server = stack.enter_context(running_server(binaries))
            server.create_database("chaos")
        chaos = Chaos(folder, random.Random(arguments.seed), server, reference, halved)
        phases = {"signals": arguments.signals, "rungs": arguments.signals, "devices": 5, "disks": 3, "restarts": 3}
        for name, n in phases.items():
            if arguments.only in (None, name) and not (name == "restarts" and server is None):
                print(f"{arguments.database}: {name}", flush=True)
                getattr(chaos, name)(n)
        print(f"{arguments.database}: " + ", ".join(f"{n} {what}" for what, n in sorted(chaos.counts.items())))
        print("  " + ("; ".join(chaos.faults) if chaos.faults else "nothing lost, nothing twice, nothing left over"))
        return len(chaos.faults)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--signals", type=int, default=50)
    parser.add_argument("--only", choices=("signals", "rungs", "devices", "disks", "restarts"))
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background may ignore it, and its children
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "hook").mkdir()
        (folder / "hook/sitecustomize.py").write_text(textwrap.dedent(INJECTION))
        paths = [str(folder / "hook"), os.environ.get("PYTHONPATH", "")]
        os.environ |= {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "CHAOS_TRIGGER": str(trigger(folder / "harmed")),
        }
        started = time.monotonic()
        only, parent = arguments.only, folder / "reference"
        reference = undisturbed(parent, is_halved=False) if only != "rungs" else []
        halved = undisturbed(parent, is_halved=True) if only in (None, "rungs") else []
        n_faults = harm(arguments, folder / "harmed", reference, halved)
        print(f"  {time.monotonic() - started:.0f} s")
    return min(n_faults, 1)


if __name__ == "__main__":
    sys.exit(main())
