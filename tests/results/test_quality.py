"""What a trial is worth, beside its floors."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest

from attnsearch.results.quality import NOT_SCORED, Quality, known_quality, quality_lines, quality_of, wilson
from attnsearch.results.reader import load_study


def test_a_trial_has_its_accuracy_faithfulness_and_localisation(finished_run: Path) -> None:
    trial = load_study(finished_run / "demo/br_npa_low_res").best
    found = {one.metric: one for one in quality_of(trial)}
    assert found["accuracy"].value == trial.metrics["val/accuracy"]
    assert found["accuracy"].test == trial.metrics["test/accuracy"]
    assert found["accuracy"].floors == {"chance": 0.5}
    assert found["energy_in_mask"].floors.keys() == {"flat map", "untrained"}
    assert found["pointing_hit"].floors["fixed cell"] == 1.0  # its maps have one cell
    for one in found.values():
        assert math.isnan(one.low) or 0 <= one.low <= one.value <= one.high or one.metric == "relevance_gain"


def test_lines_fit_a_narrow_terminal() -> None:
    longest = Quality("pointing_hit", 0.984, 0.963, 0.999, floors={"fixed cell": 0.344, "untrained": 0.865})
    gain = Quality("relevance_gain", -0.984, -0.963, -0.999, floors={"random": 0.0, "centre": 0.4401})
    lines = quality_lines([Quality("accuracy", 0.9, 0.8, 0.95, 0.91, {"chance": 0.125}), gain, longest])
    assert max(map(len, lines)) <= 78
    assert lines[0] == "accuracy        0.900 (0.800 to 0.950), test 0.910; chance 0.12"
    assert lines[2] == "pointing game   0.984 (0.963 to 0.999); fixed cell 0.34, untrained 0.86; weak"


@pytest.mark.parametrize(
    ("value", "low", "floors", "verdict", "skill"),
    [
        (1.0, 0.98, {"fixed cell": 0.85}, "weak", 1.0),
        (0.9, 0.84, {"fixed cell": 0.85}, "at the floor", 1 / 3),
        (0.9, 0.8, {"fixed cell": 0.2, "untrained": 0.4}, "", 5 / 6),
        (0.3, math.nan, {"flat map": 0.4}, "at the floor", -1 / 6),
    ],
)
def test_the_verdict_is_that_of_the_highest_floor(
    value: float, low: float, floors: dict[str, float], verdict: str, skill: float
) -> None:
    found = Quality("pointing_hit", value, low, value, floors=floors)
    assert found.verdict == verdict
    assert found.skill == pytest.approx(skill)


def test_without_floors_nothing_is_judged() -> None:
    found = Quality("accuracy", 0.5)
    assert (found.verdict, found.text) == ("", "0.500")
    assert math.isnan(found.skill)


def test_maps_that_were_not_scored_are_named(finished_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished_run, tmp_path / "results")) / "demo/br_npa_low_res"
    for path in folder.glob("trials/*/scores_val*"):
        path.unlink()
    lines = quality_lines(quality_of(load_study(folder).best))
    assert lines[0].startswith("accuracy")
    assert lines[-1] == NOT_SCORED


def test_damaged_floors_hide_nothing_else(finished_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished_run, tmp_path / "results")) / "demo/br_npa_low_res"
    (folder / "floors_val.json").write_text("{")
    study = load_study(folder)
    assert known_quality(study.best) == []
    assert study.summary().quality == ()
    assert study.summary().best == 0


@pytest.mark.parametrize(("rate", "n", "low", "high"), [(1.0, 320, 0.9881, 1.0), (0.5, 100, 0.4038, 0.5962)])
def test_wilson(rate: float, n: int, low: float, high: float) -> None:
    """Against scipy's `binomtest(...).proportion_ci(method="wilson")`."""
    assert wilson(rate, n) == pytest.approx((low, high), abs=1e-4)
