"""What all tests share: a cache of their own, and one small run that is finished."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from attnsearch.config.load import load_experiment

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


@pytest.fixture(scope="session")
def finished_run(private_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder that holds the run `br_npa_low_res` of the experiment `demo`: 2 classes, 8 images per split."""
    from attnsearch.search.single import run_single

    root = tmp_path_factory.mktemp("results")
    run_single(load_experiment("br_npa_low_res", profile="demo", overrides=TINY), root=root)
    return root
