"""The full measure of a trial's saliency, without the command line."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from attnsearch.config.evaluation import FULL_N_IMAGES, ScoreSettings, full_score_settings
from attnsearch.results.full_scores import (
    OWN,
    find_target,
    full_settings,
    open_target,
    score_baseline_maps,
    score_target,
    store_scores,
)

FEW = ("n_steps=4", "n_images=4", "n_random=1", "families=[complexity]")


def test_full_measure_keeps_how_the_run_measures(finished_run: Path) -> None:
    own = ScoreSettings(fill="black", precision="fp32")
    settings = full_settings(own, n_archived=10, task="classification")
    assert (settings.fill, settings.precision, settings.n_images) == ("black", "fp32", 10)
    assert full_settings(own, n_archived=10**6, task="classification").n_images == FULL_N_IMAGES
    assert settings.n_steps == full_score_settings("classification").n_steps
    assert settings.second_fill != settings.fill


def test_published_trial_is_scored_on_test_and_a_named_one_on_validation(finished_run: Path) -> None:
    published, named = (find_target("br_npa_low_res", number, finished_run) for number in (None, 0))
    assert [(target.number, target.split, target.is_published) for target in (published, named)] == [
        (0, "test", True),
        (0, "val", False),
    ]


def test_scores_and_baselines_are_stored(finished_run: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(finished_run, tmp_path / "results"))  # other tests read the scores of the run
    target = find_target("br_npa_low_res", 0, copied)
    with open_target(target, FEW) as evaluation:
        table = score_target(evaluation, target)
        assert store_scores(target, table, None) == []  # the files of the published trial stay
        tables, path = score_baseline_maps(evaluation, target, table, ["uniform"])
    scores = target.trial.study.scores
    recorded = scores[scores["metric"] == "gini"]["value"].tolist()
    assert table.means()["gini"] in [pytest.approx(value) for value in recorded]
    assert list(tables) == [OWN, "uniform"]
    with path.open() as file:
        assert [row["map"] for row in csv.DictReader(file)] == [OWN, "uniform"]
