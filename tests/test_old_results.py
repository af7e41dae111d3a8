"""A results folder of version 0.1 opens, shows the same numbers and continues."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attnsearch.cli import main
from attnsearch.results.reader import Results
from attnsearch.store.layout import ExperimentLayout


@pytest.fixture
def results(old_results: Path) -> Results:
    return Results({"here": ExperimentLayout(old_results, "here")})


def test_rows_and_epochs(old_results: Path, results: Results) -> None:
    layout = ExperimentLayout(old_results, "here").study("hunt")
    rows = results.rows(layout)
    assert [row.state for row in rows.trials] == ["complete", "complete", "waiting"]
    assert rows.trials[1].metrics["val/accuracy"] == 1.0
    epochs = results.epochs(layout, [1])[1]
    assert epochs["val/accuracy"].tolist() == [0.5, 1.0]


def test_list_and_show(old_results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--results", str(old_results), "--json"]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"experiment": "here", "study": "hunt", "state": "stopped"}.items() <= listed[-1].items()
    assert main(["show", str(old_results / "here" / "hunt"), "--json"]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["kept_epoch"] for row in shown[:2]] == [2, 2]
