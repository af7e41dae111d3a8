"""A results folder of version 0.1 opens, shows the same numbers and continues."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attnsearch.cli import main
from attnsearch.config.load import load_stored_study
from attnsearch.errors import ConfigError
from attnsearch.models.checkpoint import read_model_checkpoint
from attnsearch.results.reader import load_study
from attnsearch.search.context import Worker
from attnsearch.search.plan import SearchPlan
from attnsearch.search.trials import read_study
from attnsearch.search.worker import run_worker
from attnsearch.store.archive import read_archive
from attnsearch.store.evaluation_log import log_test_evaluation, read_test_evaluations
from attnsearch.store.image_scores import read_scores
from attnsearch.store.layout import ExperimentLayout, StudyLayout
from attnsearch.store.retention import large_files
from attnsearch.store.study_files import read_manifest
from attnsearch.store.trial_store import open_trial_records
from attnsearch.store.urls import default_url
from attnsearch.testing.stores import MemoryTrialStore


@pytest.fixture
def layout(old_results: Path) -> StudyLayout:
    return ExperimentLayout(old_results, "here").study("hunt")


def test_rows_and_epochs(layout: StudyLayout) -> None:
    study = load_study(layout.study_dir)
    rows = study.rows
    assert [(row.state, row.best_epoch) for row in rows.trials] == [("complete", 2), ("complete", 2), ("waiting", 0)]
    assert rows.trials[1].metrics["val/accuracy"] == 1.0
    epochs = study.epochs_of([1])[1]
    assert epochs["val/accuracy"].tolist() == [0.5, 1.0]


def test_plain_run(layout: StudyLayout) -> None:
    (row,) = load_study(layout.shared.study("one").study_dir).rows.trials
    assert (row.state, row.best_epoch, row.epochs_run) == ("complete", 2, 2)
    assert row.values == (row.metrics["val/accuracy"],)
    assert row.seconds == pytest.approx(0.0387501 + 0.0257634, abs=1e-6)
    assert row.images_per_s == pytest.approx(16 / (8 / 241.89997 + 8 / 370.26188), abs=1e-3)  # 8 images each epoch
    means = read_scores(layout.shared.study("one").trial(0).scores("val")).trial_means()
    assert {key.removeprefix("val/"): value for key, value in row.metrics.items()}.items() >= means.items()
    layout.shared.study("one").trial(0).scores("val").table.write_text("damaged")
    assert load_study(layout.shared.study("one").study_dir).rows.trials[0].metrics["val/accuracy"] == 1.0
    assert not {"train/lr", "train/seconds", "train/images_per_s", "train/peak_memory_mb"} & set(row.metrics)


def test_list_and_show(old_results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--results", str(old_results), "--json"]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (row,) = [row for row in listed if row.get("study") == "hunt"]
    assert (row["experiment"], row["state"]) == ("here", "stopped")
    assert main(["show", str(old_results / "here" / "hunt"), "--json"]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["best_epoch"], row["kept_epoch"]) for row in shown[:2]] == [(2, 2), (2, 2)]


def test_what_is_written_again_replaces_the_file_of_version_0_1(layout: StudyLayout) -> None:
    trial = layout.trial(1)
    assert trial.baselines_csv("val").name == "baselines_val.csv"
    (trial.directory / "references_val.csv").write_text("map,deletion\n", encoding="utf-8")
    assert [trial.baselines_csv(split).name for split in ("val", "test")] == [
        "references_val.csv",
        "baselines_test.csv",
    ]


def test_the_table_of_test_evaluations_keeps_its_name(layout: StudyLayout) -> None:
    assert layout.test_evaluations.name == "test_looks.csv"
    assert layout.shared.study("new").test_evaluations.name == "test_evaluations.csv"


def test_files_of_a_trial(layout: StudyLayout) -> None:
    trial = layout.trial(1)
    assert trial.best.name == "kept.safetensors"
    assert read_model_checkpoint(trial.best).epoch == 2
    assert read_archive(trial.archive("val")).saliency is not None
    means = read_scores(trial.scores("val")).means()
    assert means["relevance_gain"] == 0.2242678850889206
    assert [file.path.name for file in large_files([1], layout)] == [
        *("attMaps_val.npy", "kept.safetensors", "norm_val.npy", "saliency_val.npy")
    ]


def test_tables(layout: StudyLayout) -> None:
    url = default_url(layout)
    records = open_trial_records(url, read_study(url, "hunt").uuid)
    scores = records.read_scores().set_index(["trial", "metric"])["value"]
    assert scores[1, "relevance_gain"] == 0.2242678850889206
    assert (0, "saliency_sparsity") in scores.index
    assert list(records.read_artifacts([1])[1]) == ["best", "maps", "norms", "saliency"]


def test_published_files_and_test_evaluations(layout: StudyLayout) -> None:
    manifest = read_manifest(layout)
    assert manifest is not None
    assert all((layout.experiment_dir / name).exists() for name in manifest["files"])
    before = read_test_evaluations(layout)
    log_test_evaluation(MemoryTrialStore(), layout, 0, 2, "test")
    assert [(line.trial, line.epoch) for line in read_test_evaluations(layout)] == [(1, 2), (0, 2)]
    assert read_test_evaluations(layout)[:1] == before


def test_search_that_chose_by_older_scores_is_refused(layout: StudyLayout) -> None:
    stored = load_stored_study(layout.study_yaml)
    with pytest.raises(ConfigError, match=r"evaluation\.scores\.version: was 2, is 3"):
        SearchPlan.check(stored, layout.root)


@pytest.mark.slow
def test_search_continues_a_stopped_trial(layout: StudyLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the scores that it chooses by had not changed since."""
    monkeypatch.setattr("attnsearch.search.study.VERSION", 2)
    stored = load_stored_study(layout.study_yaml)
    plan = SearchPlan.check(stored, layout.root)
    handle = plan.open()
    run_worker(handle, Worker("here:1:a", None), plan.open_data())
    trial = handle.trials()[2]
    assert trial.state.name == "COMPLETE"
    assert trial.user_attrs["epochs_run"] == 2
    table = load_study(layout.study_dir).trials
    assert table["val/saliency_sparsity"].notna().all()
    assert (
        table.loc[1, "val/saliency_sparsity"] == read_scores(layout.trial(1).scores("val")).means()["saliency_sparsity"]
    )
    assert list(table.columns[:3]) == ["state", "is_best", "is_feasible"]
    assert list(table.columns[-4:]) == ["best_epoch", "epochs_run", "seconds", "error"]
    log = layout.trial(2).log.read_text()
    assert log.count("epoch 1/2") == 1  # the first epoch was not trained again
    assert handle.store.read_epochs([2])["epoch"].tolist() == [1, 2]


def test_the_sparsity_of_saliency_has_its_name_of_today(layout: StudyLayout) -> None:
    paths = layout.trial(1).scores("val")
    assert "sparsity" in paths.table.read_text().splitlines()[0].split(",")
    table = read_scores(paths)
    assert "sparsity" not in table.values
    assert 0.0 < table.means()["saliency_sparsity"] <= 1.0


@pytest.mark.slow
def test_a_plain_run_that_is_trained_again_is_a_study_that_trains_nothing(
    old_results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = ExperimentLayout(old_results, "here").study("one")
    log, epochs = layout.trial(0).log.read_text(), layout.trial(0).epochs_csv.read_text()
    assert main(["train", str(layout.trial(0).config), "--results", str(old_results), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["state"], shown["best_epoch"], shown["epochs_run"]) == ("complete", 2, 2)
    assert {"val/accuracy", "val/loss_cross_entropy", "train/loss_cross_entropy"} <= set(shown["metrics"])
    assert layout.trial(0).epochs_csv.read_text() == epochs
    assert "epoch 1/2" not in layout.trial(0).log.read_text().removeprefix(log)
    assert layout.study_yaml.is_file()
