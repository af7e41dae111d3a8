"""`faithfulness` on two small runs, in this process."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from attnsearch.config.evaluation import VERSION
from attnsearch.results.full_scores import ClassScores, resembled_note
from attnsearch.results.uncertainty import with_error
from attnsearch.store.archive import read_archive
from attnsearch.store.image_scores import read_scores
from tests.cli.conftest import FEW, Run, check_mistake, layout_of


@pytest.mark.slow
def test_scores_of_the_published_trial_bear_the_published_names(run: Run, results: Path) -> None:
    lines = run("faithfulness", "loupe", *FEW, "--json")
    found = json.loads(lines[0])
    layout = layout_of(results, "loupe")
    table = read_scores(layout.trial(0).scores("test"))
    assert (found["split"], found["n_images"], found["version"], found["grid"]) == ("test", 6, VERSION, [8, 8])
    assert found["scores"]["deletion"] == table.means()["deletion"]
    answers = read_archive(layout.published(1).archive("test"))
    right = {answers.image_ids[row] for row in np.flatnonzero(answers.predictions == answers.labels)}
    of_right = [value for name, value in zip(table.image_ids, table.values["deletion"], strict=True) if name in right]
    assert found["n_right"] == len(of_right) > 0
    assert found["scores_right"]["deletion"] == pytest.approx(np.mean(of_right))
    assert found["n_correct"] == len(of_right)
    deletion = table.values["deletion"]
    assert found["standard_errors"]["deletion"] == pytest.approx(deletion.std(ddof=1) / len(deletion) ** 0.5)
    drops = table.terms["relevance_gain.untouched"] - table.terms["relevance_gain.filled"]
    assert found["mean_drops"]["relevance_gain"] == pytest.approx(drops.mean())
    assert sum(one["n_images"] for one in found["by_class"]) == 6
    curves = np.load(layout.curves_npy("Del"), allow_pickle=False)
    assert curves.shape == (6, 5, 2)
    assert curves[0, :, 0].tolist() == [64, 48, 32, 16, 0]
    name, mean = layout.shared.areas_csv("Del").read_text().strip().split(",")
    assert (name, float(mean)) == ("loupe", table.means()["deletion"])
    (row,) = csv.reader(layout.shared.areas_csv("Add", per_image=True).read_text().splitlines())
    np.testing.assert_array_equal(np.array(row[1:], dtype=float), table.values["insertion"])


def test_gains_are_shown_with_errors_and_by_class(run: Run, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnsearch.metrics.gains.LEAST_MEAN_DROP", 1e-9)
    lines = run("faithfulness", "loupe", *FEW)
    table = read_scores(layout_of(results, "loupe").trial(0).scores("test"))
    shown = with_error(table.means()["relevance_gain"], table.standard_errors()["relevance_gain"])
    (row,) = [line.split() for line in lines if line.split()[:1] == ["relevance_gain"]]
    assert row[1:5] == ["↑", *shown.split()]
    (start,) = [place for place, line in enumerate(lines) if "by the class" in line]
    head, _, *rows = [line.split() for line in lines[start + 1 :] if line.strip()]
    assert head[:3] == ["class", "images", "confidence"]
    assert sum(int(cells[1]) for cells in rows if cells[0].startswith("species")) == 6
    n_wide = max(len(line.rstrip()) for line in lines[: start + 1] if not line.startswith("loupe"))
    assert n_wide <= 80


def test_classes_that_survive_the_fill_are_named() -> None:
    classes = [ClassScores("gull", 3, 0.9, 0.6, 0.5, 0.1), ClassScores("tern", 3, 0.9, 0.1, 0.5, 0.1)]
    assert resembled_note(classes) == (
        "images without any cell are still taken for gull, with a mean probability above 0.3, so the gain of these "
        "images says least"
    )
    assert resembled_note(classes[1:]) is None


def test_scoring_test_images_is_a_test_evaluation(run: Run, results: Path) -> None:
    before = layout_of(results, "loupe").test_evaluations.read_text().splitlines()
    run("faithfulness", "loupe", *FEW)
    after = layout_of(results, "loupe").test_evaluations.read_text().splitlines()
    assert len(after) == len(before) + 1
    assert ",0,1,test," in after[-1]


def test_named_trial_is_scored_on_validation(run: Run, results: Path) -> None:
    lines = run("faithfulness", "loupe", *FEW, "--trial", "0")
    assert "6 val images" in " ".join(" ".join(lines).split())
    assert len(read_scores(layout_of(results, "loupe").trial(0).scores("val")).fractions) == 5
    assert not layout_of(results, "loupe").curves_npy("Del").exists()


def test_baselines_and_randomised_weights_stand_beside_the_scores(run: Run, results: Path) -> None:
    lines = run("faithfulness", "loupe", *FEW, "--baselines", "random,parts", "--sanity", "--json")
    own, _, _, parts, *sanity = map(json.loads, lines)
    assert parts["map"] == "parts"
    assert parts["scores"]["random_deletion"] == own["scores"]["random_deletion"]  # the same orders
    assert {row["check"] for row in sanity} == {"sanity"}
    assert [row["redrawn"] for row in sanity][:2] == ["head, gate", "backbone.layer4"]
    with layout_of(results, "loupe").trial(0).baselines_csv("test").open() as file:
        assert [row["map"] for row in csv.DictReader(file)] == ["own map", "random", "parts"]


def test_baseline_that_the_model_cannot_have_is_found_first(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes last, and no other one was scored in full by then."""
    run("faithfulness", "loupe", *FEW)
    begun: list[str] = []
    monkeypatch.setattr("attnsearch.evaluation.score_archive.with_bar", lambda _, title, **named: begun.append(title))
    *_, line = run("faithfulness", "loupe", *FEW, "--references", "uniform,rollout", code=2)
    assert line.startswith("error: baseline 'rollout': Loupe has no plain self-attention")
    assert not begun


MISTAKES = {
    "misspelled setting": ("faithfulness loupe n_imges=4", ["n_imges", "did you mean 'n_images'?"]),
    "unknown family": ("faithfulness loupe families=[rood]", ["families", "did you mean 'road'?"]),
    "too many images": ("faithfulness loupe n_images=9", ["at most the 8 archived test images", "got 9"]),
    "unknown baseline": ("faithfulness loupe --baselines rndom", ["'rndom'", "did you mean 'random'?"]),
    "unknown run": ("faithfulness lupe", ["'lupe'"]),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistake_costs_one_line(case: str, run: Run) -> None:
    check_mistake(run, *MISTAKES[case])
