"""Experiments and studies are found by name, and broken ones say so."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from werkzeug.test import Client

from attnsearch.errors import ConfigError, StoreError
from attnsearch.explorer.server import build_app
from attnsearch.results.reader import find_experiments, find_study, load_results, load_study
from attnsearch.store.urls import sqlite_url
from tests.explorer.built import Built


def make_run(built: Built, experiment: str = "here") -> None:
    """A plain run of before beside the study: the folder of one trial, without `study.yaml`."""
    target = built.root / experiment / "alone" / "trials" / "00000"
    shutil.copytree(built.layout.trial(1).directory, target)


def test_results_and_one_experiment_in_them_mean_the_same(built: Built) -> None:
    assert find_experiments(built.root) == find_experiments(built.layout.experiment_dir)


def test_study_is_found_by_its_names_and_its_paths(built: Built) -> None:
    layout = load_results(built.root).study("hunt").layout
    assert layout == built.layout
    assert load_results(built.root).study("here/hunt").layout == layout
    for path in (built.layout.study_dir, built.layout.study_yaml):
        assert load_study(path).layout == layout
        assert find_study(str(path), Path("elsewhere")).layout == layout


def test_study_of_another_name_is_not_found(built: Built) -> None:
    results = load_results(built.root)
    for names in (("here", "other"), ("other", "hunt"), ("here", "artifacts"), ("here", "..")):
        with pytest.raises(ConfigError, match="no study"):
            results.find(*names)
    message = rf"^no study 'hunts' in {re.escape(str(built.root))} \(did you mean 'hunt'\?\); known: here/hunt$"
    with pytest.raises(ConfigError, match=message):
        results.study("hunts")
    with pytest.raises(ConfigError, match=message):
        find_study("hunts", built.root)
    with pytest.raises(ConfigError, match=r"^no study 'hunt' in nowhere; known: none, as there is no folder"):
        find_study("hunt", Path("nowhere"))
    with pytest.raises(ConfigError, match="there is no study in"):
        load_study(built.root)


def test_bare_name_of_two_studies_asks_for_the_experiment(copied: Built) -> None:
    make_run(copied)
    make_run(copied, "there")
    with pytest.raises(ConfigError, match="write one of: here/alone, there/alone"):
        load_results(copied.root).study("alone")


def test_plain_run_is_a_study_of_one_trial(copied: Built) -> None:
    make_run(copied)
    study = load_results(copied.root).study("alone")
    rows = study.rows
    assert [(trial.number, trial.state, trial.best_epoch) for trial in rows.trials] == [(0, "complete", 3)]
    assert rows.objectives == {"val/accuracy": "maximize"}
    assert rows.trials[0].values == pytest.approx((0.61,))  # 0.3 + 0.1 · epoch 3 + 0.01 · number 1
    assert list(study.epochs_of([0])[0]["val/accuracy"]) == pytest.approx([0.41, 0.51, 0.61])
    assert (study.best.number, study.summary().state, study.progress().n_done) == (0, "finished", 1)


def test_plain_runs_alone_have_no_dashboard(copied: Built) -> None:
    make_run(copied)
    shutil.rmtree(copied.layout.study_dir)
    for path in copied.layout.experiment_dir.glob("hypSearch.db*"):
        path.unlink()
    app, dashboard_of = build_app(find_experiments(copied.root))
    assert dashboard_of is None
    answer = Client(app).get("/")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/attention/")


def test_study_without_its_database_says_so_in_the_list(copied: Built) -> None:
    for path in copied.layout.experiment_dir.glob("hypSearch.db*"):
        path.unlink()
    results = load_results(copied.root)
    (row,) = results.studies.itertuples()
    assert row.state == "unreadable"
    assert "hypSearch.db" in str(row.error)
    with pytest.raises(StoreError, match=r"hypSearch\.db"):
        results.study("hunt").rows  # noqa: B018


def test_study_that_the_database_lacks_is_named(copied: Built) -> None:
    copied.layout.study_dir.rename(copied.layout.experiment_dir / "renamed")
    with pytest.raises(StoreError, match="'renamed' is not in its database"):
        load_results(copied.root).study("renamed").rows  # noqa: B018


def test_trials_of_another_experiment_are_not_those_of_a_study_of_the_same_name(copied: Built) -> None:
    database = sqlite_url(copied.layout.experiment_dir / "hypSearch.db")
    there = shutil.copytree(copied.layout.experiment_dir, copied.root / "there") / "hunt" / "study.yaml"
    assert list(load_results(copied.root, storage=database).studies["state"]) == ["finished"] * 2  # a copy as it was
    there.write_text(there.read_text().replace("experiment: here", "experiment: there"))
    here, other = load_results(copied.root, storage=database).studies.itertuples()
    assert (here.state, other.state) == ("finished", "unreadable")
    assert "'hunt' in this database belongs to the experiment 'here', not to 'there'" in str(other.error)


def test_folders_without_studies_are_passed_over(copied: Built) -> None:
    Path(copied.root, "notes").mkdir()
    assert list(find_experiments(copied.root)) == ["here"]


def test_table_of_studies_has_a_row_each(built: Built) -> None:
    table = load_results(built.root).studies
    assert list(table.index) == [("here", "hunt")]
    row = table.loc[("here", "hunt")]
    assert (row["state"], row["n_done"], row["n_trials"], row["best"]) == ("finished", 3, 3, 2)


def test_table_of_trials_has_those_of_all_studies(copied: Built) -> None:
    make_run(copied, "there")
    (copied.root / "broken" / "lost").mkdir(parents=True)
    (copied.root / "broken" / "lost" / "study.yaml").write_text("name: lost\n")
    trials = load_results(copied.root).trials
    places = [("here", "hunt", 0), ("here", "hunt", 1), ("here", "hunt", 2), ("there", "alone", 0)]
    assert list(trials[["experiment", "study", "trial"]].itertuples(index=False, name=None)) == places
    of_study = load_results(copied.root).study("hunt").trials
    assert trials["val/accuracy"].tolist()[:3] == of_study["val/accuracy"].tolist()
    assert trials["is_best"].tolist()[:3] == of_study["is_best"].tolist()


@pytest.mark.slow
def test_reading_imports_no_torch(built: Built) -> None:
    code = (
        "import sys; from attnsearch.results.reader import load_results; "
        f"study = load_results({str(built.root)!r}).study('hunt'); "
        "study.trials; study.epochs; study.best.images(); study.best.maps(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="absent is not a folder"):
        find_experiments(tmp_path / "absent")
    with pytest.raises(StoreError, match="holds no study and no run"):
        find_experiments(tmp_path)
