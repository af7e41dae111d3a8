"""What is said of how a best trial was chosen."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attnsearch.config.load import resolved_study
from attnsearch.metrics.statistics import WinnerCheck, cross_fitted
from attnsearch.results.selection import order_line, outlook_line, stop_line
from attnsearch.results.study import StudyReader
from attnsearch.search.pareto import Reliability
from attnsearch.search.patience import Outlook
from attnsearch.search.study import Stop
from attnsearch.store.layout import StudyLayout
from attnsearch.types import EpochRecord
from tests.explorer.built import Built, epoch_records, fill_database, loaded

HALVES = {0: [(0.5, 0.9), (0.7, 0.6), (0.4, 0.4)], 1: [(0.8, 0.5), (0.6, 0.3), (0.2, 0.2)]}
"""Trial -> accuracy on both halves after each epoch."""


def records_in_halves(number: int, n_epochs: int) -> list[EpochRecord]:
    def measured(record: EpochRecord) -> dict[str, float]:
        first, second = HALVES[number][record.epoch - 1]
        return {"accuracy": (first + second) / 2, "accuracy_half_a": first, "accuracy_half_b": second}

    records = epoch_records(number, n_epochs)
    return [replace(one, metrics=measured(one)) if one.split == "val" else one for one in records]


@pytest.fixture
def study(tmp_path: Path) -> StudyReader:
    layout = StudyLayout(tmp_path / "results", "here", "hunt")
    settings = loaded(tmp_path, "squash", n_trials=2, objectives={"val/accuracy": "maximize"})
    layout.study_dir.mkdir(parents=True)
    layout.study_yaml.write_text(resolved_study(settings), encoding="utf-8")
    fill_database(layout, settings, 2, 3, records_of=records_in_halves)
    return StudyReader(layout)


def test_the_choice_on_one_half_is_measured_on_the_other(study: StudyReader) -> None:
    """Half a is best in the first epoch of trial 1, where b is .5; half b in that of trial 0, where a is .5."""
    selection = study.selection()
    assert selection.value is not None
    assert selection.value.best == pytest.approx(0.7)
    assert selection.value.cross_fitted == pytest.approx(0.5)
    assert selection.lines[0] == (
        "best val/accuracy 0.7 is selected from all epochs of 2 trials; chosen on one half of validation and "
        "measured on the other it is 0.5"
    )
    assert selection.lines[1].startswith("best val/accuracy after each complete trial: 0.5 ")


@pytest.mark.slow
def test_what_is_shown_of_a_study_imports_neither_pandas_nor_scipy(study: StudyReader, tmp_path: Path) -> None:
    """They take half a second to import."""
    code = (
        "import sys; from attnsearch.cli import main; "
        f"main(['show', 'hunt', '--results', {str(tmp_path / 'results')!r}]); "
        f"main(['list', '--results', {str(tmp_path / 'results')!r}]); "
        "sys.exit(not {'pandas', 'scipy', 'torch'}.isdisjoint(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "chosen on one half of validation" in ended.stdout
    assert "here/hunt" in ended.stdout


def test_studies_of_before_say_nothing_of_halves(built: Built) -> None:
    selection = StudyReader(built.layout).selection()
    assert selection.value is None
    (line,) = selection.lines
    assert (
        "hypervolume after each complete trial, 1 spanning the worst and best values of the first 3 trials: 0 " in line
    )


def test_cross_fitting_takes_back_what_the_choice_adds() -> None:
    """Of 300 equal candidates the best is 3 standard errors too good; the estimate is not, in either direction."""
    rng = np.random.default_rng(1)
    truth, found = 0.75, []
    for direction in (True, False):
        halves = truth + 0.03 * rng.normal(size=(400, 2, 300))
        found.append(np.mean([cross_fitted(a, b, higher_is_better=direction) for a, b in halves]))
        assert abs(np.mean(halves.mean(axis=1).max(axis=1)) - truth) > 0.05
    assert found == pytest.approx([truth, truth], abs=0.004)
    assert np.isnan(cross_fitted(np.array([np.nan]), np.array([1.0])))


def test_order_is_said_with_what_chance_reaches() -> None:
    measured = Reliability(
        10, 32, alpha=0.2, winner=WinnerCheck(0.27, 0.1, 0.81), second_fill=float("nan"), n_undefined=1
    )
    assert order_line("val/relevance_gain", measured) == (
        "order of 10 trials in val/relevance_gain over 32 images: Krippendorff's alpha 0.2, same winner on random "
        "halves 0.27 (by chance 0.1), its score on the other half 0.81, 1 of 320 scores undefined; images disagree too "
        "much to name a best trial"
    )


def test_end_by_patience_says_how_to_continue() -> None:
    line = stop_line(Stop(8, "9 trials in a row did not improve the best val/accuracy 0.7 of trial 1"))
    assert line == (
        "ended by patience=8: 9 trials in a row did not improve the best val/accuracy 0.7 of trial 1; a larger one, or "
        "null, continues the search"
    )


def test_outlook_is_called_an_estimate() -> None:
    assert outlook_line(Outlook("val/accuracy", 25, 0.01234, 0.004)) == (
        "estimate: as many trials again would improve the best val/accuracy by about 0.004 on average; from half of "
        "the 25 trials to all of them it improved by 0.012"
    )
