"""Trials on several devices from the command line: torchrun, workers with followers, and what becomes of lost ones."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from attnsearch.config.experiment import RuntimeSettings
from attnsearch.errors import ConfigError, RankLost
from attnsearch.processes import is_running
from attnsearch.search.launchers import devices
from attnsearch.search.launchers.devices import joined_devices
from attnsearch.store.epochs import read_csv
from attnsearch.store.image_scores import read_scores
from attnsearch.store.layout import StudyLayout
from attnsearch.training.parallel import ALONE
from tests.conftest import TINY
from tests.documents import ROOT
from tests.search.faults import wait_for

STUDY = ("br_npa_low_res", "--profile", "demo", *TINY, "runtime.devices_per_trial=2")
TRAINING = (*STUDY[:-1], "name=br_npa_low_res", "data.n_val_per_class=10", "runtime.n_threads=1")
TIMES = ("seconds", "images_per_s", "peak_memory_mb")


def start(*words: str, cwd: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", *words]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(*words: str, cwd: Path) -> str:
    """What a command says on stderr; it must end with 0."""
    with start(*words, cwd=cwd) as process:
        _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def processes_of(folder: Path, word: str) -> list[int]:
    """The processes below a folder that run a command of the package."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            if word.encode() in words and (entry / "cwd").resolve() == folder.resolve():
                found.append(int(entry.name))
        except OSError:  # it has ended
            continue
    return found


def layout_in(folder: Path) -> StudyLayout:
    return StudyLayout(folder / "results", "demo", "br_npa_low_res")


def curve(folder: Path) -> pd.DataFrame:
    """The epochs of trial 0 without their costs."""
    return read_csv(layout_in(folder).trial(0).epochs_csv).drop(columns=list(TIMES))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """No process is left there in the end."""
    yield tmp_path
    for word in ("follow", "worker", "search"):
        for left in processes_of(tmp_path, word):
            os.kill(left, signal.SIGKILL)


def is_past_first_epoch(folder: Path) -> Callable[[], bool | None]:
    log = layout_in(folder).trial(0).log
    return lambda: (log.exists() and "INFO epoch 1/" in log.read_text()) or None


@pytest.mark.slow
def test_a_search_trains_each_trial_on_two_devices(folder: Path) -> None:
    run("attnsearch", "search", *STUDY, "n_trials=2", "--workers", "1", cwd=folder)
    logs = [layout_in(folder).trial(number).log.read_text() for number in (0, 1)]
    assert all(re.search(r"attempt 1 on 2 x cpu \(", log) for log in logs)
    assert not processes_of(folder, "follow")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a training that a worker and its follower have shared."""
    folder = tmp_path_factory.mktemp("trained")
    run("attnsearch", "train", *TRAINING, "runtime.devices_per_trial=2", cwd=folder)
    return folder


@pytest.mark.slow
def test_torchrun_trains_as_a_worker_with_a_follower_does(trained: Path, folder: Path) -> None:
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "attnsearch", "train")
    run(*torchrun, *TRAINING, cwd=folder)
    pd.testing.assert_frame_equal(curve(folder), curve(trained))


@pytest.mark.slow
def test_scores_that_two_devices_share_are_those_of_one(trained: Path, folder: Path) -> None:
    run("attnsearch", "train", *TRAINING, "train.accumulation=2", cwd=folder)
    one, two = (read_scores(layout_in(place).trial(0).scores("val")) for place in (folder, trained))
    assert one.image_ids == two.image_ids
    assert len(one.image_ids) > 8  # more than one chunk
    np.testing.assert_allclose(two.curves, one.curves, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_search_that_loses_a_process_continues_the_trial_after_its_last_epoch(folder: Path) -> None:
    with start("attnsearch", "search", *STUDY, "n_trials=1", "train.epochs=40", "--workers", "1", cwd=folder) as search:
        wait_for(is_past_first_epoch(folder))
        (follower,) = processes_of(folder, "follow")
        os.kill(follower, signal.SIGKILL)
        _, said = search.communicate(timeout=300)
    assert search.returncode == 0, said
    assert re.search(r"worker 0 ended \(a process that trains the same model on another device has ended", said)
    log = layout_in(folder).trial(0).log.read_text()
    assert re.search(r"attempt 2 on 2 x cpu", log)
    assert re.search(r"resumes after epoch [1-9]\d* from", log)
    assert list(curve(folder)["epoch"]) == list(range(1, 41))


@pytest.mark.slow
def test_a_follower_ends_with_its_worker(folder: Path) -> None:
    with start(
        "attnsearch", "search", *STUDY, "n_trials=1", "train.epochs=400", "--workers", "1", cwd=folder
    ) as search:
        wait_for(is_past_first_epoch(folder))
        (follower,) = processes_of(folder, "follow")
        parent = int(Path(f"/proc/{follower}/stat").read_text().rsplit(")", 1)[1].split()[1])
        search.kill()
        os.kill(parent, signal.SIGKILL)
        wait_for(lambda: None if is_running(follower) else True)
        search.communicate(timeout=300)
    assert not processes_of(folder, "follow")


@pytest.mark.slow
def test_ctrl_c_returns_a_trial_on_two_devices(folder: Path) -> None:
    with start("attnsearch", "train", *STUDY, "train.epochs=400", "name=br_npa_low_res", cwd=folder) as training:
        wait_for(is_past_first_epoch(folder))
        training.send_signal(signal.SIGINT)
        _, said = training.communicate(timeout=300)
    assert training.returncode == 130, said
    assert not processes_of(folder, "follow")


def test_a_trial_on_one_device_starts_no_process() -> None:
    with joined_devices(RuntimeSettings()) as ranks:
        assert ranks is ALONE


def test_torchrun_is_for_one_training(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"3 processes.*devices_per_trial=3"), joined_devices(RuntimeSettings()):
        pass


def test_a_process_that_ends_before_it_joins_is_no_reason_to_wait(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def start_broken(*_arguments: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])

    monkeypatch.setattr(devices, "_start_follower", start_broken)
    began = time.monotonic()
    with pytest.raises(RankLost, match="ended with exit code 3"), joined_devices(RuntimeSettings(devices_per_trial=2)):
        pass
    assert time.monotonic() - began < devices.START_S / 2
