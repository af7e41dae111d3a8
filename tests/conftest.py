"""What all tests share: a cache of their own, and one small run that is finished."""

from __future__ import annotations

import os
import shutil
import signal
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

from attnsearch.config.load import load_experiment

pytest.register_assert_rewrite("attnsearch.testing")

if TYPE_CHECKING:
    import torch

    from attnsearch.config.experiment import ExperimentConfig
    from tests.postgres import PostgresServer

TINY = (
    "data.n_classes=2",
    "data.n_train_per_class=8",
    "data.n_val_per_class=4",
    "data.n_test_per_class=4",
    "data.picture_px=48",
    "data.image_size_px=32",
    "model.width=0.25",
    "train.epochs=2",
    "train.batch_size=4",
    "train.precision=fp32",
    "runtime.device=cpu",
)
"""Overrides that make the demo profile a matter of seconds."""


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test touches the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNSEARCH_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def heeded_interrupts() -> Iterator[None]:
    """SIGINT as at a terminal, for child processes too: a job in the background is started with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def finished_run(private_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder that holds the run `br_npa_low_res` of the experiment `demo`: 2 classes, 8 images per split."""
    from attnsearch.config.load import study_of_one
    from attnsearch.search.run import run_study

    def train(root: Path) -> None:
        experiment = load_experiment("br_npa_low_res", profile="demo", overrides=TINY)
        run_study(study_of_one(experiment), root=root, n_workers=0)

    return copy_of_shared("results", train, tmp_path_factory)


@pytest.fixture(scope="session")
def people_runs(private_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with the experiment of `tests/people.py`."""
    from tests.people import search_people

    return copy_of_shared("people", search_people, tmp_path_factory)


@pytest.fixture
def people(people_runs: Path, tmp_path: Path) -> Path:
    """A copy of it, to be written to."""
    return Path(shutil.copytree(people_runs, tmp_path / "people"))


def copy_of_shared(name: str, make: Callable[[Path], None], folders: pytest.TempPathFactory) -> Path:
    """A copy of a folder that one process of this test run makes, whichever asks first."""
    own = folders.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    with FileLock(shared / f"{name}.lock"):
        if not (shared / name).exists():
            make(shared / f"{name}.part")
            (shared / f"{name}.part").rename(shared / name)
    return Path(shutil.copytree(shared / name, folders.mktemp(name) / "copy"))


@pytest.fixture
def old_results(tmp_path: Path) -> Path:
    """A results folder that version 0.1 wrote: the study `here/hunt` and the plain run `here/one`.

    Trials 0 and 1 of the study are complete, scored and published, trial 2 was stopped after its first epoch of two.
    The weights are zeros, so that the file is small.
    """
    root = tmp_path / "old results"
    with zipfile.ZipFile(Path(__file__).parent / "golden" / "results_0_1.zip") as packed:
        packed.extractall(root)
    return root


@pytest.fixture
def foreign_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExperimentConfig:
    """A config of INTR and its class names, in files of the working folder."""
    from tests.foreign import write_config

    monkeypatch.chdir(tmp_path)
    return write_config()


@pytest.fixture
def foreign_state(foreign_config: ExperimentConfig) -> dict[str, torch.Tensor]:
    """What lies in `checkpoint.pth`, written as INTR's authors do."""
    from tests.foreign import write_checkpoint

    return write_checkpoint(foreign_config)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server of this test run; tests that need one are skipped where it is not installed."""
    pytest.importorskip("psycopg", reason="no PostgreSQL driver (pip install 'attnsearch[postgres]')")
    from tests.postgres import find_binaries, running_server

    binaries = find_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server (Debian: apt-get install postgresql)")
    with running_server(binaries) as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of an empty database of this test alone."""
    with postgres_server.empty_database() as url:
        yield url
