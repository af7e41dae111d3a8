"""`leakage` on two small runs, in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.cli.conftest import Run, check_mistake, layout_of


def test_leakage_of_the_published_trial_is_a_table_that_pandas_reads(run: Run, results: Path) -> None:
    lines = run("leakage", "loupe", "--json")
    table = pd.read_csv(layout_of(results, "loupe").trial(0).table_csv("leakage", "test"))
    skills = table[table.score == "skill"].groupby("model").size()
    assert skills.to_dict() == {"trained": 16, "untrained": 16}
    trained = table[(table.model == "trained") & table.part.isna()].set_index("score").value
    assert list(trained.index)[:3] == ["own", "leak", "locality"]
    assert 0 <= trained["decisions_by_map"] <= 1
    own = table[(table.model == "trained") & (table.part == table["at"])].value
    assert trained["own"] == pytest.approx(own.mean())
    assert [json.loads(line)["score"] for line in lines] == table.score.tolist()


def test_leakage_of_a_named_trial_is_shown_on_validation(run: Run, results: Path) -> None:
    text = " ".join(" ".join(run("leakage", "loupe", "--trial", "0")).split())
    assert "trial 0, val images" in text
    assert "at wing_bar" in text
    assert layout_of(results, "loupe").trial(0).table_csv("leakage", "val").exists()


def test_leakage_needs_a_study(run: Run) -> None:
    check_mistake(run, "leakage nonesuch", ["nonesuch"])
