"""A race after the last trial: who is scored again, what is kept, and that a race that was cut off continues."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from attnsearch.config.load import with_settings
from attnsearch.data.loader import DataSource, open_data
from attnsearch.errors import TrialInterrupted
from attnsearch.search.choice import RACE, best_feasible, stored_race
from attnsearch.search.context import Worker
from attnsearch.search.handle import StudyHandle
from attnsearch.search.publish import trials_to_publish
from attnsearch.search.racing import race
from attnsearch.search.trials import rows_of
from attnsearch.search.worker import run_worker
from attnsearch.store.image_scores import read_scores

OBJECTIVES = {"val/relevance_gain": "maximize"}


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnsearch.metrics.gains.LEAST_MEAN_DROP", 1e-9)  # such models have seen one epoch


@pytest.fixture
def searched(open_tiny: Callable[..., StudyHandle], source: None) -> tuple[StudyHandle, DataSource]:
    """Two real trials, whose maps are scored on two of four validation images."""
    handle = open_tiny(objectives=OBJECTIVES, n_trials=2)
    settings = {"train.epochs": 1, "model.stride_stage3": 1, "model.stride_stage4": 1, "runtime.n_threads": 1}
    experiment = with_settings(handle.loaded.experiment, {**settings, "evaluation.scores.n_images": 2})
    object.__setattr__(handle.loaded, "experiment", experiment)
    data = open_data(experiment.data)
    run_worker(handle, Worker("here:1:a", None), data)
    return handle, data


def journals(handle: StudyHandle) -> list[Path]:
    return [path for path in handle.layout.study_dir.rglob("scores_*.part") if path.exists()]


@pytest.mark.slow
def test_trials_that_are_not_surely_beaten_are_scored_on_all_archived_images(
    searched: tuple[StudyHandle, DataSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    handle, data = searched
    monkeypatch.setattr("attnsearch.metrics.racing.STANDARD_ERRORS", 1e9)  # nothing is sure
    assert len(journals(handle)) == 2
    found = race(handle, data)
    assert found is not None
    assert (found.n_images, found.n_complete, sorted(found.ties)) == (4, 2, [0, 1])
    assert stored_race(handle.study) == found
    for number in (0, 1):
        files = handle.layout.trial(number)
        first, more = read_scores(files.scores("val")), read_scores(files.scores("val", is_refined=True))
        assert (len(first.image_ids), len(more.image_ids)) == (2, 4)
        for image_id in first.image_ids:  # measured once
            places = first.image_ids.index(image_id), more.image_ids.index(image_id)
            assert first.terms["relevance_gain.area"][places[0]] == more.terms["relevance_gain.area"][places[1]]
        assert found.scores[number]["val/relevance_gain"] == more.trial_means()["relevance_gain"]
    assert journals(handle) == []
    rows = rows_of(handle.study, "sqlite://")
    assert rows.trials[0].values == (found.scores[0]["val/relevance_gain"],)
    assert rows.trials[0].metrics["val/relevance_gain"] == rows.trials[0].values[0]
    assert (rows.ties, rows.n_refined, rows.best) == (found.ties, 4, (found.ties[0],))
    assert trials_to_publish(handle)[0].number == found.ties[0] == best_feasible(handle.study)[0].number
    assert handle.study.get_trials(deepcopy=False)[0].values == [read_means(handle, 0)]  # Optuna's own value is final


def read_means(handle: StudyHandle, number: int) -> float:
    return read_scores(handle.layout.trial(number).scores("val")).trial_means()["relevance_gain"]


@pytest.mark.slow
def test_a_trial_that_is_surely_beaten_is_not_scored_again(
    searched: tuple[StudyHandle, DataSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    handle, data = searched
    monkeypatch.setattr("attnsearch.metrics.racing.STANDARD_ERRORS", -1e9)  # any difference is sure
    monkeypatch.setattr(
        "attnsearch.search.racing.contenders", lambda scores, others: np.arange(scores.shape[1]) == scores.shape[1] - 1
    )
    found = race(handle, data)
    assert found is not None
    assert (found.ties, found.scores) == ((1,), {})
    assert not handle.layout.trial(1).scores("val", is_refined=True).about.exists()
    assert best_feasible(handle.study)[0].number == 1


@pytest.mark.slow
def test_a_race_that_was_cut_off_continues(
    searched: tuple[StudyHandle, DataSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    handle, data = searched
    monkeypatch.setattr("attnsearch.metrics.racing.STANDARD_ERRORS", 1e9)

    def stop() -> None:
        if handle.layout.trial(0).scores("val", is_refined=True).about.exists():
            raise TrialInterrupted

    with pytest.raises(TrialInterrupted):
        race(handle, data, check=stop)
    assert RACE not in handle.study.user_attrs
    written = handle.layout.trial(0).scores("val", is_refined=True).about.stat().st_mtime_ns
    found = race(handle, data)
    assert found is not None
    assert len(found.scores) == 2
    assert handle.layout.trial(0).scores("val", is_refined=True).about.stat().st_mtime_ns == written


@pytest.mark.slow
def test_a_race_that_no_trial_has_ended_after_is_not_repeated(
    searched: tuple[StudyHandle, DataSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    handle, data = searched
    monkeypatch.setattr("attnsearch.metrics.racing.STANDARD_ERRORS", 1e9)
    found = race(handle, data)
    monkeypatch.setattr("attnsearch.search.racing.read_scores", lambda paths: pytest.fail("scores are read again"))
    assert race(handle, data) == found


@pytest.mark.slow
def test_a_trial_without_maps_races_with_the_images_it_was_scored_on(
    searched: tuple[StudyHandle, DataSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retention takes maps of trials; a later race has more trials, whose maps are there."""
    handle, data = searched
    monkeypatch.setattr("attnsearch.metrics.racing.STANDARD_ERRORS", 1e9)
    handle.layout.trial(1).archive("val").saliency.unlink()
    found = race(handle, data)
    assert found is not None
    assert (found.n_images, sorted(found.ties)) == (2, [0, 1])
    assert found.scores[1]["val/relevance_gain"] == read_means(handle, 1)

    handle.layout.trial(0).archive("val").saliency.unlink()
    refined = read_scores(handle.layout.trial(0).scores("val", is_refined=True)).trial_means()["relevance_gain"]
    handle.study.set_user_attr(RACE, None)
    again = race(handle, data)
    assert again is not None
    assert again.scores[0]["val/relevance_gain"] == refined


@pytest.mark.slow
def test_without_an_objective_of_single_images_there_is_no_race(
    open_tiny: Callable[..., StudyHandle], source: None
) -> None:
    handle = open_tiny(n_trials=2)
    data = open_data(handle.loaded.experiment.data)
    run_worker(handle, Worker("here:1:a", None), data)
    assert race(handle, data) is None
    assert RACE not in handle.study.user_attrs
    assert journals(handle) == []
