"""Job arrays of Slurm: their scripts, and on a cluster of two virtual nodes what becomes of the workers in them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attnsearch.errors import ConfigError
from attnsearch.search.launchers.placement import worker_words
from attnsearch.search.launchers.slurm import SlurmJob, seconds_of, submit
from attnsearch.types import URL_VARIABLE
from tests.search.faults import Harmed
from tests.slurm import PREEMPTING, SlurmCluster, missing, running_cluster

N_TRIALS, N_EPOCHS = 3, 50
STAND_IN = """
trap 'echo "returned $ATTNSEARCH_STORAGE_URL"; exit 130' TERM
[ -z "$SLURM_RESTART_COUNT" ] || echo "again on GPU $ATTNSEARCH_ASSIGNED_GPU"
[ "$SLURM_ARRAY_TASK_ID$SLURM_RESTART_COUNT" != 0 ] || exit 75
while :; do sleep 0.1; done
"""


def job(**settings: Any) -> SlurmJob:
    return SlurmJob(
        **{"name": "birds", "log": Path("/results/worker%A_%a.log"), "n_workers": 2, "time": "4:00:00", **settings}
    )


def test_script_asks_for_what_a_worker_needs() -> None:
    settings = {"n_workers": 8, "n_gpus": 2, "n_cpus": 4, "memory": "32G", "partition": "gpu"}
    lines = job(**settings, options=("--account=a b", "--exclusive")).script(["true"]).splitlines()
    assert lines[0] == "#!/bin/bash"
    wanted = ('array="0-7"', 'gres="gpu:2"', 'cpus-per-task="4"', 'mem="32G"', 'partition="gpu"', 'time="4:00:00"')
    others = ("requeue", 'open-mode="append"', 'nodes="1"', 'ntasks="1"', 'account="a b"', "exclusive")
    assert {f"#SBATCH --{one}" for one in (*wanted, *others)} <= set(lines)


def test_script_leaves_out_what_is_not_asked_for() -> None:
    script = job(n_gpus=0).script(["true"])
    assert not any(word in script for word in ("--gres", "--cpus-per-task", "--mem", "--partition"))


def test_hostile_words_stay_words() -> None:
    words = ["/a b/python", "$(reboot)", "'; reboot; '", 'x"y', "`reboot`", "{command}", "*"]
    script = job().script(["printf", "<%s>", *words])
    command = next(line for line in script.splitlines() if line.startswith("printf")).removesuffix("&")
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == "".join(f"<{word}>" for word in words)


@pytest.mark.parametrize("settings", [{}, {"n_gpus": 0, "options": ["--comment=a\"b\\c'#d"]}])
def test_bash_reads_the_script(settings: dict[str, Any]) -> None:
    script = job(log=Path("/a b/'c'/\"d\"/%A #e/worker%A_%a.log"), **settings).script(["true", "'\"$x"])
    assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=True).stderr == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"partition": "gpu\n#SBATCH --uid=0"}, "line ends"),
        ({"name": "a\x1bb"}, "line ends"),
        ({"log": Path("/a\\b/worker%A_%a.log")}, "backslash"),
        ({"memory": "much"}, "--memory must be"),
        ({"n_gpus": -1}, "0 or more GPUs"),
        ({"n_cpus": 0}, "1 or more CPUs"),
        ({"time": "soon"}, "--time must be such as"),
        ({"time": "1:59"}, "at least 2 minutes"),
        ({"options": ["account=birds"]}, "must be one long option"),
        ({"options": ["--account=x --uid=0\n"]}, "must be one long option"),
        ({"options": ["--array=0-99"]}, "cannot change --array"),
        ({"options": ["--no-requeue"]}, "cannot change --no-requeue"),
        ({"options": ["--export=NONE"]}, "cannot change --export"),
    ],
)
def test_values_that_a_script_cannot_hold_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        job(**settings).script(["true"])


def test_words_of_several_lines_are_refused() -> None:
    with pytest.raises(ConfigError, match="line ends"):
        job().script(["worker", "a\nreboot"])


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("30", 1800), ("2:30", 150), ("4:00:00", 14400), ("1-12", 129_600), ("1-0:30", 88_200), ("2-1:1:1", 176_461)],
)
def test_time_is_read_as_slurm_does(time: str, seconds: int) -> None:
    assert seconds_of(time) == seconds


@pytest.mark.parametrize(("time", "seconds"), [("4:00:00", 13_800), ("2", 60), ("1:00:00", 3240), ("7-0", 604_200)])
def test_workers_stop_before_their_limit(time: str, seconds: int) -> None:
    assert job(time=time).stop_after_s == seconds


@pytest.mark.parametrize(
    ("code", "reason", "is_requeued"),
    [(0, "None", False), (1, "None", False), (75, "None", True), (130, "None", False), (130, "TimeLimit", True)],
)
def test_element_is_requeued_where_time_was_missing(code: int, reason: str, is_requeued: bool, tmp_path: Path) -> None:
    for name, line in {"squeue": f"echo {reason}", "scontrol": f'echo "$@" > {tmp_path}/requeued'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    given = {"SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "3", "SLURM_CPUS_ON_NODE": "1", URL_VARIABLE: "x"}
    environment = {**given, "PATH": f"{tmp_path}:/usr/bin:/bin"}
    script = job().script(["bash", "-c", f"exit {code}"])
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert (tmp_path / "requeued").exists() == is_requeued
    if is_requeued:
        assert (tmp_path / "requeued").read_text() == "requeue 17_3\n"


def test_without_slurm_the_message_names_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="--print"):
        submit("#!/bin/bash", storage="postgresql://h/d")


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with running_cluster() as running:
        yield running


@pytest.fixture
def slurm(cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    """The cluster, for the commands of this process too; no job outlives the test."""
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    yield cluster
    cluster.cancel_all()


@pytest.mark.slow
def test_refusal_of_slurm_is_reported(slurm: SlurmCluster) -> None:
    with pytest.raises(ConfigError, match=r"sbatch refused the job: .*invalid partition"):
        submit(job(partition="nowhere").script(["true"]), storage="postgresql://h/d")


@pytest.mark.slow
def test_one_element_is_requeued_and_a_cancelled_job_stays_ended(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_EXPORT", "NONE")
    folder = tmp_path / "a 'b' \"c\" %A 5% #d $HOME"
    folder.mkdir()
    (folder / "worker").write_text(STAND_IN)
    array = job(log=folder / "worker%A_%a.log")
    number = submit(array.script(["bash", str(folder / "worker")]), storage="postgresql://h/d")
    slurm.wait_for(lambda: slurm.states(number) == {"0": "PENDING", "1": "RUNNING"})

    def is_back() -> bool:
        slurm.start_at_once(number)
        return "again on GPU 0" in (folder / f"worker{number}_0.log").read_text()

    slurm.wait_for(is_back)
    slurm.run("scancel", number)
    slurm.wait_for(lambda: set(slurm.states(number).values()) == {"CANCELLED"})
    for index in range(2):
        assert "returned postgresql://h/d" in (folder / f"worker{number}_{index}.log").read_text()


@pytest.mark.slow
def test_study_ends_after_preemption_and_time_limits(slurm: SlurmCluster, tmp_path: Path, postgres_url: str) -> None:
    harmed = Harmed(tmp_path, N_TRIALS, N_EPOCHS, server=postgres_url)
    harmed.write(lease_s=8, n_images=64)
    assert harmed.finish(harmed.start("--create-only")) == 0

    def start(node: str, stop_after: str) -> str:
        array = job(log=harmed.layout.worker_log("%A_%a"), n_workers=1, options=[f"--nodelist={node}"])
        words = [sys.executable, *worker_words(harmed.layout), "--stop-after", stop_after]
        return submit(array.script(words), storage=postgres_url)

    preempted, limited = start("n1", "10m"), start("n2", "15s")
    slurm.wait_for(lambda: len([trial for trial in harmed.rows().trials if trial.state == "running"]) == 2)
    words = ["--nodelist=n1", "--exclusive", "--time=1", "--output=/dev/null", "--wrap=sleep 1"]
    slurm.run("sbatch", f"--partition={PREEMPTING}", *words)

    def are_over() -> bool:
        for number in (preempted, limited):
            slurm.start_at_once(number)
        return all(slurm.states(number) == {"0": "COMPLETED"} for number in (preempted, limited))

    slurm.wait_for(are_over, patience_s=240)
    assert harmed.problems() == []
    logs = {number: harmed.layout.worker_log(f"{number}_0").read_text() for number in (preempted, limited)}
    assert "DUE TO PREEMPTION" in logs[preempted]
    assert all("returns to the queue" in log for log in logs.values())
    assert harmed.layout.published_json.exists()
