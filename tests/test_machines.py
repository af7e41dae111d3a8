"""Several machines on one study: PostgreSQL, a shared folder, and PID namespaces with host names of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from attnsearch.cli import main
from attnsearch.search import membership
from attnsearch.store.evaluation_log import read_test_evaluations
from attnsearch.store.leases import HELD, Lease
from tests.search.faults import Harmed, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def machines() -> None:
    """Skips where this user may not make a PID namespace."""
    made = subprocess.run(["unshare", "--uts", "--pid", "--fork", "--mount-proc", "true"], capture_output=True)
    if made.returncode:
        pytest.skip(f"no right to make a PID namespace: {made.stderr.decode().strip()}")


@pytest.fixture
def begin(tmp_path: Path, postgres_url: str) -> Callable[..., Harmed]:
    """Begins a study without a trial."""

    def make(n_trials: int, n_epochs: int, **study: object) -> Harmed:
        harmed = Harmed(tmp_path, n_trials, n_epochs, server=postgres_url)
        harmed.write(**{"lease_s": 6, "n_workers": 1, **study})
        assert harmed.finish(harmed.start("--create-only")) == 0
        return harmed

    return make


def hosts(harmed: Harmed) -> set[str]:
    """Names of the machines that ran trials."""
    return {lease.worker.partition(":")[0] for lease in harmed.leases()}


def test_two_machines_share_the_budget_and_one_publishes(begin: Callable[..., Harmed]) -> None:
    harmed = begin(n_trials=6, n_epochs=6, n_images=96)
    searches = [
        harmed.start(machine="one"),
        harmed.start("--join", machine="two"),
        harmed.start_worker(machine="three"),
    ]
    assert [harmed.finish(search) for search in searches] == [0, 0, 0]
    assert harmed.problems() == []
    assert hosts(harmed) == {"one", "two", "three"}
    assert {lease.attempt for lease in harmed.leases()} == {1}
    assert len(read_test_evaluations(harmed.layout)) == 1
    assert harmed.layout.published_json.is_file()


def test_another_machine_goes_on_where_a_killed_one_was(begin: Callable[..., Harmed]) -> None:
    """No supervisor is left to see that the worker of the killed machine is gone."""
    harmed = begin(n_trials=2, n_epochs=12, n_images=192)
    first, second = (harmed.start_worker(machine=name) for name in ("killed", "other"))

    def held_by_killed() -> Lease | None:
        held = [lease for lease in harmed.leases() if lease.state == HELD and 2 <= lease.epoch < 11]
        return next((lease for lease in held if lease.worker.startswith("killed:") and len(hosts(harmed)) == 2), None)

    lease = wait_for(held_by_killed)
    os.kill(first.pid, signal.SIGKILL)  # with all of its PID namespace
    first.wait()
    assert harmed.finish(second) == 0
    assert harmed.problems() == []
    assert harmed.attempts(lease.number) == 2
    resumed = re.search(r"resumes after epoch (\d+)", harmed.log(lease.number))
    assert resumed is not None
    assert int(resumed[1]) >= lease.epoch - 1
    assert hosts(harmed) == {"other"}


def test_neither_wrong_clocks_nor_one_host_name_take_what_lives(begin: Callable[..., Harmed]) -> None:
    harmed = begin(n_trials=6, n_epochs=6, n_images=96)
    workers = [harmed.start_worker(machine="node", clock_s=seconds) for seconds in (600.0, -600.0)]
    assert [harmed.finish(worker) for worker in workers] == [0, 0]
    assert harmed.problems() == []
    assert [harmed.attempts(number) for number in range(6)] == [1] * 6
    assert len({lease.worker for lease in harmed.leases()}) == 2


def test_a_machine_with_a_folder_of_its_own_is_refused_before_its_first_trial(
    begin: Callable[..., Harmed],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    harmed = begin(n_trials=2, n_epochs=2)
    monkeypatch.setattr(membership, "FOLDER_WAIT_S", 0.1)
    own = tmp_path / "own"
    layout = own / harmed.layout.study_dir.relative_to(harmed.layout.root)
    layout.mkdir(parents=True)
    (layout / "study.yaml").write_text(harmed.layout.study_yaml.read_text())
    assert harmed.server is not None
    options = ["--storage", harmed.server, "--results", str(own)]
    study = str(harmed.folder / "study.yaml")
    for words in (["worker", harmed.name], ["search", study, "--join"], ["search", study]):
        assert main([*words, *options]) == 1
        assert "all machines of a study need one shared results folder" in capsys.readouterr().err
    assert harmed.leases() == []


def test_a_worker_whose_time_is_up_leaves_its_trial_to_the_next(begin: Callable[..., Harmed]) -> None:
    harmed = begin(n_trials=1, n_epochs=40)
    assert harmed.finish(harmed.start_worker("--stop-after", "2s", machine="one")) == 75
    assert [trial.state for trial in harmed.rows().trials] == ["waiting"]
    assert harmed.finish(harmed.start_worker(machine="two")) == 0
    assert harmed.problems() == []
