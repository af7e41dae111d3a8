"""Actors of Ray that keep workers running, alone and on a local cluster that loses a node."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from attnsearch.errors import DONE, FAILED, INTERRUPTED, MISUSED, TRANSIENT, ConfigError, SearchStopped
from attnsearch.search.launchers import ray as module
from attnsearch.search.launchers.ray import RayPool, RayRequest, RayWorker, import_ray
from attnsearch.store.layout import StudyLayout
from tests.ray_cluster import ENVIRONMENT, RayCluster, running_ray
from tests.search.faults import Harmed, wait_for

N_TRIALS, N_EPOCHS = 2, 60
NEEDS_RAY = pytest.mark.skipif(find_spec("ray") is None, reason="no Ray (pip install 'attnsearch[ray]')")
"""Ray itself is imported in other processes only: the threads that it starts are no good to tests that fork."""


class PlayedWorker(RayWorker):
    """An actor outside of Ray whose worker is a Python program."""

    def __init__(self, program: str, folder: Path) -> None:
        super().__init__(("-c", program, str(folder / "turns")), {"GREETING": "hello"}, folder / "worker.log")


@pytest.fixture(autouse=True)
def without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor pauses: nobody asks Ray outside of an actor."""
    monkeypatch.setattr(module, "_assigned_gpus", lambda: {"ATTNSEARCH_ASSIGNED_GPU": "3"})
    monkeypatch.setattr(module, "PAUSES_AFTER_S", (0.0, 0.0, 0.0))


ENDING_WITH = """
import os, sys
from pathlib import Path
turns = Path(sys.argv[1])
codes = {codes}
n = len(turns.read_text()) if turns.exists() else 0
turns.write_text("x" * (n + 1))
print(os.environ["GREETING"], os.environ["ATTNSEARCH_ASSIGNED_GPU"], n)
sys.exit(codes[n]) if codes[n] >= 0 else os.kill(os.getpid(), -codes[n])
"""


@pytest.mark.parametrize(
    ("codes", "expected", "n_turns"),
    [
        ([DONE], DONE, 1),
        ([FAILED], FAILED, 1),
        ([INTERRUPTED], INTERRUPTED, 1),
        ([TRANSIENT, DONE], DONE, 2),
        ([-signal.SIGKILL, TRANSIENT, DONE], DONE, 3),
        ([TRANSIENT] * 4, TRANSIENT, 4),
    ],
)
def test_worker_is_started_again_where_that_may_help(
    codes: list[int], expected: int, n_turns: int, tmp_path: Path
) -> None:
    ended = PlayedWorker(ENDING_WITH.format(codes=list(map(int, codes))), tmp_path).run()
    assert ended == (expected, f"hello 3 {n_turns - 1}")
    assert len((tmp_path / "turns").read_text()) == n_turns


def test_worker_that_ran_for_long_may_end_early_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHORT_S", 0.0)
    codes = [TRANSIENT] * 6 + [DONE]
    assert PlayedWorker(ENDING_WITH.format(codes=codes), tmp_path).run()[0] == DONE


def test_stop_ends_the_worker_and_starts_none_again(tmp_path: Path) -> None:
    program = "import signal, sys; signal.signal(15, lambda *_: sys.exit(130)); print('ready', flush=True); "
    actor = PlayedWorker(program + "signal.pause()", tmp_path)
    ends: list[Any] = []
    thread = threading.Thread(target=lambda: ends.append(actor.run()))
    thread.start()
    wait_for(lambda: ((tmp_path / "worker.log").exists() and (tmp_path / "worker.log").read_text()) or None)
    actor.stop()
    thread.join(60)
    assert ends == [(INTERRUPTED, "ready")]
    assert actor.run() == (INTERRUPTED, "")


class PlayedRay:
    """A cluster whose actors end as they are told; one that is told nothing has no place on any node."""

    def __init__(self, ends: list[Any]) -> None:
        self.ends, self.options, self.n_actors, self.killed = ends, dict[str, Any](), 0, list[int]()
        self.exceptions = SimpleNamespace(RayError=ConnectionError)

    def remote(self, _kind: type) -> Any:
        def make(*_args: Any) -> Any:
            index, self.n_actors = self.n_actors, self.n_actors + 1
            calls = {
                name: SimpleNamespace(remote=lambda name=name: (name, index)) for name in ("run", "is_there", "stop")
            }
            return SimpleNamespace(index=index, **calls)

        def options(**settings: Any) -> Any:
            self.options = settings
            return SimpleNamespace(remote=make)

        return SimpleNamespace(options=options)

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 1.0, "GPU": 1.0}}]

    def wait(self, references: list[Any], *, num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        assert num_returns == len(references)
        ended = [one for one in references if self.ends[one[1]] is not None]
        return ended, [one for one in references if one not in ended]

    def get(self, reference: tuple[str, int]) -> Any:
        if isinstance(end := self.ends[reference[1]], Exception):
            raise end
        return end

    def kill(self, actor: Any) -> None:
        self.killed.append(actor.index)


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[PlayedRay, RayPool]]:
    def make(*ends: Any, n_gpus: float = 0.5) -> tuple[PlayedRay, RayPool]:
        played = PlayedRay(list(ends))
        monkeypatch.setattr(module, "import_ray", lambda: played)
        layout = StudyLayout(tmp_path, "here", "hunt")
        pool = RayPool(RayRequest(layout, ("-m", "attnsearch"), None, len(ends), n_gpus=n_gpus, n_cpus=0.25))
        pool.start()
        return played, pool

    return make


def test_actors_may_come_back_for_ever(play: Callable[..., tuple[PlayedRay, RayPool]]) -> None:
    played, _ = play((DONE, ""))
    assert {played.options[name] for name in ("max_restarts", "max_task_retries")} == {-1}
    assert (played.options["num_gpus"], played.options["num_cpus"]) == (0.5, 0.25)


def test_study_that_is_over_waits_for_no_place(play: Callable[..., tuple[PlayedRay, RayPool]]) -> None:
    played, pool = play((DONE, ""), None, (FAILED, "error: no such folder"))
    assert not pool.is_working()
    assert sorted(played.killed) == [0, 1, 2]


def test_others_continue_after_an_error_on_one_node(
    play: Callable[..., tuple[PlayedRay, RayPool]], caplog: pytest.LogCaptureFixture
) -> None:
    played, pool = play(None, ConnectionError("no module named attnsearch"))
    assert pool.is_working()
    assert "no module named attnsearch" in caplog.text
    played.ends[0] = (DONE, "")
    assert not pool.is_working()


def test_error_of_all_workers_is_raised(play: Callable[..., tuple[PlayedRay, RayPool]]) -> None:
    _, pool = play((MISUSED, "error: data.root: no such folder"), (FAILED, "error: disk"))
    with pytest.raises(SearchStopped, match="with: disk"):
        pool.is_working()


def test_stop_gives_up_what_has_no_place(play: Callable[..., tuple[PlayedRay, RayPool]]) -> None:
    played, pool = play(None, None)
    pool.stop()
    assert played.killed == [0, 1]
    assert not pool.is_working()


def test_worker_that_fits_no_node_is_told_about(
    play: Callable[..., tuple[PlayedRay, RayPool]], caplog: pytest.LogCaptureFixture
) -> None:
    play(None, n_gpus=1.0)
    assert caplog.text == ""
    play(None, n_gpus=2.0)
    assert "--gpus-per-worker 0" in caplog.text


def test_message_names_the_extra_where_ray_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"attnsearch\[ray\]"):
        import_ray()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[RayCluster]:
    """A cluster that the commands of this process may join."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with running_ray() as running:
        yield running


def start(harmed: Harmed, *words: str) -> subprocess.Popen[bytes]:
    return harmed._start("ray", "victim", "--storage", str(harmed.server), *words)


def states(harmed: Harmed) -> list[str]:
    return [trial.state for trial in harmed.rows().trials]


def attempts(harmed: Harmed) -> list[int]:
    """How often each trial began to train; it counts as running from its claim on, which comes before."""
    return [harmed.attempts(number) for number in range(N_TRIALS)]


@NEEDS_RAY
@pytest.mark.slow
def test_study_ends_after_a_node_is_lost(cluster: RayCluster, tmp_path: Path, postgres_url: str) -> None:
    """Before that, of three workers with half a GPU each two find a place, and Ctrl-C returns their trials."""
    harmed = Harmed(tmp_path, N_TRIALS, N_EPOCHS, server=postgres_url)
    harmed.write(lease_s=8, n_images=64)
    assert harmed.finish(harmed.start("--create-only")) == 0
    cluster.add_node()
    words = ["--address", cluster.address, "--cpus-per-worker", "0.5", "--gpus-per-worker", "0.5"]

    search = start(harmed, "--workers", "3", *words)
    wait_for(lambda: attempts(harmed) == [1, 1] or None)
    logs = sorted(path.name for path in harmed.layout.study_dir.glob("worker_ray*.log"))
    assert len(logs) == 2
    search.send_signal(signal.SIGINT)
    assert harmed.finish(search) == INTERRUPTED
    assert states(harmed) == ["waiting"] * 2

    cluster.add_node()
    search = start(harmed, "--workers", "2", *words)
    wait_for(lambda: attempts(harmed) == [2, 2] or None)
    time.sleep(1.0)  # some epochs
    cluster.lose_node()
    assert harmed.finish(search) == DONE
    assert harmed.problems() == []
    assert sorted(attempts(harmed)) in ([2, 3], [3, 3])
    assert harmed.layout.published_json.exists()


@NEEDS_RAY
@pytest.mark.slow
def test_cluster_of_a_command_listens_on_this_machine_only() -> None:
    """In a process of its own: Ray reads its environment when it is imported."""
    program = """
import os
from attnsearch.search.launchers.ray import connected
with connected(None):
    import ray
    @ray.remote
    def place():
        return ray.util.get_node_ip_address()
    assert ray.get(place.options(num_cpus=0.1).remote()) == "127.0.0.1"
    assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]
    listening = [line.split() for path in ("tcp", "tcp6") for line in open(f"/proc/net/{path}").readlines()[1:]]
    pids = [pid for pid in os.listdir("/proc") if pid.isdecimal() and "ray" in open(f"/proc/{pid}/cmdline").read()]
    sockets = set()
    for pid in [*pids, str(os.getpid())]:
        for number in os.listdir(f"/proc/{pid}/fd"):
            try:
                sockets.add(os.readlink(f"/proc/{pid}/fd/{number}"))
            except OSError:
                pass
    own = [line[1] for line in listening if line[3] == "0A" and f"socket:[{line[9]}]" in sockets]
    assert len(own) > 4, own
    assert all(address.partition(":")[0].endswith("0100007F") for address in own), own
assert "RAY_AUTH_TOKEN" not in os.environ
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


@NEEDS_RAY
@pytest.mark.slow
def test_address_that_nobody_answers_is_named() -> None:
    program = "from attnsearch.search.launchers.ray import connected\nwith connected('not an address'): pass"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=300)
    assert "ConfigError: --address not an address: " in done.stderr
