"""Standard errors beside means, reasons for undefined gains, and ties."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from attnsearch.errors import StoreError
from attnsearch.metrics.statistics import mean_interval
from attnsearch.results.study import StudyReader
from attnsearch.results.trial import TrialReader
from attnsearch.results.uncertainty import (
    known_errors,
    score_summary_of,
    tie_line,
    undefined_lines,
    value_errors,
    with_error,
)
from attnsearch.search.trials import StudyRows
from attnsearch.store.image_scores import ScoreTable, make_table
from attnsearch.store.score_journal import ImageScore
from attnsearch.types import Split
from tests.explorer.built import Built, write_trial_scores

IDS = [f"val/{name}/{index}.jpg" for name in ("gull", "tern") for index in range(3)]
SHEET = {
    "relevance_gain.area": [0.6, 0.3, 0.0],
    "relevance_gain.untouched": [0.9, 0.6, 0.11],
    "relevance_gain.filled": [0.1, 0.1, 0.1],
}
DEAD = {**SHEET, "relevance_gain.filled": [0.85, 0.55, 0.1]}


def table_of(columns: Mapping[str, Sequence[float]]) -> ScoreTable:
    n_images = len(next(iter(columns.values())))
    scores = [ImageScore(str(row), {name: one[row] for name, one in columns.items()}, {}) for row in range(n_images)]
    return make_table(scores, [0.0, 1.0], {"split": "val", "version": 3})


class OneTrial:
    """A trial whose objective is the relevance gain of a table."""

    def __init__(self, number: int, columns: Mapping[str, Sequence[float]]) -> None:
        self.number, self._table = number, table_of(columns)
        self.values = {"val/accuracy": 0.5, "val/relevance_gain": self._table.trial_means()["relevance_gain"]}

    def score_summary(self) -> Mapping[str, float]:
        return score_summary_of(self._table, self.values)

    def score_table(self) -> ScoreTable:
        return self._table


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.8693, 0.0184, "0.869 ± 0.018"),
        (0.8693, 0.23, "0.87 ± 0.23"),
        (12.0, 34.5, "12 ± 34"),
        (0.5, 0.0, "0.5 ± 0"),
        (0.5, 4.2e-8, "0.5 ± 4.2e-08"),
        (0.12345, None, "0.1235"),
        (0.12345, math.nan, "0.1235"),
        (math.nan, math.nan, "-"),
    ],
)
def test_an_error_has_two_digits_and_the_mean_as_many_decimals(value: float, error: float | None, text: str) -> None:
    assert with_error(value, error) == text


def test_a_gain_has_the_error_and_interval_of_a_ratio() -> None:
    trial = OneTrial(0, SHEET)
    summary = trial.score_summary()
    assert summary["val/relevance_gain"] == pytest.approx(0.687023, abs=1e-6)
    assert summary["val/relevance_gain_se"] == pytest.approx(0.062568, abs=1e-6)
    interval = mean_interval(np.array([0.802401, 0.587378, 0.671290]))
    assert summary["val/relevance_gain_low"] == pytest.approx(interval.low, abs=1e-5)
    assert value_errors(trial, trial.values) == {"val/relevance_gain": pytest.approx(0.062568, abs=1e-6)}


def test_an_undefined_gain_has_no_interval_and_its_reason_is_said() -> None:
    dead = OneTrial(4, DEAD)
    summary = dead.score_summary()
    assert summary["val/relevance_gain"] == 0
    assert all(math.isnan(summary[f"val/relevance_gain_{end}"]) for end in ("se", "low", "high"))
    assert undefined_lines([OneTrial(0, SHEET), dead, OneTrial(7, DEAD)], dead.values) == [
        "val/relevance_gain of trials 4, 7 is undefined and counts as 0: the fill changes nothing: the mean drop is "
        "0.0367, and 0.1 is needed (trial 4)"
    ]
    assert undefined_lines([OneTrial(0, SHEET)], dead.values) == []


def test_the_gain_of_some_images_is_the_ratio_of_their_sums() -> None:
    few = table_of(SHEET).among(np.array([True, False, True]))
    assert few.image_ids == ("0", "2")
    assert few.means()["relevance_gain"] == pytest.approx(0.6 / 0.81)
    assert math.isnan(table_of(SHEET).among(np.array([False, False, True])).means()["relevance_gain"])


def test_ties_are_said_with_their_images() -> None:
    rows = StudyRows("hunt", "uuid", {"val/relevance_gain": "maximize"}, (), (5,), ties=(5, 3, 7), n_refined=320)
    assert tie_line(rows) == "best trial 5 = 3, 7: within two standard errors on 320 images"
    both = {"val/accuracy": "maximize", **rows.objectives}
    of_front = StudyRows("hunt", "uuid", both, (), (3, 5), ties=(5, 3), n_refined=320)
    assert tie_line(of_front) == "trials 3, 5 are not surely beaten on 320 images"
    assert tie_line(StudyRows("hunt", "uuid", both, (), (3,), ties=(3,), n_refined=320)) is None


def test_a_study_reads_its_ties_and_says_them(copied: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    study = StudyReader(copied.layout)
    assert study.ties == ()
    tied = StudyRows(**{**vars(study.rows), "ties": (2, 0), "n_refined": 320})
    monkeypatch.setattr(StudyReader, "rows", tied)
    assert [trial.number for trial in study.ties] == [2, 0]
    assert study.selection().lines[0] == "trials 0, 2 are not surely beaten on 320 images"


def test_damaged_scores_leave_the_values_of_a_study_readable(copied: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: TrialReader, split: Split = "val") -> dict[str, float]:
        raise StoreError("scores_val.csv is damaged")

    monkeypatch.setattr(TrialReader, "score_summary", refuse)
    trial = StudyReader(copied.layout).trial(1)
    assert known_errors(trial, ["val/gini"]) == {}
    with pytest.raises(StoreError, match=r"scores_val\.csv"):
        value_errors(trial, ["val/gini"])


def test_without_a_score_among_the_objectives_no_file_is_read(copied: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrialReader, "score_summary", lambda self, split="val": pytest.fail("read"))
    study = StudyReader(copied.layout)
    rows = StudyRows(**{**vars(study.rows), "objectives": {"val/accuracy": "maximize"}})
    monkeypatch.setattr(StudyReader, "rows", rows)
    assert study.value_errors() == {0: {}, 1: {}, 2: {}}


def test_trials_have_a_column_of_standard_errors(copied: Built) -> None:
    write_trial_scores(copied.layout, 1, IDS, {"gini": [0.0, 1.0] * 3})
    table = StudyReader(copied.layout).trials
    assert table.loc[1, "val/gini_se"] == pytest.approx(math.sqrt(0.3 / 6))
