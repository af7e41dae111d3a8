"""Every file in configs/ and studies/, alone and under every profile."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnsearch.config.load import load_experiment, load_study
from attnsearch.search.space import extreme_experiments

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
STUDIES = sorted((ROOT / "studies").glob("*.yaml"))
PROFILES = [None, *sorted(path.stem for path in (ROOT / "configs/profiles").glob("*.yaml"))]
OVERRIDES = {"photos": ["data.root=pictures"]}


def test_files_are_found() -> None:
    assert len(CONFIGS) >= 3
    assert len(STUDIES) >= 3
    assert {"demo", "photos"} <= set(PROFILES)
    others = [path for kind in ("configs", "studies") for path in (ROOT / kind).rglob("*") if path.is_file()]
    assert {path.suffix for path in others} <= {".yaml", ".md"}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_validates_and_bears_its_file_name(path: Path, profile: str | None) -> None:
    assert load_experiment(str(path), profile=profile, overrides=OVERRIDES.get(profile or "", [])).name == path.stem


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_study_validates_at_every_corner_of_its_space(path: Path, profile: str | None) -> None:
    loaded = load_study(str(path), profile=profile, overrides=OVERRIDES.get(profile or "", []))
    assert loaded.study.name == path.stem
    assert loaded.study.space
    assert len(extreme_experiments(loaded)) > len(loaded.study.space)


@pytest.mark.parametrize("profile", [name for name in PROFILES if name])
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_profile_never_mixes_with_a_real_study(path: Path, profile: str) -> None:
    overrides = OVERRIDES.get(profile, [])
    assert load_study(str(path), profile=profile, overrides=overrides).experiment.experiment == profile
    assert load_study(str(path)).experiment.experiment != profile


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_demo_starts_with_the_default_point(path: Path) -> None:
    loaded = load_study(str(path), profile="demo")
    assert [dict(point) for point in loaded.study.enqueue] == [
        {"train.optimizer.lr": loaded.experiment.train.optimizer.lr}
    ]


def test_space_of_the_low_resolution_model_is_that_of_its_authors() -> None:
    """Axes, ranges and order as in the released `trainVal.py`, without the branches that its script never takes."""
    space = load_study("br_npa_low_res").study.space
    assert list(space) == [
        "train.optimizer.lr",
        "train.optimizer.name",
        "train.batch_size",
        "model.dropout",
        "train.optimizer.weight_decay",
        "train.optimizer.momentum",
        "train.schedule.name",
    ]
    assert space["train.optimizer.lr"].ends() == (1e-4, 1e-2)
    assert space["train.batch_size"].ends() == (12, 130)
    assert space["train.optimizer.momentum"].when == {"train.optimizer.name": ("sgd",)}
