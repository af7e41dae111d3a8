"""Studies and plain runs are found by name, and broken ones say so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from werkzeug.test import Client

from attnsearch.errors import ConfigError, StoreError
from attnsearch.explorer.reading import Reading
from attnsearch.explorer.server import build_app
from attnsearch.results.reader import Results, find_experiments
from tests.explorer.built import Built


def make_run(built: Built) -> None:
    """A plain run beside the study: the folder of one trial, without `study.yaml`."""
    target = built.layout.experiment_dir / "alone" / "trials" / "00000"
    shutil.copytree(built.layout.trial(1).directory, target)


def test_results_and_one_experiment_in_them_mean_the_same(built: Built) -> None:
    assert find_experiments(built.root) == find_experiments(built.layout.experiment_dir)


def test_study_of_another_name_is_not_found(built: Built) -> None:
    library = Results(find_experiments(built.root))
    for names in (("here", "other"), ("other", "hunt"), ("here", "artifacts"), ("here", "..")):
        with pytest.raises(ConfigError, match="no study"):
            library.find(*names)


def test_plain_run_is_a_study_of_one_trial(copied: Built) -> None:
    make_run(copied)
    library = Results(find_experiments(copied.root))
    layout = library.find("here", "alone")
    rows = library.rows(layout)
    assert [(trial.number, trial.state, trial.kept_epoch) for trial in rows.trials] == [(0, "complete", 3)]
    assert rows.objectives == {"val/accuracy": "maximize"}
    assert rows.trials[0].values == pytest.approx((0.61,))  # 0.3 + 0.1 · epoch 3 + 0.01 · number 1
    assert list(library.epochs(layout, [0])[0]["val/accuracy"]) == pytest.approx([0.41, 0.51, 0.61])


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
    reading = Reading(Results(find_experiments(copied.root)))
    (summary,) = [reading.summary(layout) for layout in reading.studies()]
    assert "hypSearch.db" in summary["fault"]
    with pytest.raises(StoreError, match=r"hypSearch\.db"):
        reading.library.rows(copied.layout)


def test_study_that_the_database_lacks_is_named(copied: Built) -> None:
    renamed = copied.layout.experiment_dir / "renamed"
    copied.layout.study_dir.rename(renamed)
    library = Results(find_experiments(copied.root))
    with pytest.raises(StoreError, match="'renamed' is not in its database"):
        library.rows(library.find("here", "renamed"))


def test_published_maps_of_the_test_split_belong_to_their_trial(copied: Built) -> None:
    paths, trial = copied.layout.published(3).archive("test"), copied.layout.trial(1).archive("val")
    for source, target in zip(
        (*trial.arrays.values(), trial.about, trial.images),
        (*paths.arrays.values(), paths.about, paths.images),
        strict=True,
    ):
        shutil.copy(source, target)
    sets = [{"trial": 1, "epoch": 3, "folder": "."}]
    copied.layout.published_json.write_text(json.dumps({"format": 1, "sets": sets, "files": []}), encoding="utf-8")
    archives = Reading(Results(find_experiments(copied.root))).archives
    assert list(archives.of_trial(copied.layout, 1)) == ["val", "test"]
    assert list(archives.of_trial(copied.layout, 0)) == ["val"]


@pytest.mark.parametrize("text", ["", "[]", '{"sets": 3}', '{"sets": [null, {"trial": 0, "epoch": "../.."}]}'])
def test_broken_manifest_publishes_nothing(copied: Built, text: str) -> None:
    copied.layout.published_json.write_text(text, encoding="utf-8")
    archives = Reading(Results(find_experiments(copied.root))).archives
    assert list(archives.of_trial(copied.layout, 0)) == ["val"]


def test_find_experiments_passes_over_folders_without_studies(copied: Built) -> None:
    Path(copied.root, "notes").mkdir()
    assert list(find_experiments(copied.root)) == ["here"]
