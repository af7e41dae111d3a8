"""How a forecast is kept, and compared with what trials really took."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from attnsearch.errors import StoreError
from attnsearch.files import atomic_write
from attnsearch.results.forecast import StoredForecast, as_stored, outlook, read_forecast, with_brackets, write_forecast
from attnsearch.results.reader import load_study
from attnsearch.results.study import StudyReader
from attnsearch.search.costs import Cost, Trials, forecast_of
from attnsearch.search.handle import StudyHandle
from attnsearch.search.plan import study_file
from attnsearch.store.layout import StudyLayout
from tests.search.conftest import backend, empty_database, make_database, open_tiny
from tests.search.studies import HALVING, loaded_study, play_leg
from tests.search.test_costs import trial_cost

__all__ = ["backend", "empty_database", "make_database", "open_tiny"]

Open = Callable[..., StudyHandle]
FORETOLD = StoredForecast(epoch_s=0.5, end_s=3.0, processor_factor=2.0)


def reader_of(handle: StudyHandle) -> StudyReader:
    atomic_write(handle.layout.study_yaml, study_file(handle.loaded))
    return load_study(handle.layout.study_dir)


def test_forecast_is_kept_where_the_study_is(tmp_path: Path) -> None:
    trial = trial_cost()
    found = forecast_of(loaded_study(), Trials((trial,), trial, trial), Cost(), n_workers=1)
    layout = StudyLayout(tmp_path, "here", "hunt")
    write_forecast(layout, found)
    assert list(tmp_path.iterdir()) == []
    assert read_forecast(layout) is None
    layout.study_dir.mkdir(parents=True)
    write_forecast(layout, found)
    assert read_forecast(layout) == as_stored(found) == StoredForecast(epoch_s=9, end_s=25 - 18, processor_factor=0.5)


def test_damaged_forecast_is_named(tmp_path: Path) -> None:
    layout = StudyLayout(tmp_path, "here", "hunt")
    atomic_write(layout.forecast_json, '{"format": 1, "epoch_s": -1}')
    with pytest.raises(StoreError, match=r"forecast\.json.*delete it"):
        read_forecast(layout)


def test_a_new_study_has_only_the_dry_run_to_go_by(open_tiny: Open) -> None:
    study = reader_of(open_tiny(n_trials=4))
    nothing = outlook(study)
    assert (nothing.epochs_left, nothing.epoch_s, nothing.seconds_left, nothing.correction) == (8, None, None, None)
    found = outlook(study, n_workers=2, foretold=FORETOLD)
    assert found.seconds_left == (8 * 0.5 + 4 * 3.0) / 2
    assert (found.worker_seconds, found.processor_seconds, found.correction) == (0, 0, None)


def test_finished_trials_correct_the_forecast(open_tiny: Open) -> None:
    """Trials are played with epochs of one second; between their start and their end lies next to nothing."""
    handle = open_tiny(n_trials=4)
    for _ in range(2):
        play_leg(handle, {"val/accuracy": 0.5})
    found = outlook(reader_of(handle), foretold=FORETOLD)
    assert found.correction == pytest.approx(1.0 / 0.5)
    assert (found.epochs_left, found.n_workers, found.epoch_s) == (4, 1, 1.0)
    assert found.end_s == 0  # as measured
    assert found.seconds_left == pytest.approx(4.0)
    assert found.worker_seconds == pytest.approx(4.0)
    assert found.processor_seconds == pytest.approx(2.0 * 4.0)


def test_halving_leaves_the_epochs_of_its_rungs(open_tiny: Open) -> None:
    handle = open_tiny(n_trials=4, **HALVING)
    for accuracy in (0.5, 0.75):
        play_leg(handle, {"val/accuracy": accuracy})
    study = reader_of(handle)
    assert [bracket.n_trials for bracket in with_brackets(study).brackets] == [4]
    found = outlook(study, foretold=FORETOLD)
    assert found.epochs_left == 2 + 2  # two trials to the rung, and two from there to the end
    assert found.seconds_left == pytest.approx(4 * 1.0 + 2 * 3.0)  # a pause tells nothing of what follows the epochs


def test_last_dry_run_is_taken_where_none_is_given(open_tiny: Open) -> None:
    handle = open_tiny(n_trials=1)
    study, trial = reader_of(handle), trial_cost(recorded_s=4.0)
    write_forecast(handle.layout, forecast_of(handle.loaded, Trials((trial,), trial, trial), Cost(), n_workers=1))
    assert outlook(study).epoch_s == 4.0
