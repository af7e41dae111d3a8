"""Originals of synthetic data sets are found in the cache, and never drawn for reading."""

from pathlib import Path

import pytest

from attnsearch.config.data import IndividualsData, SyntheticData
from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.images import DataSettings
from attnsearch.data.built_folders import list_caches
from attnsearch.data.listing import list_images
from attnsearch.results.shared import ImageFiles

ALIKE = {"picture_px": 64, "n_differing_parts": 3, "part_scale": 1.0, "data_seed": 7}
BIRDS = SyntheticData(n_classes=2, n_train_per_class=2, n_val_per_class=1, n_test_per_class=1, **ALIKE)
LACKING = BIRDS.model_copy(update={"missing_parts": 0.5})
INDIVIDUALS = IndividualsData(
    n_identities=5, n_test_identities=2, n_cameras=2, n_per_camera=2, n_distractors=1, val_share=0.4, **ALIKE
)


def has_table(folder: Path, data: DataSettings) -> bool:
    model, task = {"name": "cnn", "weights": "none"}, {"name": data.task}
    settings = {"name": "one", "data": data, "model": model, "task": task, "train": {"batch_size": 8}}
    config = ExperimentConfig.model_validate(settings)
    path = folder / f"{data.name}.yaml"
    path.write_text(config.model_dump_json(), encoding="utf-8")
    return ImageFiles().table(path, "test") is not None


@pytest.mark.parametrize(
    ("drawn", "other"), [(BIRDS, INDIVIDUALS), (INDIVIDUALS, BIRDS), (BIRDS, LACKING), (LACKING, BIRDS)]
)
def test_only_the_data_set_that_is_drawn_is_found(
    drawn: DataSettings, other: DataSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTNSEARCH_CACHE", str(tmp_path / "cache"))
    assert not has_table(tmp_path, drawn)
    list_images(drawn)
    assert has_table(tmp_path, drawn)
    assert not has_table(tmp_path, other)
    assert len([entry for entry in list_caches() if entry.kind == "synthetic"]) == 1
