"""Small databases, records and archives that several tests of the store share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from attnsearch.store.creation import create_database
from attnsearch.store.database import open_writer
from attnsearch.store.layout import StudyLayout
from attnsearch.store.urls import default_url
from attnsearch.types import AttentionArchive


@pytest.fixture
def layout(tmp_path: Path) -> StudyLayout:
    return StudyLayout(tmp_path / "results", "CUB", "br_npa")


@pytest.fixture
def file_url(layout: StudyLayout) -> str:
    return default_url(layout)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """An absent or empty database of each kind: the contract of the store holds on both."""
    name = "file_url" if request.param == "sqlite" else "postgres_url"
    return str(request.getfixturevalue(name))


@pytest.fixture
def file_engine(file_url: str) -> Iterator[Engine]:
    create_database(file_url)
    engine = open_writer(file_url)
    yield engine
    engine.dispose()


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    create_database(url)
    engine = open_writer(url)
    yield engine
    engine.dispose()


@pytest.fixture
def archive() -> AttentionArchive:
    """Five images with two maps of 2x3 cells; each value tells its own place."""
    n_images = 5
    return AttentionArchive(
        image_ids=tuple(f"class_a/{index}, 'x'.jpg" for index in range(n_images)),
        labels=np.arange(n_images, dtype=np.int64) % 2,
        predictions=np.zeros(n_images, dtype=np.int64),
        confidences=np.linspace(0.1, 1, n_images, dtype=np.float32),
        sizes_hw=np.tile(np.array([[20, 30]]), (n_images, 1)),
        crop_boxes=np.tile(np.array([[0.1, 0.2, 28.3, 19.7]]), (n_images, 1)),
        class_names=("Müller's gull", "tern"),
        map_names=("first", "second"),
        maps=np.arange(n_images * 2 * 6, dtype=np.float32).reshape(n_images, 2, 2, 3) - 7,
        norms=None,
        saliency=np.arange(n_images * 6, dtype=np.float32).reshape(n_images, 2, 3),
        config_digest="d1",
        epoch=3,
        split="val",
    )


@pytest.fixture
def run_processes() -> Callable[..., list[str]]:
    """Runs commands of `processes.py` at the same time; returns what each printed."""

    def run(commands: list[tuple[object, ...]], *, meanwhile: Callable[[], None] | None = None) -> list[str]:
        script = str(Path(__file__).with_name("processes.py"))
        lines = [[sys.executable, script, *map(str, command)] for command in commands]
        running = [subprocess.Popen(line, stdout=subprocess.PIPE, text=True) for line in lines]
        while meanwhile is not None and any(process.poll() is None for process in running):
            meanwhile()
        outputs = [process.communicate()[0].strip() for process in running]
        assert [process.returncode for process in running] == [0] * len(running)
        return outputs

    return run
