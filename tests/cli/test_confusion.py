"""`confusion` on a small run, in this process."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from attnsearch.cli.confusion import print_confusion
from attnsearch.evaluation.confusion import Predictions, analyse_predictions
from attnsearch.results.comparison import TrialConfusion
from attnsearch.results.study import StudyReader
from attnsearch.store.archive import read_archive
from attnsearch.store.layout import StudyLayout
from tests.cli.conftest import Run, check_mistake, layout_of


def test_classes_and_pairs_are_counted(run: Run, results: Path) -> None:
    head, *pairs = map(json.loads, run("confusion", "loupe", "--json"))
    archive = read_archive(layout_of(results, "loupe").trial(0).archive("val"))
    n_errors = int((archive.labels != archive.predictions).sum())
    assert head["top_1"] == pytest.approx(1 - n_errors / 8)
    assert head["top_5"] is None  # of two classes
    assert [pair["n_errors"] for pair in pairs] == ([n_errors] if n_errors else [])
    rows = list(csv.reader(layout_of(results, "loupe").trial(0).table_csv("confusion", "val").read_text().splitlines()))
    assert rows[0] == ["true class", "species_1", "species_2"]
    counts = np.array([row[1:] for row in rows[1:]], dtype=int)
    assert counts.sum(axis=1).tolist() == [4, 4]
    assert int(np.trace(counts)) == 8 - n_errors


def test_classes_that_are_never_predicted_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logits = torch.tensor([[2.0, 0.0, 1.0]]).repeat(3, 1)
    predictions = Predictions(
        ("a", "b", "c"), ("ant", "bee", "cow"), torch.tensor([0, 1, 0]), {"combined": logits}, 1, "val"
    )
    layout = StudyLayout(tmp_path, "tiny", "one")
    shown = TrialConfusion(StudyReader(layout).trial(0), "val", analyse_predictions(predictions), (), (), ())
    print_confusion(shown, n_pairs=3)
    assert "note: 2 classes are never predicted: bee, cow" in capsys.readouterr().out


MISTAKES = {
    "unknown trial": ("confusion loupe --trial 7", ["trial 7"]),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistake_costs_one_line(case: str, run: Run) -> None:
    check_mistake(run, *MISTAKES[case])
