"""`faithfulness`, `confusion` and `compare` on two small runs, in this process."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from attnsearch.cli import main
from attnsearch.cli.confusion import print_confusion
from attnsearch.config.evaluation import VERSION
from attnsearch.config.load import load_experiment, study_of_one
from attnsearch.evaluation.confusion import Predictions, analyse_predictions
from attnsearch.results.comparison import TrialConfusion
from attnsearch.results.study import StudyReader
from attnsearch.search.run import run_study
from attnsearch.store.archive import read_archive
from attnsearch.store.image_scores import read_scores
from attnsearch.store.layout import StudyLayout
from tests.conftest import TINY

STUDIES = ("br_npa_low_res", "loupe")
FEW = ("n_steps=4", "n_images=6", "n_random=1", "families=[faithfulness,complexity]")
Run = Callable[..., list[str]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two runs of one epoch, with maps of 2 x 2 and 8 x 8 cells."""
    root = tmp_path_factory.mktemp("results")
    for study in STUDIES:
        overrides = [*TINY, "data.picture_px=72", "data.image_size_px=64", "train.epochs=1"]
        experiment = load_experiment(study, profile="demo", overrides=overrides)
        run_study(study_of_one(experiment), root=root, n_workers=0)
    return root


@pytest.fixture
def results(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "results"))


@pytest.fixture
def run(results: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command on the results; returns the lines that it printed."""

    def call(*words: str, code: int = 0) -> list[str]:
        assert main([*words, "--results", str(results)]) == code
        shown = capsys.readouterr()
        return (shown.err if code else shown.out).splitlines()

    return call


def layout_of(results: Path, study: str) -> StudyLayout:
    return StudyLayout(results, "demo", study)


def test_scores_of_the_published_trial_bear_the_published_names(run: Run, results: Path) -> None:
    lines = run("faithfulness", "loupe", *FEW, "--json")
    found = json.loads(lines[0])
    layout = layout_of(results, "loupe")
    table = read_scores(layout.trial(0).scores("test"))
    assert (found["split"], found["n_images"], found["version"], found["grid"]) == ("test", 6, VERSION, [8, 8])
    assert found["scores"]["deletion"] == table.means()["deletion"]
    curves = np.load(layout.curves_npy("Del"), allow_pickle=False)
    assert curves.shape == (6, 5, 2)
    assert curves[0, :, 0].tolist() == [64, 48, 32, 16, 0]
    name, mean = layout.shared.areas_csv("Del").read_text().strip().split(",")
    assert (name, float(mean)) == ("loupe", table.means()["deletion"])
    (row,) = csv.reader(layout.shared.areas_csv("Add", per_image=True).read_text().splitlines())
    np.testing.assert_array_equal(np.array(row[1:], dtype=float), table.values["insertion"])


def test_scoring_test_images_is_a_look(run: Run, results: Path) -> None:
    before = layout_of(results, "loupe").test_evaluations.read_text().splitlines()
    run("faithfulness", "loupe", *FEW)
    after = layout_of(results, "loupe").test_evaluations.read_text().splitlines()
    assert len(after) == len(before) + 1
    assert after[-1].endswith(",0,1,test")


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


def test_classes_and_pairs_are_counted(run: Run, results: Path) -> None:
    head, *pairs = map(json.loads, run("confusion", "loupe", "--json"))
    archive = read_archive(layout_of(results, "loupe").trial(0).archive("val"))
    n_errors = int((archive.labels != archive.predictions).sum())
    assert head["top_1"] == pytest.approx(1 - n_errors / 8)
    assert head["top_5"] is None  # of two classes
    assert [pair["n_errors"] for pair in pairs] == ([n_errors] if n_errors else [])
    rows = list(csv.reader(layout_of(results, "loupe").trial(0).confusion_csv("val").read_text().splitlines()))
    assert rows[0] == ["true class", "species_1", "species_2"]
    counts = np.array([row[1:] for row in rows[1:]], dtype=int)
    assert counts.sum(axis=1).tolist() == [4, 4]
    assert int(np.trace(counts)) == 8 - n_errors


def test_comparison_says_what_a_reader_must_know(run: Run, results: Path) -> None:
    for study in STUDIES:
        run("faithfulness", study, *FEW)
    text = " ".join(" ".join(run("compare", *STUDIES, "--metrics", "deletion,gini", "--name", "two")).split())
    assert "maps have different grids (2x2, 8x8)" in text
    assert "deletion: raw, so" in text
    shared = layout_of(results, "loupe").shared
    with shared.comparison("two").open() as file:
        levels = list(csv.DictReader(file))
    assert [(row["name"], row["metric"]) for row in levels] == [
        (study, metric) for metric in ("deletion", "gini") for study in STUDIES
    ]
    assert all(float(row["low"]) <= float(row["mean"]) <= float(row["high"]) for row in levels)
    assert shared.tests_figure("two", "deletion").read_bytes().startswith(b"\x89PNG")


def test_experiment_stands_for_its_scored_studies(run: Run) -> None:
    for study in STUDIES:
        run("faithfulness", study, *FEW)
    rows = [json.loads(line) for line in run("compare", "demo", "--metrics", "gini", "--json")]
    assert [row["name"] for row in rows if "name" in row] == list(STUDIES)


MISTAKES = {
    "misspelled setting": ("faithfulness loupe n_imges=4", ["n_imges", "did you mean 'n_images'?"]),
    "unknown family": ("faithfulness loupe families=[rood]", ["families", "did you mean 'road'?"]),
    "too many images": ("faithfulness loupe n_images=9", ["at most the 8 archived test images", "got 9"]),
    "unknown baseline": ("faithfulness loupe --baselines rndom", ["'rndom'", "did you mean 'random'?"]),
    "unknown run": ("faithfulness lupe", ["'lupe'"]),
    "one trial": ("compare loupe:0", ["at least two", "got loupe"]),
    "not scored": ("compare loupe br_npa_low_res", ["loupe", "run `attnsearch faithfulness loupe`"]),
    "no such trial": ("compare loupe:0,7", ["has no trial 7", "`attnsearch show loupe` lists all"]),
    "experiment that is not scored": ("compare demo", ["has no scores", "run `attnsearch faithfulness"]),
    "no trial numbers": ("compare loupe:x br_npa_low_res", ["'loupe:x'"]),
    "unknown metric": ("compare loupe:0 br_npa_low_res:0 --metrics ginny", ["'ginny'", "did you mean 'gini'?"]),
    "unknown trial": ("confusion loupe --trial 7", ["trial 7"]),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistake_costs_one_line(case: str, run: Run) -> None:
    words, fragments = MISTAKES[case]
    (line,) = run(*words.split(), code=2)
    assert line.startswith("error: ")
    for fragment in fragments:
        assert fragment in line


def test_scores_of_other_settings_are_not_compared(run: Run) -> None:
    run("faithfulness", "loupe", *FEW)
    run("faithfulness", "br_npa_low_res", *FEW, "fill=black")
    (line,) = run("compare", *STUDIES, code=2)
    assert (
        "different settings (fill 'black' and 'mean')" in line or "different settings (fill 'mean' and 'black')" in line
    )


def test_classes_that_are_never_predicted_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logits = torch.tensor([[2.0, 0.0, 1.0]]).repeat(3, 1)
    predictions = Predictions(
        ("a", "b", "c"), ("ant", "bee", "cow"), torch.tensor([0, 1, 0]), {"combined": logits}, 1, "val"
    )
    layout = StudyLayout(tmp_path, "tiny", "one")
    shown = TrialConfusion(StudyReader(layout).trial(0), "val", analyse_predictions(predictions), (), (), ())
    print_confusion(shown, n_pairs=3)
    assert "note: 2 classes are never predicted: bee, cow" in capsys.readouterr().out


def test_baseline_that_the_model_cannot_have_is_found_first(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes last, and no other one was scored in full by then."""
    run("faithfulness", "loupe", *FEW)
    begun: list[str] = []
    monkeypatch.setattr("attnsearch.evaluation.score_archive.with_bar", lambda _, title, **named: begun.append(title))
    *_, line = run("faithfulness", "loupe", *FEW, "--references", "uniform,rollout", code=2)
    assert line.startswith("error: baseline 'rollout': Loupe has no plain self-attention")
    assert not begun
