"""Fixtures of the trainer's tests: a few small images, a small model, a context that remembers what it is told."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.data.loader import DataSource, open_data
from attnsearch.device import Arithmetic
from attnsearch.evaluation.base import InferenceModel
from attnsearch.types import EpochRecord

ConfigMaker = Callable[..., ExperimentConfig]


@dataclass
class RecordingContext:
    """A `TrialContext` that writes down what it hears; `on_check` may raise."""

    directory: Path
    number: int = 0
    attempt: int = 1
    seed: int = 1
    prune_after: int | None = None
    pause_after: int | None = None
    on_check: Callable[[], None] = lambda: None
    records: list[EpochRecord] = field(default_factory=list)
    reports: list[tuple[float, int]] = field(default_factory=list)

    def check(self) -> None:
        self.on_check()

    def record(self, records: list[EpochRecord]) -> None:
        self.records = list(records)

    def report(self, value: float, epoch: int) -> None:
        self.reports.append((value, epoch))

    def should_prune(self) -> bool:
        return self.prune_after is not None and self.reports[-1][1] >= self.prune_after

    def should_pause(self, epoch: int) -> bool:
        return self.pause_after is not None and epoch >= self.pause_after


def reid_config(model: dict[str, Any] | None = None, **changes: Any) -> ExperimentConfig:
    """A config of re-identification on a few small synthetic individuals: `reid_config(task={"flip_average": True})`.

    Training has 8 individuals, validation 3 and test 3, in 2 images from each of 2 cameras.
    """
    settings: dict[str, Any] = {
        "name": "tiny",
        "data": {
            **{"name": "individuals", "picture_px": 64, "image_size_px": [64, 32], "n_identities": 11},
            **{"n_test_identities": 3, "n_cameras": 2, "n_per_camera": 2, "n_distractors": 3, "val_share": 0.25},
        },
        "model": {"name": "cnn", "backbone": "resnet10t", "width": 0.25} if model is None else model,
        "task": {"name": "reid", "images_per_identity": 2},
        "train": {"epochs": 1, "batch_size": 8, "precision": "fp32"},
        "monitor": "val/mAP",
        "runtime": {"device": "cpu", "n_threads": 1},
    }
    for key, value in changes.items():
        settings[key] = {**settings.get(key, {}), **value}
    return ExperimentConfig.model_validate_json(json.dumps(settings))


def on_cpu(model: Any, config: ExperimentConfig | None = None) -> InferenceModel:
    """A model as one of an experiment, by default of classification."""
    settings = {"name": "untrained", "data": {"name": "synthetic", "image_size_px": 64}, "model": {"name": "cnn"}}
    config = ExperimentConfig.model_validate_json(json.dumps(settings)) if config is None else config
    unused: Any = None
    return InferenceModel(unused, config, model, Arithmetic(torch.device("cpu")))


@pytest.fixture(scope="session", autouse=True)
def frozen_imports() -> Iterator[None]:
    """Each run ends with a garbage collection, which need not look through all of torch each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="session")
def picture_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class `red` has a red and class `blue` a blue patch somewhere on grey noise: 9 train, 3 val and test each."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split, n_images in (("train", 9), ("val", 3), ("test", 3)):
        for channel, name in ((0, "red"), (2, "blue")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(n_images):
                pixels = rng.integers(90, 160, (36, 36, 1)).repeat(3, axis=2).astype(np.uint8)
                top, left = rng.integers(0, 24, 2)
                pixels[top : top + 12, left : left + 12] = 20
                pixels[top : top + 12, left : left + 12, channel] = 230
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return root


@pytest.fixture(scope="session")
def tiny_config(picture_root: Path) -> ConfigMaker:
    """Makes a config from the changes to a tiny one: `tiny_config(train={"epochs": 3})`."""

    def make(**changes: Any) -> ExperimentConfig:
        settings: dict[str, Any] = {
            "name": "tiny",
            "data": {"name": "folder", "root": str(picture_root), "image_size_px": 32},
            "model": {"name": "cnn", "backbone": "resnet10t", "width": 0.25},
            "train": {"epochs": 2, "batch_size": 8, "precision": "fp32", "optimizer": {"name": "sgd", "lr": 0.05}},
            "runtime": {"device": "cpu", "n_threads": 1},
        }
        for key, value in changes.items():
            is_block = isinstance(value, dict) and key in settings
            settings[key] = {**settings[key], **value} if is_block else value
        return ExperimentConfig.model_validate_json(json.dumps(settings))

    return make


@pytest.fixture(scope="session")
def data(tiny_config: ConfigMaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataSource]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNSEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield open_data(tiny_config().data)
