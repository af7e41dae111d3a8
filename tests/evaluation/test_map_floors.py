"""Floors of maps: against what masks and labels say by themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from attnsearch.config.evaluation import ScoreSettings
from attnsearch.config.load import load_experiment, study_of_one
from attnsearch.errors import TrialInterrupted
from attnsearch.evaluation.map_floors import (
    N_IMAGES,
    chance_of,
    floor_settings,
    images_digest,
    measure_map_floors,
    settings_digest,
)
from attnsearch.results.checkpoints import open_evaluation
from attnsearch.results.reader import load_study
from attnsearch.search.run import run_study
from attnsearch.store.floors import MeasuredFloors, read_floors
from tests.conftest import TINY

Measured = tuple[MeasuredFloors, NDArray[np.bool_], tuple[int, int]]


@pytest.fixture(scope="module")
def results(private_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study of one trial whose maps have 4 x 4 cells."""
    root = tmp_path_factory.mktemp("results")
    run_study(study_of_one(load_experiment("br_npa_high_res", profile="demo", overrides=TINY)), root=root, n_workers=0)
    return root / "demo/br_npa_high_res"


@pytest.fixture(scope="module")
def measured(results: Path) -> Measured:
    """The floors of a trained trial, the masks (N, H, W) of its validation images and the grid of its maps."""
    trial = load_study(results).best
    with open_evaluation(trial, "val", ()) as evaluation:
        found = measure_map_floors(evaluation, trial.files.archive("val"))
        rows = np.arange(len(evaluation.table("val")))
        masks = evaluation.loader("val").batch(rows, with_masks=True).part_masks
        assert masks is not None
        return found, masks.numpy(), trial.saliency("val").shape[1:]


def test_a_flat_map_has_the_energy_of_the_masks_area(
    measured: tuple[MeasuredFloors, NDArray[np.bool_], object],
) -> None:
    found, masks, _ = measured
    assert found.values["energy_in_mask"]["flat map"] == pytest.approx(masks.mean(axis=(1, 2)).mean(), rel=1e-4)
    assert "flat map" not in found.values["pointing_hit"]


def test_the_fixed_cell_is_the_one_that_most_masks_touch(measured: Measured) -> None:
    found, masks, (h, w) = measured
    side = masks.shape[1]
    rows, columns = (np.arange(n + 1) * side // n for n in (h, w))
    touched = [
        masks[:, rows[i] : rows[i + 1], columns[j] : columns[j + 1]].any(axis=(1, 2)).mean()
        for i in range(h)
        for j in range(w)
    ]
    assert found.values["pointing_hit"]["fixed cell"] == pytest.approx(max(touched))


def test_gains_of_a_random_order_are_zero_and_those_of_the_centre_measured(measured: Measured) -> None:
    values = measured[0].values
    assert values["relevance_gain"]["random"] == 0.0
    assert values["relevance_gain"].keys() <= {"random", "centre"}  # undefined where masking changes no answer
    assert 0.0 <= values["pointing_hit"]["untrained"] <= 1.0
    assert not {"deletion", "insertion", "masked_score"} & values.keys()


def test_floors_are_the_same_again_and_named_by_what_they_were_measured_on(results: Path) -> None:
    study = load_study(results)
    (stored,) = read_floors(study.layout.floors_json)
    with open_evaluation(study.best, "val", ()) as evaluation:
        again = measure_map_floors(evaluation, study.best.files.archive("val"))
        assert stored == again
        table = evaluation.table("val")
        assert (stored.images, stored.n_split) == (images_digest(table.image_ids), len(table))
        assert chance_of(table) == {"accuracy": 0.5, "mean_class_accuracy": 0.5}


def test_a_stop_ends_the_measurement(results: Path) -> None:
    def stop() -> None:
        raise TrialInterrupted

    trial = load_study(results).best
    with open_evaluation(trial, "val", ()) as evaluation, pytest.raises(TrialInterrupted):
        measure_map_floors(evaluation, trial.files.archive("val"), check=stop)


def test_floors_are_told_apart_by_what_changes_them_alone() -> None:
    settings = ScoreSettings()
    assert settings_digest(settings) == settings_digest(settings.model_copy(update={"n_images": 9, "n_random": 3}))
    assert settings_digest(settings) != settings_digest(settings.model_copy(update={"fill": "blur"}))
    assert floor_settings(settings, 1000).n_images == N_IMAGES
    assert floor_settings(settings, 5).n_images == 5
    assert floor_settings(settings, 5).families == ("faithfulness", "localisation")
