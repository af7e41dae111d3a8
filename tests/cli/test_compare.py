"""`compare` on two small runs, in this process."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from attnsearch.cli.compare import letters_of
from tests.cli.conftest import FEW, STUDIES, Run, check_mistake, layout_of


def test_comparison_says_what_a_reader_must_know(run: Run, results: Path) -> None:
    for study in STUDIES:
        run("faithfulness", study, *FEW)
    text = " ".join(" ".join(run("compare", *STUDIES, "--metrics", "deletion,gini", "--name", "two")).split())
    assert "maps have different grids (2x2, 8x8)" in text
    assert "deletion: raw, so" in text
    assert f"A = {STUDIES[0]}, maps " in text
    assert f"B = {STUDIES[1]}, maps " in text
    assert text.count(" images ") >= 2
    assert re.search(r"deletion ↓ [\d.]+ ± [\d.]+ [\d.]+ ± [\d.]+ gini ↑", text)
    assert re.search(r"deletion A - B -?[\d.]+ ± [\d.]+ [\d.]+ [\d.]+", text)
    assert "queries" not in text
    shared = layout_of(results, "loupe").shared
    with shared.comparison("two").open() as file:
        levels = list(csv.DictReader(file))
    assert [(row["name"], row["metric"]) for row in levels] == [
        (study, metric) for metric in ("deletion", "gini") for study in STUDIES
    ]
    assert all(float(row["low"]) <= float(row["mean"]) <= float(row["high"]) for row in levels)
    assert shared.tests_figure("two").read_bytes().startswith(b"\x89PNG")


def test_experiment_stands_for_its_scored_studies(run: Run) -> None:
    for study in STUDIES:
        run("faithfulness", study, *FEW)
    rows = [json.loads(line) for line in run("compare", "demo", "--metrics", "gini", "--json")]
    assert [row["name"] for row in rows if "name" in row] == list(STUDIES)


def test_scores_of_other_settings_are_not_compared(run: Run) -> None:
    run("faithfulness", "loupe", *FEW)
    run("faithfulness", "br_npa_low_res", *FEW, "fill=black")
    (line,) = run("compare", *STUDIES, code=2)
    assert (
        "different settings (fill 'black' and 'mean')" in line or "different settings (fill 'mean' and 'black')" in line
    )


def test_letters_are_never_twice() -> None:
    letters = letters_of(100)
    assert letters[:2] == ["A", "B"]
    assert letters[25:28] == ["Z", "AA", "AB"]
    assert len(set(letters)) == 100


MISTAKES = {
    "one trial": ("compare loupe:0", ["at least two", "got loupe"]),
    "not scored": ("compare loupe br_npa_low_res", ["loupe", "run `attnsearch faithfulness loupe`"]),
    "no such trial": ("compare loupe:0,7", ["has no trial 7", "`attnsearch show loupe` lists all"]),
    "experiment that is not scored": ("compare demo", ["has no scores", "run `attnsearch faithfulness"]),
    "no trial numbers": ("compare loupe:x br_npa_low_res", ["'loupe:x'"]),
    "unknown metric": ("compare loupe:0 br_npa_low_res:0 --metrics ginny", ["'ginny'", "did you mean 'gini'?"]),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistake_costs_one_line(case: str, run: Run) -> None:
    check_mistake(run, *MISTAKES[case])
