"""Two small runs, and commands on a copy of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from attnsearch.cli import main
from attnsearch.config.load import load_experiment, study_of_one
from attnsearch.search.run import run_study
from attnsearch.store.layout import StudyLayout
from tests.conftest import TINY, copy_of_shared

STUDIES = ("br_npa_low_res", "loupe")
FEW = ("n_steps=4", "n_images=6", "n_random=1", "families=[faithfulness,complexity]")
Run = Callable[..., list[str]]


@pytest.fixture(scope="session")
def two_runs(private_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two runs of one epoch, with maps of 2 x 2 and 8 x 8 cells."""

    def train(root: Path) -> None:
        for study in STUDIES:
            overrides = [*TINY, "data.picture_px=72", "data.image_size_px=64", "train.epochs=1"]
            experiment = load_experiment(study, profile="demo", overrides=overrides)
            run_study(study_of_one(experiment), root=root, n_workers=0)

    return copy_of_shared("two runs", train, tmp_path_factory)


@pytest.fixture
def results(two_runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(two_runs, tmp_path / "results"))


@pytest.fixture
def run(results: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command on the results; returns the lines that it printed."""

    def call(*words: str, code: int = 0) -> list[str]:
        assert main([*words, "--results", str(results)]) == code
        shown = capsys.readouterr()
        return (shown.err if code else shown.out).splitlines()

    return call


def layout_of(results: Path, study: str) -> StudyLayout:
    return StudyLayout(results, "demo", study)


def check_mistake(run: Run, words: str, fragments: list[str]) -> None:
    """A refused command prints one line that has these fragments."""
    (line,) = run(*words.split(), code=2)
    assert line.startswith("error: ")
    for fragment in fragments:
        assert fragment in line
