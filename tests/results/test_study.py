"""What a study says of its trials; three trials, all on the front, of which 2 has the highest accuracy."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from attnsearch.errors import ConfigError
from attnsearch.results.reader import load_study
from attnsearch.results.study import StudyReader
from attnsearch.results.trial import TrialReader
from attnsearch.search.pareto import Reliability
from attnsearch.search.trials import StudyRows
from attnsearch.store.trial_store import opened_trial_store
from attnsearch.store.urls import default_url
from tests.explorer.built import Built, write_trial_scores

IDS = [f"val/{name}/{index}.jpg" for name in ("gull", "tern") for index in range(3)]


def test_trials_are_a_table_of_states_hyperparameters_and_metrics(built: Built) -> None:
    table = StudyReader(built.layout).trials
    assert list(table.index) == [0, 1, 2]
    assert list(table["train.optimizer.name"]) == ["adam", "sgd", "adam"]
    assert table.loc[2, "val/accuracy"] == pytest.approx(0.5 + 0.4 * 2 / 7)
    assert table["is_best"].all()
    assert table.attrs["objectives"] == {"val/accuracy": "maximize", "val/sparsity": "minimize"}


def test_scored_trials_have_intervals(copied: Built) -> None:
    write_trial_scores(copied.layout, 1, IDS, {"deletion_gain": [0.25] * 6})
    table = StudyReader(copied.layout).trials
    assert table.loc[1, ["val/deletion_gain_low", "val/deletion_gain_high"]].tolist() == [0.25, 0.25]
    assert np.isnan(table.loc[0, "val/deletion_gain_low"])


def test_trial_that_was_scored_again_has_no_interval_of_another_mean(
    copied: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_trial_scores(copied.layout, 1, IDS, {"deletion_gain": [0.25] * 6, "gini": [0.5] * 6})
    in_the_search = SimpleNamespace(metrics={"val/deletion_gain": 0.75, "val/gini": 0.5})
    monkeypatch.setattr(TrialReader, "row", in_the_search)
    summary = StudyReader(copied.layout).trial(1).score_summary()
    assert {key for key in summary if key.endswith("_low")} == {"val/gini_low"}


def test_best_of_a_front_is_that_of_the_monitor(built: Built) -> None:
    study = StudyReader(built.layout)
    assert study.best.number == 2
    assert [trial.number for trial in study.front] == [2, 1, 0]  # by the first objective


def test_epochs_of_all_trials_are_one_table(built: Built) -> None:
    epochs = StudyReader(built.layout).epochs
    assert epochs.groupby("trial")["epoch"].apply(list).to_dict() == {0: [1, 2, 3], 1: [1, 2, 3], 2: [1, 2, 3]}


def test_compare_gives_a_row_per_pair(copied: Built) -> None:
    noise = np.sin(np.arange(6.0))
    for number, shift in ((0, 0.1), (1, 0.3)):
        write_trial_scores(copied.layout, number, IDS, {"deletion_gain": list(shift + 0.01 * (1 + number) * noise)})
    study = StudyReader(copied.layout)
    (row,) = study.compare("val/deletion_gain").itertuples()
    assert (row.first, row.second, row.n_images) == (1, 0, 6)  # trial 1 is the better one in the first objective
    assert row.difference == pytest.approx(0.2 + 0.01 * noise.mean())
    assert row.low < row.difference < row.high
    with pytest.raises(ConfigError, match="trial 2 of study 'hunt' has no scores on val"):
        study.compare("deletion_gain", [0, 2])


def test_the_order_of_the_trials_is_judged_by_those_that_were_scored(
    copied: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = StudyReader(copied.layout)
    monkeypatch.setattr(StudyReader, "rows", StudyRows(**{**vars(study.rows), "best": (0, 1, 2)}))
    write_trial_scores(copied.layout, 0, IDS, {"gini": [0.1, 0.2] * 3})
    assert study.reliability("gini") is None
    write_trial_scores(copied.layout, 1, IDS, {"gini": [0.3, 0.4] * 3})
    found = study.reliability("gini")
    assert isinstance(found, Reliability)
    assert (found.n_trials, found.n_images, found.alpha) == (2, 6, pytest.approx(1.0))


def test_scorings_on_record_are_one_table(copied: Built) -> None:
    layout, study = copied.layout, StudyReader(copied.layout)
    assert study.scores.empty
    write_trial_scores(layout, 1, IDS, {"deletion_gain": [0.25] * 6})
    with opened_trial_store(default_url(layout), study.rows.uuid, layout) as store:
        store.write_scores(1, study.trial(1).score_table(), attempt=None)
    (row,) = study.scores.itertuples()
    assert (row.trial, row.split, row.metric, row.value) == (1, "val", "deletion_gain", 0.25)
    assert (row.n_images, row.version) == (6, study.trial(1).scores().attrs["version"])


def test_progress_counts_trials_and_epochs(built: Built) -> None:
    progress = StudyReader(built.layout).progress()
    assert (progress.monitor, progress.n_done, progress.n_trials) == ("val/accuracy", 3, 3)
    assert [(trial.epoch, trial.n_epochs) for trial in progress.trials] == [(3, 3)] * 3


def test_notebook_shows_state_and_best_trial(built: Built) -> None:
    study = StudyReader(built.layout)
    assert repr(study) == (
        "<study here/hunt: finished, 3 of 3 trials, best trial 2: val/accuracy 0.6143, val/sparsity 0.2857>"
    )
    assert "<table" in study._repr_html_()


def test_trials_are_compared_query_by_query(people: Path) -> None:
    study = load_study(people / "people" / "cnn_people")
    (row,) = study.compare("val/mAP").itertuples()
    assert row.first == study.best.number  # the better one comes first
    values = [study.trial(number).retrieval("val").queries["average_precision"] for number in (row.first, row.second)]
    assert row.n_images == len(values[0])
    assert row.difference == pytest.approx((values[0] - values[1]).mean())
