"""Which trial leads while none is complete, and how a halving study reads to its user."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from attnsearch.errors import StoreError
from attnsearch.files import atomic_write
from attnsearch.results.halving import Leader, brackets_in, leader_lines, leader_of
from attnsearch.results.reader import load_results, load_study
from attnsearch.results.study import StudyReader
from attnsearch.search.handle import StudyHandle
from attnsearch.search.plan import study_file
from tests.search.conftest import backend, empty_database, make_database, open_tiny
from tests.search.studies import HALVING, play_leg

__all__ = ["backend", "empty_database", "make_database", "open_tiny"]

Open = Callable[..., StudyHandle]


def reader_of(handle: StudyHandle) -> StudyReader:
    atomic_write(handle.layout.study_yaml, study_file(handle.loaded))
    return load_study(handle.layout.study_dir)


def test_best_unfinished_trial_leads_until_one_is_complete(open_tiny: Open) -> None:
    handle = open_tiny(**HALVING)
    assert leader_lines(reader_of(handle)) == []
    for accuracy in (0.5, 0.75):
        play_leg(handle, {"val/accuracy": accuracy})
    study = reader_of(handle)
    assert leader_of(study) == Leader(1, "val/accuracy", 0.75, 1, 2, "at epoch 1, rung 1, place 1 of 2")
    assert leader_lines(study) == [
        "trial 1 with val/accuracy 0.75 after 1 of 2 epochs, paused at epoch 1, rung 1, place 1 of 2; nothing "
        "is published before a trial is complete, and the same command continues the search"
    ]
    for accuracy in (0.25, 0.8):
        play_leg(handle, {"val/accuracy": accuracy})
    assert leader_of(reader_of(handle)) is None


def test_smallest_value_leads_where_less_is_better(open_tiny: Open) -> None:
    handle = open_tiny(objectives={"val/loss": "minimize"}, monitor="val/loss", **HALVING)
    for loss in (0.5, 0.75):
        play_leg(handle, {"val/loss": loss})
    leader = leader_of(reader_of(handle))
    assert leader is not None
    assert leader.trial == 0


def test_reader_tells_paused_trials_apart(open_tiny: Open) -> None:
    handle = open_tiny(n_trials=8, **HALVING)
    for accuracy in (0.5, 0.75, 0.25, 0.8):
        play_leg(handle, {"val/accuracy": accuracy})
    study = reader_of(handle)
    table = study.trials
    assert list(table["state"]) == ["paused", "complete", "pruned"]
    assert table.loc[0, ["val/accuracy", "rung", "place", "n_at_rung"]].tolist() == [0.5, 1, 2, 3]
    assert study.summary().states == {"paused": 1, "complete": 1, "pruned": 1}
    assert study.progress().n_paused == 1
    assert study.trial(0).state == "paused"
    assert study.trial(0).values == {"val/accuracy": 0.5}
    assert [str(one) for one in brackets_in(study)] == [
        "bracket 1: 3 of 4 started; rung 1 at epoch 1: 3 of 4 in, 1 of 2 continue; 1 of 2 complete",
        "bracket 2: 0 of 4 started; rung 1 at epoch 1: 0 of 4 in, 0 of 2 continue; 0 of 2 complete",
    ]
    assert load_results(handle.layout.root).studies.loc[("here", "hunt"), "n_paused"] == 1


def test_study_without_halving_has_no_brackets(open_tiny: Open) -> None:
    assert brackets_in(reader_of(open_tiny())) == []


def test_damaged_bracket_is_an_error_of_the_store(open_tiny: Open) -> None:
    handle = open_tiny(**HALVING)
    play_leg(handle, {"val/accuracy": 0.5})
    handle.study.set_user_attr("brackets", [{"n_trials": 4}])
    study = reader_of(handle)
    assert study.summary().state == "unreadable"
    with pytest.raises(StoreError, match=r"hypSearch\.db cannot be read"):
        _ = brackets_in(study)
